"""How sure a difference of AP is: both models measured on the same resampled images (paired bootstrap).

An image is the unit that is drawn: its detections and its truth come and go together. A resample is a weight
an image, how often it was drawn; the AP of equal weights is pycocotools' own.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from condinst.evaluate import Kind, load_truth, measured

Weights = NDArray[np.int64]


@dataclass(frozen=True)
class _Class:
    """A class's detections by falling score, and its truth."""

    image: NDArray[np.int64]
    """(n,) index of each detection's image."""
    right: NDArray[np.bool_]
    """(IoU thresholds, n) whether it matches an instance that counts."""
    wrong: NDArray[np.bool_]
    """(IoU thresholds, n) whether it matches none; neither: it is not counted."""
    truth: NDArray[np.int64]
    """(images,) instances that count."""


@dataclass(frozen=True)
class Matches:
    """Which detections of a model are right, image by image."""

    classes: list[_Class]
    """One a category of the truth, in order of their ids."""
    recall: NDArray[np.float64]
    images: int

    def ap(self, weights: Weights | None = None) -> float:
        """COCO AP with image i counted `weights[i]` times; nan where no drawn image has an instance."""
        weights = np.ones(self.images, np.int64) if weights is None else weights
        found = [self._class_ap(c, weights) for c in self.classes]
        defined = [value for value in found if value is not None]
        return float(np.mean(defined)) if defined else float("nan")

    def only(self, classes: Sequence[int]) -> Matches:
        """The same with some classes alone, by their index."""
        return Matches([self.classes[n] for n in classes], self.recall, self.images)

    @property
    def with_instances(self) -> int:
        """Images that have an instance which counts."""
        counts = sum((c.truth for c in self.classes), np.zeros(self.images, np.int64))
        return int(np.count_nonzero(counts))

    def _class_ap(self, c: _Class, weights: Weights) -> float | None:
        positives = int((c.truth * weights).sum())
        if positives == 0:
            return None
        own = weights[c.image]
        right, wrong = np.cumsum(c.right * own, axis=1), np.cumsum(c.wrong * own, axis=1)
        precision = right / (right + wrong + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        at = [np.searchsorted(r / positives, self.recall, side="left") for r in right]
        padded = np.pad(envelope, ((0, 0), (0, 1)))
        return float(np.mean([row[index] for row, index in zip(padded, at, strict=True)]))


@dataclass(frozen=True)
class Comparison:
    """The AP of two models on the same images, and what the difference may be."""

    new: float
    old: float
    low: float
    """The difference's interval: its lower end."""
    high: float
    confidence: float
    better: float
    """Share of resamples in which the new one is better."""
    resamples: int

    @property
    def difference(self) -> float:
        """AP of the new one less that of the old one."""
        return self.new - self.old


def match(truth: COCO, results: Iterable[Mapping[str, Any]], kind: Kind, max_dets: int = 100) -> Matches:
    """What COCO's evaluation matches, over all sizes."""
    listed = [measured(r, kind) for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        predicted = truth.loadRes(listed) if listed else load_truth({**truth.dataset, "annotations": []})
        run = COCOeval(truth, predicted, kind)
        run.params.maxDets = [max_dets]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
    images = len(run.params.imgIds)
    thresholds = len(run.params.iouThrs)
    classes = [
        _of_class(run.evalImgs[n * images : (n + 1) * images], images, thresholds)
        for n in range(len(run.params.catIds))
    ]
    return Matches(classes, run.params.recThrs, images)


def _of_class(found: list[dict[str, Any] | None], images: int, thresholds: int) -> _Class:
    truth = np.zeros(images, np.int64)
    scores, owners = [np.zeros(0)], [np.zeros(0, np.int64)]
    matched, ignored = [np.zeros((thresholds, 0))], [np.zeros((thresholds, 0), bool)]
    for image, own in enumerate(found):
        if own is not None:
            truth[image] = int((np.asarray(own["gtIgnore"]) == 0).sum())
            scores.append(np.asarray(own["dtScores"], np.float64))
            owners.append(np.full(len(scores[-1]), image))
            matched.append(np.asarray(own["dtMatches"]).reshape(thresholds, -1))
            ignored.append(np.asarray(own["dtIgnore"], bool).reshape(thresholds, -1))
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    match_, skip = (np.concatenate(parts, axis=1)[:, order] for parts in (matched, ignored))
    counted = ~skip.astype(bool)
    return _Class(np.concatenate(owners)[order], (match_ != 0) & counted, (match_ == 0) & counted, truth)


def compare(
    new: Matches, old: Matches, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """The paired bootstrap of the AP difference; `new` and `old` were matched against one truth.

    The interval holds the middle `confidence` of the differences over `resamples` draws of as many images as
    there are. Raises ValueError when the two are of different images.
    """
    if new.images != old.images:
        raise ValueError(f"matched on {new.images} and on {old.images} images")
    random = np.random.default_rng(seed)
    differences = []
    for _ in range(resamples):
        weights = np.bincount(random.integers(new.images, size=new.images), minlength=new.images)
        differences.append(new.ap(weights) - old.ap(weights))
    drawn = np.array([d for d in differences if np.isfinite(d)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (float("nan"), float("nan"))
    better = float((drawn > 0).mean()) if len(drawn) else float("nan")
    return Comparison(new.ap(), old.ap(), float(low), float(high), confidence, better, resamples)
