"""Losses, assignment and gradients against the reference's training fixtures (`PARITY_DIR`)."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from parity import FOLDER, sets, unpack

from condinst.boxinst import colour_similarity
from condinst.checkpoint import read_checkpoint
from condinst.convert import convert
from condinst.criterion import Criterion, LossConfig
from condinst.keys import our_key
from condinst.model import CondInst
from condinst.preprocess import Prepared, padded_size, to_batch
from condinst.targets import Target, assign, centerness

NAMES = {
    "loss_sem": "semantic",
    "loss_fcos_cls": "class",
    "loss_fcos_loc": "box",
    "loss_fcos_ctr": "quality",
    "loss_fcos_iou": "quality",
    "loss_mask": "mask",
    "loss_prj": "projection",
    "loss_pairwise": "pairwise",
}


def variants(name: str) -> list[str]:
    return sorted({k.split("/")[0] for k in np.load(name).files} - {"in"})


def all_variants() -> list:
    found = []
    for parameter in sets("*_train.npz"):
        if parameter.marks:
            return [pytest.param(None, None, marks=parameter.marks, id="none")]
        path = parameter.values[0]
        found += [pytest.param(path, v, id=f"{parameter.id}-{v}") for v in variants(path)]
    return found


class Step:
    """One training step of one variant, run through our model."""

    def __init__(self, path, variant: str) -> None:
        name = path.name.removesuffix("_train.npz")
        given = json.loads((FOLDER / f"{name}.json").read_text())["config"]
        self.variant, self.arrays = variant, np.load(path)
        self.boxes_only = bool(given["BOXINST"]["ENABLED"])
        self.bottom = int(given["BOXINST"]["BOTTOM_PIXELS_REMOVED"])
        self.model: CondInst = convert(read_checkpoint(FOLDER / f"{name}.pth").tensors).model.train()
        self.model.backbone.freeze(int(given["BACKBONE"]["FREEZE_AT"]))
        self.criterion = Criterion(self._config(given))
        if variant.startswith("b_"):
            start = variant.removeprefix("b_iter")
            self.criterion.step.fill_(int(start) if start.isdigit() else 20_000)
        self.prepared = [self._prepared(n) for n in range(2)]
        self.size = tuple(map(max, *(padded_size(p.resized) for p in self.prepared)))
        self.targets = [self._target(n) for n in range(2)]

    def _config(self, given: dict) -> LossConfig:
        top_k = given["CONDINST"]["TOPK_PROPOSALS_PER_IM"]
        if "topk" in self.variant:
            top_k = int(self.variant.split("topk")[1])
        without_masks = "empty" in self.variant
        return LossConfig(
            mask="boxinst" if self.boxes_only else "dice",
            quality="iou" if self.variant.endswith("_iou") else "centerness",
            class_normalizer="moving_positives" if "moving_fg" in self.variant else "positives",
            mask_top_k=max(0, top_k),
            semantic=given["CONDINST"]["MASK_BRANCH"]["SEMANTIC_LOSS_ON"] and not without_masks,
        )

    def _prepared(self, number: int) -> Prepared:
        rgb = np.ascontiguousarray(self.arrays[f"in/image{number}"][::-1].transpose(1, 2, 0))
        return Prepared(rgb, (rgb.shape[0], rgb.shape[1]))

    def _target(self, number: int) -> Target:
        boxes = torch.tensor(self.arrays[f"in/gt_boxes{number}"])
        classes = torch.tensor(self.arrays[f"in/gt_classes{number}"])
        if self.boxes_only:
            return Target.from_boxes(boxes, classes, self.size)
        masks = unpack(self.arrays[f"in/gt_masks_packed{number}"], self.arrays[f"in/gt_masks_shape{number}"])
        if "all_empty" in self.variant or ("one_empty" in self.variant and number == 1):
            boxes, classes, masks = boxes[:0], classes[:0], masks[:0]
        target = Target.from_crops([(0, 0, mask) for mask in masks], classes, self.size)
        return replace(target, boxes=boxes)  # theirs are a pixel smaller than the masks

    def _similarity(self, item: Prepared) -> torch.Tensor:
        rgb, valid = torch.zeros(3, *self.size), torch.zeros(*self.size, dtype=torch.bool)
        h, w = item.resized
        rgb[:, :h, :w] = torch.tensor(item.pixels).permute(2, 0, 1)
        valid[: h - self.bottom, :w] = True
        return colour_similarity(rgb, valid)

    def losses(self) -> dict[str, torch.Tensor]:
        x = torch.zeros(2, 3, *self.size)
        for number, item in enumerate(self.prepared):
            one = to_batch([item], self.model.config.input, torch.device("cpu"))
            x[number, :, : one.shape[2], : one.shape[3]] = one
        similarity = [self._similarity(p) for p in self.prepared] if self.boxes_only else None
        torch.manual_seed(0)
        return self.criterion(self.model, self.model(x), self.targets, similarity)

    def array(self, name: str) -> np.ndarray | None:
        key = f"{self.variant}/{name}"
        return self.arrays[key] if key in self.arrays.files else None


def near(ours: float, theirs: float) -> None:
    """Within 1e-3 of the value; of a value near zero, 1e-5 is asked, well above float32 noise."""
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(("path", "variant"), all_variants())
def test_parity_losses_and_gradients(path, variant: str) -> None:
    step = Step(path, variant)
    losses = step.losses()
    expected = {NAMES[n]: float(v) for n in NAMES if (v := step.array(n)) is not None}
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        near(float(losses[name].detach()), value)
    norms = step.array("grad_norms")
    sum(losses.values()).backward()
    if norms is not None:
        reference = {k: torch.tensor(v) for k, v in json.loads(str(norms)).items()}
        assert reference
        compare_gradients(step.model, reference)


def compare_gradients(model: CondInst, reference: dict[str, torch.Tensor]) -> None:
    """Gradient norms, by the reference's names."""
    ours = dict(model.named_parameters())
    for key, norm in reference.items():
        name = our_key(key)
        assert name is not None, key
        if name.startswith("head.scales."):
            gradient = ours["head.scales"].grad[int(name[-1])]
        else:
            gradient = ours[name].grad
        assert gradient is not None, key
        assert float(gradient.norm()) == pytest.approx(float(norm), rel=1e-3, abs=1e-4), key


@pytest.mark.parametrize("path", sets("*_train.npz"))
def test_parity_assignment_is_exact(path) -> None:
    checked = 0
    for variant in variants(path):
        step = Step(path, variant)
        if step.array("labels3") is None:
            continue
        strides = [8 * 2**level for level in range(5)]
        shapes = [(-(-step.size[0] // s), -(-step.size[1] // s)) for s in strides]
        assigned = assign(step.targets, shapes)
        background = len(step.model.config.classes)
        for level in range(5):
            own = assigned.select(assigned.level == level)
            labels = torch.where(own.labels < 0, background, own.labels).numpy()
            np.testing.assert_array_equal(labels, step.array(f"labels{level + 3}"))
            positive = labels < background
            theirs = step.array(f"gt_inds{level + 3}")[positive]
            np.testing.assert_array_equal(own.instance.numpy()[positive], theirs)
        positive = assigned.select(assigned.labels >= 0)
        assert len(positive.labels) == int(step.array("num_pos"))
        np.testing.assert_allclose(positive.distances, step.array("pos_reg_targets"), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            centerness(positive.distances), step.array("pos_ctr_targets"), rtol=1e-4, atol=1e-5
        )
        checked += 1
    assert checked
