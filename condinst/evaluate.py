"""COCO metrics of predictions: average precision and recall, of boxes and of masks."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from condinst.instances import Instances

Kind = Literal["bbox", "segm"]
SIZES = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class Curves:
    """Precision against recall, over all sizes."""

    ious: NDArray[np.float64]
    """(10,) IoU from which a detection counts as right: 0.50, 0.55, ..., 0.95."""
    recall: NDArray[np.float64]
    """(101,) recall 0, 0.01, ..., 1."""
    precision: NDArray[np.float64]
    """(10, 101, classes) best precision at that recall or more; nan for a class without truth."""


@dataclass(frozen=True)
class Metrics:
    """Of one kind, as pycocotools computes them; nan where there is no truth to measure against."""

    kind: Kind
    ap: float
    """Mean over classes and IoU 0.50:0.05:0.95."""
    ap50: float
    ap75: float
    ap_by_size: dict[str, float]
    """`small` (area under 32^2 pixels), `medium`, `large` (over 96^2)."""
    ap_by_class: dict[str, float]
    ap50_by_class: dict[str, float]
    ar: float
    """Average recall with at most `max_dets` detections of a class in an image."""
    ar_by_size: dict[str, float]
    ar_by_dets: dict[int, float]
    """Average recall with at most 1, 10 and `max_dets`."""
    max_dets: int
    curves: Curves = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """All but the curves as plain JSON values; None for nan."""
        figures = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "curves"}
        return {name: _plain(value) for name, value in figures.items()}


def load_truth(annotations: Mapping[str, Any]) -> COCO:
    """A pycocotools index of a COCO dictionary."""
    coco = COCO()
    coco.dataset = dict(annotations)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def to_results(
    image_id: int, instances: Instances, size: tuple[int, int], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """COCO results of one image of (height, width); `category_ids[c]` is the truth's id of class c."""
    results = []
    for n, counts in enumerate(instances.masks.frames(size)):
        x1, y1, x2, y2 = (float(v) for v in instances.boxes[n])
        results.append(
            {
                "image_id": image_id,
                "category_id": category_ids[int(instances.classes[n])],
                "score": float(instances.scores[n]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "segmentation": {"size": list(size), "counts": counts},
            }
        )
    return results


def evaluate(
    truth: COCO, results: Iterable[Mapping[str, Any]], kind: Kind = "segm", max_dets: int = 100
) -> Metrics:
    """Metrics of COCO results against the truth; every image of the truth counts.

    `max_dets` is the most detections of a class in an image that are looked at (COCO's is 100; dense images
    need more).
    """
    listed = [measured(r, kind) for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        predicted = truth.loadRes(listed) if listed else load_truth({**truth.dataset, "annotations": []})
        run = COCOeval(truth, predicted, kind)
        run.params.maxDets = sorted({1, 10, max_dets})
        run.evaluate()
        run.accumulate()
    at = run.params.maxDets.index(max_dets)
    return _metrics(run, truth, kind, max_dets, at)


def measured(result: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """A result whose area, by which it is sorted into sizes, is that of the kind measured."""
    drop = "bbox" if kind == "segm" else "segmentation"
    return {key: value for key, value in result.items() if key != drop}


def _metrics(run: COCOeval, truth: COCO, kind: Kind, max_dets: int, at: int) -> Metrics:
    precision: NDArray[np.float64] = run.eval["precision"]  # IoU, recall, class, size, max_dets
    recall: NDArray[np.float64] = run.eval["recall"]  # IoU, class, size, max_dets
    names = [truth.cats[category]["name"] for category in run.params.catIds]
    return Metrics(
        kind=kind,
        ap=_mean(precision[:, :, :, 0, at]),
        ap50=_mean(precision[0, :, :, 0, at]),
        ap75=_mean(precision[5, :, :, 0, at]),
        ap_by_size={s: _mean(precision[:, :, :, n, at]) for n, s in enumerate(SIZES) if n},
        ap_by_class={name: _mean(precision[:, :, n, 0, at]) for n, name in enumerate(names)},
        ap50_by_class={name: _mean(precision[0, :, n, 0, at]) for n, name in enumerate(names)},
        ar=_mean(recall[:, :, 0, at]),
        ar_by_size={s: _mean(recall[:, :, n, at]) for n, s in enumerate(SIZES) if n},
        ar_by_dets={dets: _mean(recall[:, :, 0, n]) for n, dets in enumerate(run.params.maxDets)},
        max_dets=max_dets,
        curves=_curves(run, precision[:, :, :, 0, at]),
    )


def _curves(run: COCOeval, precision: NDArray[np.float64]) -> Curves:
    return Curves(run.params.iouThrs, run.params.recThrs, np.where(precision > -1, precision, np.nan))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of those that are defined: pycocotools marks the others -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")
