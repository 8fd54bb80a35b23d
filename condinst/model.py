"""CondInst as a module: what training runs, and `predict` from images to instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from condinst.backbone import ConvNorm, ResNet
from condinst.config import DetectConfig, ModelConfig, Precision
from condinst.detect import Detections, clip_boxes, detect
from condinst.fpn import FeaturePyramid
from condinst.head import Head, HeadOutput
from condinst.mask import MASK_STRIDE, MaskBranch, conditional_masks
from condinst.masks import RleMasks, full_size_masks
from condinst.preprocess import Prepared, prepare, to_batch

_MASK_CHUNK_PIXELS = 32_000_000


@dataclass
class Instances:
    """n instances of one image, by falling score; ties by (level, location, class)."""

    boxes: NDArray[np.float32]
    """(n, 4) x1, y1, x2, y2 in image pixels, clipped to the image."""
    scores: NDArray[np.float32]
    """(n,)."""
    classes: NDArray[np.int64]
    """(n,) index into the model's classes."""
    masks: RleMasks
    """n crop-local masks at the image's own resolution."""

    def __len__(self) -> int:
        return len(self.scores)


@dataclass
class DenseOutput:
    """Everything the convolutions say of a batch."""

    head: HeadOutput
    """Predictions at every location."""
    mask_features: Tensor
    """(N, features, H / 8, W / 8) float32."""
    semantic: Tensor | None = None
    """(N, classes, H / 8, W / 8) float32 logits, in training and only if the model has that head."""


class CondInst(nn.Module):
    """Instance segmentation with conditional convolutions (Tian et al., ECCV 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet(config.backbone)
        self.fpn = FeaturePyramid(config.backbone.out_channels[1:], config.fpn.channels)
        self.head = Head(config.head, config.fpn.channels, len(config.classes), config.mask.num_parameters)
        self.mask_branch = MaskBranch(config.mask, config.fpn.channels, len(config.classes))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.scales.device

    def dense(self, x: Tensor) -> DenseOutput:
        """Convolutions of an (N, 3, H, W) normalised batch, H and W multiples of 32."""
        pyramid = self.fpn(self.backbone(x))
        wanted = self.training and self.config.mask.semantic
        semantic = self.mask_branch.semantic_map(pyramid[0]) if wanted else None
        return DenseOutput(self.head(pyramid), self.mask_branch(pyramid), semantic)

    def forward(self, x: Tensor) -> DenseOutput:
        """The same as `dense`."""
        return self.dense(x)

    def optimize_for_inference(self, precision: Precision = "float32") -> CondInst:
        """Fold the batch norms and cast to `precision`, channels last; there is no way back to training."""
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        self.to(dtype=getattr(torch, precision))
        for parameter in self.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self

    def prepare(self, image: NDArray[np.uint8], size: tuple[int, int] | None = None) -> Prepared:
        """Resize an (H, W, 3) uint8 RGB image for the network; safe to call from many threads.

        `size` as `condinst.preprocess.prepare` has it.
        """
        return prepare(image, self.config.input, size)

    @torch.inference_mode()
    def predict_prepared(
        self, batch: Sequence[Prepared], detect_config: DetectConfig | None = None
    ) -> list[Instances]:
        """Instances of images that share one padded size, an entry an image.

        Raises ValueError for settings by class that name one which the model does not have.
        """
        config = detect_config or self.config.detect
        x = to_batch(batch, self.config.input, self.device).to(self.head.logits.weight.dtype)
        dense = self.dense(x)
        names = self.config.classes
        found = [detect(dense.head, n, item.resized, config, names) for n, item in enumerate(batch)]
        parameters = self.generate(dense.head, found)
        return [
            self._finish(item, detections, p, features, config)
            for item, detections, p, features in zip(
                batch, found, parameters, dense.mask_features, strict=True
            )
        ]

    def predict(
        self, images: Sequence[NDArray[np.uint8]], detect_config: DetectConfig | None = None
    ) -> list[Instances]:
        """Instances of (H, W, 3) uint8 RGB images of any mix of sizes, an entry an image.

        Images whose padded network inputs have one size share a batch. Raises ValueError for an array of
        another shape or type.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        prepared = [self.prepare(image) for image in images]
        for number, item in enumerate(prepared):
            groups.setdefault(item.padded, []).append(number)
        results: dict[int, Instances] = {}
        for numbers in groups.values():
            batch = self.predict_prepared([prepared[n] for n in numbers], detect_config)
            results.update(zip(numbers, batch, strict=True))
        return [results[n] for n in range(len(prepared))]

    def generate(self, head: HeadOutput, found: Sequence[Detections]) -> list[Tensor]:
        """Each detection's mask network: a (n, num_parameters) float32 tensor an image."""
        counts = [len(d) for d in found]
        image = torch.arange(len(found), device=self.device).repeat_interleave(
            torch.tensor(counts, device=self.device)
        )
        level = torch.cat([d.level for d in found])
        index = torch.cat([d.index for d in found])
        return list(self.head.generate(head.tower, image, level, index).split(counts))

    def mask_logits(self, features: Tensor, parameters: Tensor, found: Detections) -> Tensor:
        """(n, H / 4, W / 4) mask logits of one image's detections."""
        sizes = features.new_tensor(self.config.mask.sizes_of_interest)
        return conditional_masks(features, parameters, found.positions, sizes[found.level], self.config.mask)

    def _finish(
        self, item: Prepared, found: Detections, parameters: Tensor, features: Tensor, config: DetectConfig
    ) -> Instances:
        boxes = _to_image(found.boxes, item)
        visible = (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, found, parameters = boxes[visible], found.select(visible), parameters[visible]
        pixels = item.padded[0] * item.padded[1] // MASK_STRIDE**2
        step = max(1, _MASK_CHUNK_PIXELS // pixels)
        masks = []
        for start in range(0, len(found), step):
            part = slice(start, start + step)
            logits = self.mask_logits(features, parameters[part], found.select(part))
            masks.append(full_size_masks(logits, item.resized, item.size, config.mask_threshold))
        return Instances(
            boxes.cpu().numpy(),
            found.scores.cpu().numpy(),
            found.classes.cpu().numpy(),
            RleMasks.concatenate(masks),
        )


def _to_image(boxes: Tensor, item: Prepared) -> Tensor:
    """Boxes in network input pixels as boxes in image pixels, clipped."""
    scale_y, scale_x = (full / net for full, net in zip(item.size, item.resized, strict=True))
    return clip_boxes(boxes * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y]), item.size)
