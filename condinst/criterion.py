"""A batch's losses: assignment, the terms of the papers and their alternatives, their normalisation.

A step's losses are sums over its instances and locations, divided by counts over the *whole* step: all
processes and all parts of an accumulated batch. So they do not depend on how the batch was spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from condinst import losses, parallel
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


@dataclass(frozen=True)
class Aim:
    """What the locations of a batch are to learn; known before the network has seen it."""

    assigned: Assignment
    positive: Assignment
    """Those of them that learn an instance."""
    keys: Tensor
    """(positives,) random numbers; the smallest enter the mask loss."""
    counts: Tensor
    """(4,) float64: positives, their centre-ness, masks, semantic pixels."""


@dataclass(frozen=True)
class Totals:
    """What a step's losses are divided by: counts over all processes and parts."""

    positives: float
    centerness: float
    masks: float
    semantic: float
    cutoff: float
    """Largest key that enters the mask loss."""
    parts: int
    """Parts of the step's batch in each process."""


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
        aim: Aim | None = None,
        totals: Totals | None = None,
    ) -> dict[str, Tensor]:
        """Scalar losses by name; training minimises their sum over the processes and parts of a step.

        `similarity`: `colour_similarity` of each image, only for `mask: boxinst`. `aim` and `totals`: of a
        step with more than this batch; by default this batch is the step.
        """
        if aim is None or totals is None:
            aim = self.aim(targets, [(x.shape[2], x.shape[3]) for x in dense.head.logits])
            totals = self.totals([aim])
        positive = aim.positive
        terms = self._class_loss(dense, aim.assigned, totals)
        distances = _at(dense.head.distances, positive)
        terms |= self._box_losses(distances, _at(dense.head.quality, positive).squeeze(1), positive, totals)
        chosen = positive.select(self._mask_instances(dense, aim, totals))
        terms |= self._mask_loss(model, dense, targets, chosen, similarity, totals)
        if self.config.semantic:
            terms["semantic"] = self._semantic_loss(dense.semantic, targets, totals)
        return terms

    @torch.no_grad()
    def aim(
        self, targets: list[Target], shapes: list[tuple[int, int]], draws: Sequence[int] | None = None
    ) -> Aim:
        """What the locations of levels of these (h, w) are to learn of the targets.

        `draws` seeds what is chosen at random, a number an image; by default PyTorch's generator does.
        """
        assigned = assign(targets, shapes, self.config.center_radius)
        positive = assigned.select(assigned.labels >= 0)
        draws = draws if draws is not None else torch.randint(2**62, (len(targets),)).tolist()
        keys = torch.zeros(len(positive.labels), dtype=torch.float64, device=positive.labels.device)
        for image, draw in enumerate(draws):
            own = positive.image == image
            random = torch.Generator().manual_seed(draw)
            keys[own] = torch.rand(int(own.sum()), generator=random, dtype=torch.float64).to(keys.device)
        counts = (
            float(len(keys)),
            float(centerness(positive.distances).sum()),
            float(_most_masks(positive, self.config.mask_top_k)),
            float(sum(int((t.semantic > 0).sum()) for t in targets if t.semantic is not None)),
        )
        return Aim(assigned, positive, keys, torch.tensor(counts, dtype=torch.float64, device=keys.device))

    @torch.no_grad()
    def totals(self, aims: Sequence[Aim]) -> Totals:
        """Of a step whose parts in this process have these aims; every process must ask, once a step."""
        positives, weight, masks, semantic = parallel.total(sum(a.counts for a in aims)).tolist()  # type: ignore[arg-type]
        cutoff = 1.0
        if self.config.mask_top_k == 0 and positives > self.config.max_mask_instances:
            keys = parallel.gather(torch.cat([a.keys for a in aims]))
            cutoff = float(keys.kthvalue(self.config.max_mask_instances).values)
            masks = float(self.config.max_mask_instances)
        self.step += 1
        self.moving_positives.mul_(0.9).add_(0.1 * max(positives, 1.0))
        return Totals(max(positives, 1.0), max(weight, 1e-6), max(masks, 1.0), semantic, cutoff, len(aims))

    def _class_loss(self, dense: DenseOutput, assigned: Assignment, totals: Totals) -> dict[str, Tensor]:
        logits = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in dense.head.logits])
        classes = torch.arange(logits.shape[1], device=logits.device)
        target = (assigned.labels[:, None] == classes).to(logits.dtype)
        loss = losses.focal if self.config.classes == "focal" else losses.cross_entropy
        moving = self.config.class_normalizer == "moving_positives"
        return {"class": loss(logits, target) / (self.moving_positives if moving else totals.positives)}

    def _box_losses(
        self, distances: Tensor, quality: Tensor, positive: Assignment, totals: Totals
    ) -> dict[str, Tensor]:
        iou, giou = losses.box_overlaps(distances, positive.distances)
        box = 1 - giou if self.config.box == "giou" else losses.smooth_l1(distances, positive.distances)
        if self.config.quality == "iou":
            target, box = iou.detach(), box.sum() / totals.positives
        else:
            target = centerness(positive.distances)
            box = (box * target).sum() / totals.centerness
        own = F.binary_cross_entropy_with_logits(quality, target, reduction="sum") / totals.positives
        return {"box": box, "quality": own}

    def _mask_instances(self, dense: DenseOutput, aim: Aim, totals: Totals) -> Tensor:
        """Indices of the positives whose masks are learned in this step."""
        if self.config.mask_top_k == 0:
            return (aim.keys <= totals.cutoff).nonzero().squeeze(1)
        positive = aim.positive
        classes = _at(dense.head.logits, positive).detach().sigmoid().amax(1)
        score = classes * _at(dense.head.quality, positive).detach().squeeze(1).sigmoid()
        chosen: list[Tensor] = []
        for own, most in _by_instance(positive, self.config.mask_top_k):
            chosen.append(own[score[own].topk(most).indices] if len(own) > most else own)
        return torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.int64, device=score.device)

    def _mask_loss(
        self,
        model: CondInst,
        dense: DenseOutput,
        targets: list[Target],
        chosen: Assignment,
        similarity: list[Tensor] | None,
        totals: Totals,
    ) -> dict[str, Tensor]:
        if len(chosen.labels) == 0:
            # Zero, but of everything: in each process, each weight must have a gradient.
            used = [dense.mask_features, *dense.head.tower, *model.head.controller.parameters()]
            zero = torch.stack([x.float().sum() * 0 for x in used]).sum()
            if self.config.mask == "boxinst":
                parallel.total(zero)
                return {"projection": zero, "pairwise": zero}
            return {"mask": zero}
        chosen, logits = _instance_logits(model, dense, chosen)
        truth = torch.cat([t.masks for t in targets])[chosen.instance].float()
        if self.config.mask == "boxinst":
            if similarity is None:
                raise ValueError("the boxinst loss needs each image's colour similarity")
            return self._boxinst_losses(logits, truth, torch.stack(similarity)[chosen.image], totals)
        loss = logits.new_zeros(len(logits))
        if self.config.mask in ("dice", "dice_bce"):
            loss = loss + losses.dice(logits.sigmoid(), truth)
        if self.config.mask in ("bce", "dice_bce"):
            loss = loss + losses.mask_cross_entropy(logits, truth)
        return {"mask": loss.sum() / totals.masks}

    def _boxinst_losses(
        self, logits: Tensor, boxes: Tensor, similarity: Tensor, totals: Totals
    ) -> dict[str, Tensor]:
        """The pairwise term's weight is known only now, so a part is divided by its own, over processes."""
        config = self.config.boxinst
        weights = (similarity >= config.similarity).float() * boxes[:, None]
        weight = parallel.total(weights.sum()).clamp(min=1) * totals.parts
        agreement = (pairwise(logits, config.kernel, config.dilation) * weights).sum() / weight
        warmup = min(self.step.item() / config.warmup_steps, 1.0)
        projected = projection(logits.sigmoid(), boxes).sum() / totals.masks
        return {"projection": projected, "pairwise": agreement * warmup}

    def _semantic_loss(self, logits: Tensor | None, targets: list[Target], totals: Totals) -> Tensor:
        if logits is None:
            raise ValueError("the semantic loss needs a model with mask.semantic, in training mode")
        maps = [t.semantic for t in targets]
        if any(m is None for m in maps):
            raise ValueError("the semantic loss needs masks: a target was made of boxes only")
        truth = torch.stack([m for m in maps if m is not None])
        classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None] + 1
        one_hot = (truth[:, None] == classes).to(logits.dtype)
        return losses.focal(logits, one_hot) / max(totals.semantic, 1.0)


def _by_instance(positive: Assignment, top_k: int) -> Iterator[tuple[Tensor, int]]:
    """Of each instance its positives, and how many of them may enter the mask loss: `top_k` an image."""
    for image in positive.image.unique():
        here = positive.image == image
        instances = positive.instance[here].unique()
        for instance in instances:
            own = (here & (positive.instance == instance)).nonzero().squeeze(1)
            yield own, max(top_k // len(instances), 1)


def _most_masks(positive: Assignment, top_k: int) -> int:
    """Positives that would enter the mask loss, were there no other limit."""
    if top_k == 0:
        return len(positive.labels)
    return sum(min(len(own), most) for own, most in _by_instance(positive, top_k))


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
    counts = torch.bincount(chosen.image, minlength=len(dense.mask_features)).tolist()
    logits = conditional_masks(
        dense.mask_features, counts, parameters, chosen.positions, scales, model.config.mask
    )
    return chosen, logits
