"""CondInst as a module: what training runs, and `predict` from images to instances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from condinst.backbone import ConvNorm, ResNet
from condinst.compiled import Compiled
from condinst.config import STRIDES, DetectConfig, ModelConfig, Precision
from condinst.detect import Detections, clip_boxes, detect, edges, per_image
from condinst.fpn import FeaturePyramid
from condinst.head import Head, HeadOutput
from condinst.instances import Instances, RleMasks
from condinst.mask import MASK_STRIDE, MaskBranch, conditional_masks
from condinst.masks import Kind, MaskChanges, Sizes, kind, mask_changes
from condinst.preprocess import Prepared, Stacked, prepare, to_batch
from condinst.transfer import Copies, constant, onto, rest, table

_MASK_CHUNK_PIXELS = 32_000_000


Later = Callable[[MaskChanges], Callable[[], RleMasks]]
"""Takes what is to be encoded; returns what gives it encoded, and may wait for that."""


def at_once(changes: MaskChanges) -> Callable[[], RleMasks]:
    """Encode here and now."""
    masks = changes.masks()
    return lambda: masks


@dataclass
class _Chunk:
    """Masks that were found together."""

    owners: Sequence[tuple[int, int]]
    """Images of the batch, each with how many of the masks are its own, in order."""
    pieces: Sequence[Callable[[], RleMasks]]


@dataclass
class Begun:
    """A batch with which the device has nothing more to do than what is under way."""

    _counts: Sequence[int]
    """Each image's detections."""
    _capped: Sequence[bool]
    _columns: Copies
    _chunks: Sequence[_Chunk]

    def instances(self) -> list[Instances]:
        """What the model says of each image; waits for the device, and may be called in any thread."""
        masks: list[list[RleMasks]] = [[] for _ in self._counts]
        for chunk in self._chunks:
            whole, first = RleMasks.concatenate(piece() for piece in chunk.pieces), 0
            for number, count in chunk.owners:
                masks[number].append(whole[first : first + count])
                first += count
        ends = np.cumsum(self._counts)[:-1]
        boxes, scores, classes = (np.split(column.numpy(), ends) for column in self._columns.tensors())
        own = map(RleMasks.concatenate, masks)
        return list(map(Instances, boxes, scores, classes, own, self._capped))


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
        self._compiled: Compiled[[Tensor, Tensor | None], DenseOutput] | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.scales.device

    def dense(self, x: Tensor, norms: Tensor | None = None) -> DenseOutput:
        """Convolutions of an (N, 3, H, W) normalised batch, H and W multiples of 32.

        `norms` are what `Head.forward` has them to be.
        """
        pyramid = self.fpn(self.backbone(x))
        wanted = self.training and self.config.mask.semantic
        semantic = self.mask_branch.semantic_map(pyramid[0]) if wanted else None
        return DenseOutput(self.head(pyramid, norms), self.mask_branch(pyramid), semantic)

    def forward(self, x: Tensor) -> DenseOutput:
        """The same as `dense`."""
        return self.dense(x)

    def optimize_for_inference(self, precision: Precision = "float32") -> CondInst:
        """Fold the batch norms and cast to `precision`, channels last; there is no way back to training."""
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        scales = self.head.scales.data
        self.to(dtype=getattr(torch, precision))
        self.head.scales.data = scales  # they multiply what is float32 again
        for parameter in self.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self

    def compile_dense(self) -> CondInst:
        """From now on compile `dense` in `begin`, once for each padded size, on the device that it is on now.

        A size takes seconds to a minute when it is first met. Raises CompileError where nothing compiles.
        """
        self._compiled = Compiled(self.dense, self.device)
        return self

    def prepare(self, image: NDArray[np.uint8], size: tuple[int, int] | None = None) -> Prepared:
        """Resize an (H, W, 3) uint8 RGB image for the network; safe to call from many threads.

        `size` as `condinst.preprocess.prepare` has it.
        """
        return prepare(image, self.config.input, size)

    def stacked(self, batch: Sequence[Prepared]) -> Stacked:
        """The same images, which share one padded size, as `begin` takes them soonest; in any thread."""
        return Stacked(batch, self.device)

    def predict_prepared(
        self, batch: Sequence[Prepared], detect_config: DetectConfig | None = None
    ) -> list[Instances]:
        """Instances of images that share one padded size, an entry an image.

        Raises ValueError for settings by class that name one which the model does not have.
        """
        return self.begin(batch, detect_config).instances()

    @torch.inference_mode()
    def begin(
        self,
        batch: Sequence[Prepared],
        detect_config: DetectConfig | None = None,
        later: Later = at_once,
    ) -> Begun:
        """What `predict_prepared` does on the model's device; the host's part is left to `Begun.instances`.

        `later` gets each piece of the masks as it is found and returns what gives its encoded masks, so that
        another thread may encode them meanwhile.
        """
        config = detect_config or self.config.detect
        x = to_batch(batch, self.config.input, self.device).to(self.head.logits.weight.dtype)
        dense = (self._compiled or self.dense)(x, self._norms(batch))
        rest(self.device)
        found = detect(dense.head, [item.resized for item in batch], config, self.config.classes)
        detected = per_image(found.image, len(batch))
        boxes = _to_image(found, batch)
        visible = (boxes[:, 2:] > boxes[:, :2]).all(1).nonzero().squeeze(1)
        boxes, found = boxes[visible], found.select(visible)
        detected, counts = torch.stack((detected, per_image(found.image, len(batch)))).tolist()
        capped = [number == config.max_instances for number in detected]
        columns = Copies(boxes, found.scores, found.classes)
        chunks = self._masks(dense, found, counts, batch, config.mask_threshold, later)
        return Begun(counts, capped, columns, chunks)

    @torch.inference_mode()
    def statistics(
        self, images: Sequence[Prepared], valid: Sequence[NDArray[np.bool_] | None]
    ) -> NDArray[np.float32]:
        """Means and variances of the head's norms over several images taken as one: `Prepared.norms`.

        `valid`: of each image which of its own (height, width) pixels hold data; None for all. Padding and
        what holds no data do not count. Returns (levels, 2 towers, convs, 2, groups).
        """
        pyramids, where = [], []
        for image, data in zip(images, valid, strict=True):
            x = to_batch([image], self.config.input, self.device).to(self.head.logits.weight.dtype)
            pyramids.append(self.fpn(self.backbone(x)))
            shapes = [(p.shape[2], p.shape[3]) for p in pyramids[-1]]
            where.append([torch.from_numpy(mask).to(self.device) for mask in _on_data(image, data, shapes)])
        found: NDArray[np.float32] = self.head.statistics(pyramids, where).cpu().numpy()
        return found

    def _norms(self, batch: Sequence[Prepared]) -> Tensor | None:
        given = [item.norms for item in batch if item.norms is not None]
        if given and len(given) != len(batch):
            raise ValueError("a batch must have statistics for all of its images, or for none")
        return onto(torch.from_numpy(np.stack(given)), self.device) if given else None

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

    def generate(self, head: HeadOutput, found: Detections) -> Tensor:
        """Each detection's mask network: (n, num_parameters) float32."""
        return self.head.generate(head.tower, found.image, found.level, found.index)

    def mask_logits(
        self, features: Tensor, counts: Sequence[int], parameters: Tensor, positions: Tensor, level: Tensor
    ) -> Tensor:
        """(n, H / 4, W / 4) mask logits of detections from their images' (N, features, h, w).

        `counts` of them are each image's; `positions` and `level` as `Detections` has them.
        """
        sizes = constant(tuple(map(float, self.config.mask.sizes_of_interest)), features.device)
        return conditional_masks(features, counts, parameters, positions, sizes[level], self.config.mask)

    def _masks(
        self,
        dense: DenseOutput,
        found: Detections,
        counts: Sequence[int],
        batch: Sequence[Prepared],
        threshold: float,
        later: Later,
    ) -> list[_Chunk]:
        """Masks of each image's `counts` detections, in chunks of bounded memory."""
        parameters, ends = self.generate(dense.head, found), np.cumsum(counts).tolist()
        pixels = batch[0].padded[0] * batch[0].padded[1] // MASK_STRIDE**2
        sizes: list[Sizes] = [(item.resized, item.size) for item in batch]
        alike: dict[Kind, list[tuple[int, range]]] = {}
        for number, count in enumerate(counts):
            own = number, range(ends[number] - count, ends[number])
            alike.setdefault(kind(sizes[number]), []).append(own)
        chunks = []
        for images in alike.values():
            for chunk in _chunks(images, max(1, _MASK_CHUNK_PIXELS // pixels)):
                rows = _rows([rows for _, rows in chunk], self.device)
                first, last, held = chunk[0][0], chunk[-1][0], {n: len(rows) for n, rows in chunk}
                logits = self.mask_logits(
                    dense.mask_features[first : last + 1],
                    [held.get(n, 0) for n in range(first, last + 1)],
                    parameters[rows],
                    found.positions[rows],
                    found.level[rows],
                )
                own_sizes = [(sizes[n], count) for n, count in held.items()]
                pieces = [later(piece) for piece in mask_changes(logits, own_sizes, threshold)]
                chunks.append(_Chunk(list(held.items()), pieces))
        return chunks


def _rows(parts: Sequence[range], device: torch.device) -> slice | Tensor:
    """Rows of several ranges, as they are selected soonest."""
    if all(one.stop == other.start for one, other in pairwise(parts)):
        return slice(parts[0].start, parts[-1].stop)
    return onto(torch.cat([torch.arange(part.start, part.stop) for part in parts]), device)


def _on_data(
    image: Prepared, valid: NDArray[np.bool_] | None, shapes: Sequence[tuple[int, int]]
) -> Iterator[NDArray[np.bool_]]:
    """Of each level, the locations that lie in the image, on a pixel that holds data."""
    for (height, width), stride in zip(shapes, STRIDES, strict=True):
        y, x = (np.arange(length) * stride + stride // 2 for length in (height, width))
        rows, columns = (
            np.minimum(at * full // net, full - 1)
            for at, full, net in zip((y, x), image.size, image.resized, strict=True)
        )
        inside = (y < image.resized[0])[:, None] & (x < image.resized[1])[None, :]
        yield inside if valid is None else inside & valid[np.ix_(rows, columns)]


def _chunks(images: Sequence[tuple[int, range]], most: int) -> Iterator[list[tuple[int, range]]]:
    """Images' rows in lists of at most `most` rows, in order; an image may be in several."""
    chunk: list[tuple[int, range]] = []
    room = most
    for number, rows in images:
        while rows:
            chunk.append((number, rows[:room]))
            rows, room = rows[room:], room - len(rows[:room])
            if not room:
                yield chunk
                chunk, room = [], most
    if chunk:
        yield chunk


def _to_image(found: Detections, batch: Sequence[Prepared]) -> Tensor:
    """(n, 4) boxes in network input pixels as boxes in their images' pixels, clipped."""
    scales = [[full / net for full, net in zip(item.size, item.resized, strict=True)] for item in batch]
    factors = table([[x, y, x, y] for y, x in scales], found.boxes.device)
    limits = edges(found.boxes, [item.size for item in batch])
    return clip_boxes(found.boxes * factors[found.image], limits[found.image])
