"""Small operations against the reference's unit vectors (`PARITY_DIR`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import sets

from condinst import losses
from condinst.boxinst import colour_similarity, neighbours, pairwise, projection
from condinst.config import MaskConfig
from condinst.detect import nms
from condinst.head import locations
from condinst.mask import aligned_bilinear, conditional_masks, split_parameters
from condinst.targets import centerness


@pytest.fixture(scope="module", params=sets("ops_*.npz"))
def ops(request) -> dict[str, torch.Tensor]:
    arrays = np.load(request.param)
    return {k: torch.from_numpy(arrays[k]) for k in arrays}


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(ours.float(), theirs.float(), atol=tolerance, rtol=1e-4)


def test_parity_aligned_bilinear(ops) -> None:
    outputs = [k for k in ops if k.startswith("ab") and "_out_" in k]
    assert outputs
    for key in outputs:
        prefix, factor = key.split("_out_")
        close(aligned_bilinear(ops[f"{prefix}_in"], int(factor)), ops[key], 1e-6)


def test_parity_locations(ops) -> None:
    for key in [k for k in ops if k.startswith("loc_") and "_s" in k and "x" in k]:
        size, stride = key.removeprefix("loc_").split("_s")
        h, w = map(int, size.split("x"))
        close(locations(h, w, int(stride)), ops[key], 0)


def test_parity_neighbours(ops) -> None:
    for key in [k for k in ops if k.startswith("unf_k")]:
        kernel, dilation = (int(part[1:]) for part in key.removeprefix("unf_").split("_"))
        close(neighbours(ops["unf_in"], kernel, dilation), ops[key], 0)


def test_parity_mask_losses(ops) -> None:
    scores, truth = ops["mask_scores"][:, 0], ops["mask_gt"][:, 0]
    close(losses.dice(scores, truth), ops["dice"])
    close(projection(scores, truth).mean(), ops["project_term"])
    close(pairwise(ops["mask_logits"][:, 0]), ops["pairwise_3_2"])


def test_parity_box_losses(ops) -> None:
    iou, giou = losses.box_overlaps(ops["ltrb_pred"], ops["ltrb_target"])
    close(iou, ops["iou"])
    close(giou, ops["giou"])
    close((1 - giou).sum(), ops["loc_loss_giou_sum"])
    close(centerness(ops["ltrb_target"]), ops["ctr_targets"])


def test_parity_focal(ops) -> None:
    close(losses.focal(ops["focal_logits"], ops["focal_t"]), ops["focal_sum"], 1e-3)


def test_parity_conditional_head(ops) -> None:
    for prefix, features in (("dyn169", 8), ("dyn233", 16)):
        config = MaskConfig(features=features)
        parameters = ops[f"{prefix}_mask_head_params"]
        weights, biases = split_parameters(parameters, config)
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            close(weight.flatten(0, 1), ops[f"{prefix}_w{layer}"].flatten(1), 0)
            close(bias.flatten(), ops[f"{prefix}_b{layer}"], 0)
        scales = ops[f"{prefix}_soi"].float()[ops[f"{prefix}_fpn_levels"]]
        image = ops[f"{prefix}_im_inds"]
        order = image.argsort(stable=True)
        maps = ops[f"{prefix}_mask_feats"]
        counts = torch.bincount(image, minlength=len(maps)).tolist()
        logits = conditional_masks(
            maps, counts, parameters[order], ops[f"{prefix}_locations"][order], scales[order], config
        )
        close(logits, ops[f"{prefix}_logits"][order, 0], 5e-3)


def test_parity_colour_similarity(ops) -> None:
    bgr, mask = ops["lab_bgr"], ops["lab_mask"]
    valid = mask.repeat_interleave(4, 0).repeat_interleave(4, 1) > 0
    close(colour_similarity(bgr.flip(0), valid), ops["color_sim_3_2"][0], 1e-3)


def test_parity_nms(ops) -> None:
    for key in [k for k in ops if k.startswith("nms_keep_")]:
        order = ops["nms_scores"].argsort(descending=True, stable=True)
        kept = nms(ops["nms_boxes"][order], ops["nms_classes"][order], float(key.split("_")[-1]), 10**6)
        assert order[kept].tolist() == ops[key].tolist()
