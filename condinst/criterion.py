"""A batch's losses: assignment, the terms of the papers and their alternatives, their normalisation."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from condinst import losses
from condinst.boxinst import pairwise, projection
from condinst.config import Part
from condinst.mask import conditional_masks
from condinst.model import CondInst, DenseOutput
from condinst.targets import Assignment, Target, assign, centerness


class BoxInstConfig(Part):
    """Learning masks from boxes (BoxInst)."""

    kernel: Literal[3, 5] = 3
    """Neighbourhood compared with each pixel."""
    dilation: Annotated[int, Field(ge=1, le=8)] = 2
    """Its dilation, stride-4 pixels."""
    similarity: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Neighbours at least so similar in colour are asked to agree."""
    warmup_steps: Annotated[int, Field(ge=1)] = 10_000
    """Steps over which the pairwise term grows to its full weight."""


class LossConfig(Part):
    """Which losses, and how they are normalised."""

    classes: Literal["focal", "cross_entropy"] = "focal"
    """Class loss, a sigmoid a class."""
    class_normalizer: Literal["positives", "moving_positives"] = "positives"
    """Divide the class loss by the batch's positives, or by their moving average (0.9, from 100)."""
    box: Literal["giou", "smooth_l1"] = "giou"
    """Box loss of positive locations, weighted by the centre-ness target."""
    quality: Literal["centerness", "iou"] = "centerness"
    """What the quality branch learns; with `iou` the box loss is unweighted."""
    mask: Literal["dice", "bce", "dice_bce", "boxinst"] = "dice"
    """Mask loss; `boxinst` needs boxes only."""
    semantic: bool = False
    """Train the semantic head, which the model's config must have."""
    center_radius: Annotated[float, Field(gt=0)] = 1.5
    """Half the window of positive locations around an instance's centre, strides."""
    max_mask_instances: Annotated[int, Field(ge=1)] = 500
    """Positives that enter the mask loss, chosen at random; used when `mask_top_k` is 0."""
    mask_top_k: Annotated[int, Field(ge=0)] = 0
    """Best positives an image that enter the mask loss, spread over its instances; 0 for the other rule."""
    boxinst: BoxInstConfig = BoxInstConfig()
    """How masks are learned from boxes; used by `mask: boxinst`."""


class Criterion(nn.Module):
    """Losses of one model; holds the two counters that some of them need."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("moving_positives", torch.tensor(100.0))
        self.step: Tensor
        self.moving_positives: Tensor

    def forward(
        self,
        model: CondInst,
        dense: DenseOutput,
        targets: list[Target],
        similarity: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Scalar losses by name; training minimises their sum.

        `similarity`: `colour_similarity` of each image, only for `mask: boxinst`.
        """
        self.step += 1
        shapes = [(x.shape[2], x.shape[3]) for x in dense.head.logits]
        assigned = assign(targets, shapes, self.config.center_radius)
        positive = assigned.select(assigned.labels >= 0)
        terms = self._class_loss(dense, assigned, len(positive.labels))
        distances = _at(dense.head.distances, positive)
        terms |= self._box_losses(distances, _at(dense.head.quality, positive).squeeze(1), positive)
        chosen = positive.select(self._mask_instances(dense, positive))
        terms |= self._mask_loss(model, dense, targets, chosen, similarity)
        if self.config.semantic:
            terms["semantic"] = self._semantic_loss(dense.semantic, targets)
        return terms

    def _class_loss(self, dense: DenseOutput, assigned: Assignment, positives: int) -> dict[str, Tensor]:
        logits = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in dense.head.logits])
        classes = torch.arange(logits.shape[1], device=logits.device)
        target = (assigned.labels[:, None] == classes).to(logits.dtype)
        loss = losses.focal if self.config.classes == "focal" else losses.cross_entropy
        if self.config.class_normalizer == "positives":
            return {"class": loss(logits, target) / max(positives, 1)}
        self.moving_positives.mul_(0.9).add_(0.1 * max(positives, 1))
        return {"class": loss(logits, target) / self.moving_positives}

    def _box_losses(self, distances: Tensor, quality: Tensor, positive: Assignment) -> dict[str, Tensor]:
        count = max(len(positive.labels), 1)
        iou, giou = losses.box_overlaps(distances, positive.distances)
        box = 1 - giou if self.config.box == "giou" else losses.smooth_l1(distances, positive.distances)
        if self.config.quality == "iou":
            target = iou.detach()
            return {
                "box": box.sum() / count,
                "quality": F.binary_cross_entropy_with_logits(quality, target, reduction="sum") / count,
            }
        target = centerness(positive.distances)
        return {
            "box": (box * target).sum() / target.sum().clamp(min=1e-6),
            "quality": F.binary_cross_entropy_with_logits(quality, target, reduction="sum") / count,
        }

    def _mask_instances(self, dense: DenseOutput, positive: Assignment) -> Tensor:
        """Indices of the positives whose masks are learned in this step."""
        count = len(positive.labels)
        if self.config.mask_top_k == 0:
            order = torch.randperm(count, device=positive.labels.device)
            return (
                order[: self.config.max_mask_instances]
                if count > self.config.max_mask_instances
                else order.sort().values
            )
        classes = _at(dense.head.logits, positive).detach().sigmoid().amax(1)
        score = classes * _at(dense.head.quality, positive).detach().squeeze(1).sigmoid()
        chosen: list[Tensor] = []
        for image in positive.image.unique():
            here = positive.image == image
            instances = positive.instance[here].unique()
            each = max(self.config.mask_top_k // len(instances), 1)
            for instance in instances:
                own = (here & (positive.instance == instance)).nonzero().squeeze(1)
                if len(own) > each:
                    own = own[score[own].topk(each).indices]
                chosen.append(own)
        return torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.int64, device=score.device)

    def _mask_loss(
        self,
        model: CondInst,
        dense: DenseOutput,
        targets: list[Target],
        chosen: Assignment,
        similarity: list[Tensor] | None,
    ) -> dict[str, Tensor]:
        if len(chosen.labels) == 0:
            zero = dense.mask_features.sum() * 0 + sum(t.sum() * 0 for t in dense.head.tower)
            names = ("projection", "pairwise") if self.config.mask == "boxinst" else ("mask",)
            return dict.fromkeys(names, zero)
        chosen, logits = _instance_logits(model, dense, chosen)
        truth = torch.cat([t.masks for t in targets])[chosen.instance].float()
        if self.config.mask == "boxinst":
            if similarity is None:
                raise ValueError("the boxinst loss needs each image's colour similarity")
            return self._boxinst_losses(logits, truth, torch.stack(similarity)[chosen.image])
        loss = logits.new_zeros(len(logits))
        if self.config.mask in ("dice", "dice_bce"):
            loss = loss + losses.dice(logits.sigmoid(), truth)
        if self.config.mask in ("bce", "dice_bce"):
            loss = loss + losses.mask_cross_entropy(logits, truth)
        return {"mask": loss.mean()}

    def _boxinst_losses(self, logits: Tensor, boxes: Tensor, similarity: Tensor) -> dict[str, Tensor]:
        config = self.config.boxinst
        weights = (similarity >= config.similarity).float() * boxes[:, None]
        agreement = (pairwise(logits, config.kernel, config.dilation) * weights).sum() / weights.sum().clamp(
            min=1
        )
        warmup = min(self.step.item() / config.warmup_steps, 1.0)
        return {"projection": projection(logits.sigmoid(), boxes), "pairwise": agreement * warmup}

    def _semantic_loss(self, logits: Tensor | None, targets: list[Target]) -> Tensor:
        if logits is None:
            raise ValueError("the semantic loss needs a model with mask.semantic, in training mode")
        maps = [t.semantic for t in targets]
        if any(m is None for m in maps):
            raise ValueError("the semantic loss needs masks: a target was made of boxes only")
        truth = torch.stack([m for m in maps if m is not None])
        classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None] + 1
        one_hot = (truth[:, None] == classes).to(logits.dtype)
        return losses.focal(logits, one_hot) / one_hot.sum().clamp(min=1)


def _at(maps: list[Tensor], chosen: Assignment) -> Tensor:
    """(n, channels) of five (N, channels, h, w) maps at chosen locations, in their order."""
    out = maps[0].new_empty(len(chosen.labels), maps[0].shape[1])
    for level, x in enumerate(maps):
        own = (chosen.level == level).nonzero().squeeze(1)
        width = x.shape[3]
        index = chosen.index[own]
        values = x.permute(0, 2, 3, 1)[chosen.image[own], index // width, index % width]
        out = out.index_copy(0, own, values)
    return out


def _instance_logits(model: CondInst, dense: DenseOutput, chosen: Assignment) -> tuple[Assignment, Tensor]:
    """The chosen locations image by image, and their (n, H / 4, W / 4) mask logits."""
    chosen = chosen.select(torch.sort(chosen.image, stable=True).indices)
    parameters = model.head.generate(dense.head.tower, chosen.image, chosen.level, chosen.index)
    scales = parameters.new_tensor(model.config.mask.sizes_of_interest)[chosen.level]
    parts = []
    for image in range(len(dense.mask_features)):
        own = chosen.image == image
        if own.any():
            features = dense.mask_features[image]
            parts.append(
                conditional_masks(
                    features, parameters[own], chosen.positions[own], scales[own], model.config.mask
                )
            )
    return chosen, torch.cat(parts)
