"""The model against the reference's inputs, intermediates and outputs (`PARITY_DIR`)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from parity import FOLDER, sets, unpack

from condinst import rle
from condinst.checkpoint import read_checkpoint
from condinst.config import ModelConfig
from condinst.convert import convert
from condinst.detect import detect
from condinst.model import CondInst, DenseOutput
from condinst.preprocess import Prepared, to_batch


class Case:
    """One case of one set, run through our model."""

    def __init__(self, model: CondInst, arrays, name: str) -> None:
        self.model, self.name = model, name
        self.arrays = {k.removeprefix(f"{name}/"): arrays[k] for k in arrays if k.startswith(f"{name}/")}
        self.mmdetection = "ori_hw0" in self.arrays
        self.batch = [self._prepared(n) for n in range(sum(k.startswith("image") for k in self.arrays))]
        self.detect_config = model.config.detect
        if "params" in self.arrays:
            given = json.loads(str(self.arrays["params"]))
            self.detect_config = self.detect_config.model_copy(
                update={
                    "candidate_threshold": given["score_thresh"],
                    "pre_nms_top_k": given["pre_topk"],
                    "max_instances": given["post_topk"],
                }
            )
        self.x = to_batch(self.batch, model.config.input, torch.device("cpu"))

    def _prepared(self, number: int) -> Prepared:
        bgr = self.arrays[f"image{number}"]
        out = self.arrays[f"{'ori' if self.mmdetection else 'out'}_hw{number}"]
        return Prepared(np.ascontiguousarray(bgr[::-1].transpose(1, 2, 0)), (int(out[0]), int(out[1])))

    @torch.no_grad()
    def dense(self) -> DenseOutput:
        return self.model.dense(self.x)

    def final(self, number: int) -> dict[str, np.ndarray]:
        if self.mmdetection:
            names = {"boxes": "final_boxes", "scores": "final_scores", "classes": "final_labels"}
            packed, shape = "final_masks_packed", "final_masks_shape"
        else:
            names = {k: f"final_{k}{number}" for k in ("boxes", "scores", "classes")}
            packed, shape = f"final_masks_packed{number}", f"final_masks_shape{number}"
        out = {k: self.arrays[v] for k, v in names.items()}
        if len(out["scores"]):
            out["masks"] = unpack(self.arrays[packed], self.arrays[shape])
        return out


def load_model(path) -> CondInst:
    name = path.name.removesuffix("_infer.npz")
    return convert(read_checkpoint(FOLDER / f"{name}.pth").tensors).model.eval()


@pytest.fixture(scope="module", params=sets("*_infer.npz"))
def cases(request) -> list[Case]:
    model = load_model(request.param)
    arrays = np.load(request.param)
    return [Case(model, arrays, name) for name in sorted({k.split("/")[0] for k in arrays})]


def close(ours: torch.Tensor, theirs: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs, atol=tolerance, rtol=0)


def test_parity_network_input(cases: list[Case]) -> None:
    checked = [c for c in cases if "net_input" in c.arrays]
    for case in checked:
        close(case.x, case.arrays["net_input"], 1e-4)
    for case in cases:
        if "padded_hw" in case.arrays:
            assert tuple(case.x.shape[2:]) == tuple(case.arrays["padded_hw"])


def test_parity_features_and_logits(cases: list[Case]) -> None:
    checked = 0
    for case in cases:
        if "p3" not in case.arrays:
            continue
        model, dense = case.model, case.dense()
        with torch.no_grad():
            pyramid = model.fpn(model.backbone(case.x))
        for level in range(5):
            close(pyramid[level], case.arrays[f"p{level + 3}"], 1e-3)
            close(dense.head.logits[level], case.arrays[f"cls_logits{level + 3}"], 1e-3)
            close(dense.head.quality[level], case.arrays[f"ctrness{level + 3}"], 1e-3)
            close(model.head.controller(dense.head.tower[level]), case.arrays[f"top_feats{level + 3}"], 1e-3)
            if case.mmdetection:
                pixels = case.arrays[f"bbox_reg_px{level + 3}"] / (8 * 2**level)
                close(dense.head.distances[level], pixels, 1e-3)
            else:
                close(dense.head.distances[level], case.arrays[f"bbox_reg{level + 3}"], 1e-3)
        close(dense.mask_features, case.arrays["mask_feats"], 1e-3)
        checked += 1
    assert checked


def reference_keys(case: Case) -> list[tuple]:
    """(image, level, x, y, class) of the reference's detections, in its order."""
    a = case.arrays
    if case.mmdetection:
        levels = np.log2(a["det_strides"] / 8).round().astype(int)
        return [
            (0, int(lv), *map(float, xy), int(c))
            for lv, xy, c in zip(levels, a["det_points"], a["final_labels"], strict=True)
        ]
    return [
        (int(i), int(lv), *map(float, xy), int(c))
        for i, lv, xy, c in zip(
            a["det_im_inds"], a["det_fpn_levels"], a["det_locations"], a["det_classes"], strict=True
        )
    ]


def our_keys(image: int, found) -> list[tuple]:
    return [
        (image, int(lv), float(x), float(y), int(c))
        for lv, (x, y), c in zip(found.level, found.positions, found.classes, strict=True)
    ]


def test_parity_detections_and_mask_logits(cases: list[Case]) -> None:
    checked = 0
    for case in cases:
        if "det_mask_logits" not in case.arrays:
            continue
        dense = case.dense()
        theirs = {key: n for n, key in enumerate(reference_keys(case))}
        ours = set()
        everything = detect(dense.head, [item.resized for item in case.batch], case.detect_config)
        for image in range(len(case.batch)):
            found = everything.select(everything.image == image)
            with torch.no_grad():
                parameters = case.model.generate(dense.head, found)
                counts = [len(found) if n == image else 0 for n in range(len(case.batch))]
                logits = case.model.mask_logits(
                    dense.mask_features, counts, parameters, found.positions, found.level
                )
            for n, key in enumerate(our_keys(image, found)):
                at = theirs[key]
                ours.add(key)
                boxes = case.arrays["det_boxes_netscale" if case.mmdetection else "det_boxes"]
                scores = case.arrays["final_scores" if case.mmdetection else "det_scores"]
                close(parameters[n], case.arrays["det_params"][at], 1e-3)
                close(found.boxes[n], boxes[at], 1e-2)
                close(found.scores[n], scores[at], 1e-4)
                close(logits[n], case.arrays["det_mask_logits"][at].squeeze(), 5e-3)
        assert ours == set(theirs)
        checked += 1
    assert checked


def match(ours, theirs: dict[str, np.ndarray]) -> list[int]:
    """For each of our instances, the reference's of the same class and box."""
    order = []
    for n in range(len(ours)):
        same = np.flatnonzero(theirs["classes"] == ours.classes[n])
        distance = np.abs(theirs["boxes"][same] - ours.boxes[n]).max(1)
        distance += np.abs(theirs["scores"][same] - ours.scores[n]) * 100
        order.append(int(same[distance.argmin()]))
    return order


def test_parity_final_instances(cases: list[Case]) -> None:
    for case in cases:
        results = case.model.predict_prepared(case.batch, case.detect_config)
        for number, (item, ours) in enumerate(zip(case.batch, results, strict=True)):
            theirs = case.final(number)
            assert len(ours) == len(theirs["scores"])
            if len(ours) == 0:
                continue
            order = match(ours, theirs)
            assert sorted(order) == list(range(len(ours)))
            np.testing.assert_allclose(ours.boxes, theirs["boxes"][order], atol=1e-2)
            np.testing.assert_allclose(ours.scores, theirs["scores"][order], atol=1e-4)
            differing = sum(
                int((full_mask(ours, n, item.size) != theirs["masks"][at]).sum())
                for n, at in enumerate(order)
            )
            assert differing <= 2e-5 * theirs["masks"].size


def full_mask(instances, n: int, size: tuple[int, int]) -> np.ndarray:
    m = instances.masks
    counts = rle.embed(m.counts[n], int(m.x[n]), int(m.y[n]), int(m.height[n]), int(m.width[n]), *size)
    return rle.decode(counts, *size)


@pytest.mark.parametrize("keys", sets("*_keys_*.json"))
def test_parity_checkpoint_layout(keys) -> None:
    """Every checkpoint layout converts: shapes alone decide the architecture, no key is left over."""
    shapes = {k: shape for k, (shape, _) in json.loads(keys.read_text()).items()}
    converted = convert({k: torch.zeros(shape) for k, shape in shapes.items()})
    config: ModelConfig = converted.model.config
    assert len(config.classes) == 80
    assert config.backbone.depth == (101 if "R_101" in keys.name else 50)
    generated = next(shape[0] for k, shape in shapes.items() if k.endswith("controller.bias"))
    assert config.mask.num_parameters == generated
    assert converted.flavour == ("mmdetection" if keys.name.startswith("mmdet") else "adelaidet")
