"""CondInst beside a network that people use instead: torchvision's Mask R-CNN, R50 with FPN, image to RLE.

    python3 -m venv /tmp/peers
    /tmp/peers/bin/pip install torch==2.14.1 torchvision==0.29.1 pycocotools pydantic safetensors pillow
    PYTHONPATH=. /tmp/peers/bin/python -m tests.bench.peers

In an environment of its own, because the project's pinned torch has no torchvision that imports. Both run
there, one after the other, on the image and with the random weights of `tests.bench.model`. Mask R-CNN's own
are set so that it has least to do: its masks are full boxes, one class alone is a candidate, and of 1,000
proposals 100 instances are left, as ours are. In float32, then in the precision that is quickest here, Mask
R-CNN by autocast. Prints one JSON line; the ratio is of the seconds of an image in float32.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco

from condinst.config import DetectConfig, Precision
from condinst.precision import quickest_precision
from tests.bench.harness import measure_pair, report
from tests.bench.model import INSTANCES, THRESHOLD, diamonds, picture

CLASSES = 81


def mask_rcnn() -> Any:
    """Random weights, but where they decide how much there is to do."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, box_detections_per_img=INSTANCES
    ).eval()
    heads = model.roi_heads
    for layer in (
        heads.box_predictor.cls_score,
        heads.box_predictor.bbox_pred,
        heads.mask_predictor.mask_fcn_logits,
    ):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    heads.box_predictor.cls_score.bias.data[1] = 6.0
    torch.nn.init.ones_(heads.mask_predictor.mask_fcn_logits.bias)
    return model


def masks_of(model: Any, image: NDArray[np.uint8], precision: Precision) -> list[dict[str, Any]]:
    """An (H, W, 3) image's instances as COCO RLEs, as torchvision's own evaluation makes them."""
    quick = torch.autocast("cpu", dtype=getattr(torch, precision), enabled=precision != "float32")
    with torch.inference_mode(), quick:
        (found,) = model([torch.from_numpy(image).permute(2, 0, 1).float() / 255])
    frames = (found["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
    return [coco.encode(np.asfortranarray(frame)) for frame in frames]


def compared(precision: Precision, repeats: int) -> tuple[float, dict[str, object]]:
    """Both in turn; the ratio of their seconds, and all there is to say."""
    image, peer, ours = picture(), mask_rcnn(), diamonds().optimize_for_inference(precision)
    detect = DetectConfig(candidate_threshold=THRESHOLD, max_instances=INSTANCES)
    runs = partial(masks_of, peer, image, precision), partial(ours.predict, [image], detect)
    theirs, own = measure_pair(*runs, repeats)
    ratio = theirs.median / own.median
    return ratio, {
        "ratio": round(ratio, 2),
        "mask_rcnn": theirs.figures() | {"instances": len(runs[0]())},
        "condinst": own.figures() | {"instances": len(runs[1]()[0])},
        "parameters": {"mask_rcnn": _parameters(peer), "condinst": _parameters(ours)},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    ratio, plain = compared("float32", asked.repeats)
    figures: dict[str, object] = {"float32": plain}
    if (quickest := quickest_precision("cpu")) != "float32":
        figures[quickest] = compared(quickest, asked.repeats)[1]
    report("peers", ratio, figures)


def _parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    main()
