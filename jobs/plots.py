"""COCO figures as pictures: precision against recall, by IoU and by class, and AP by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from condinst.evaluate import Metrics
from jobs.figures import KINDS

_MOST_NAMED = 20
"""Classes told apart by colour and name; more are drawn in grey."""
_DPI = 120


def write_plots(metrics: Sequence[Metrics], folder: Path) -> list[Path]:
    """Write three PNGs a kind (masks, boxes) into `folder`, which is made; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for m in metrics:
        for name, figure in (
            ("precision-recall", precision_recall(m)),
            ("precision-recall-by-class", precision_recall_by_class(m)),
            ("ap-by-class", ap_by_class(m)),
        ):
            path = folder / f"{KINDS[m.kind]}-{name}.png"
            figure.savefig(path, dpi=_DPI)
            paths.append(path)
    return paths


def precision_recall(m: Metrics) -> Figure:
    """A curve for each IoU from 0.50 to 0.95, the mean over classes."""
    figure, axes = _recall_axes(f"{KINDS[m.kind]}: AP {m.ap:.3f}")
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(m.curves.ious)))
    mean = _mean(m.curves.precision, axis=2)
    for iou, precision, colour in zip(m.curves.ious, mean, colours, strict=True):
        axes.plot(m.curves.recall, precision, color=colour, label=f"IoU {iou:.2f}: {_mean(precision):.3f}")
    axes.legend(fontsize="small", loc="upper right")
    return figure


def precision_recall_by_class(m: Metrics, iou: float = 0.5) -> Figure:
    """A curve for each class at one IoU; the best by AP are named."""
    figure, axes = _recall_axes(f"{KINDS[m.kind]} at IoU {iou:.2f}")
    at = int(np.abs(m.curves.ious - iou).argmin())
    curves = m.curves.precision[at].T
    areas = [float(_mean(curve)) for curve in curves]
    order = sorted(range(len(areas)), key=lambda n: -math.inf if math.isnan(areas[n]) else areas[n])
    colours, names = colormaps["tab20"](np.arange(_MOST_NAMED)), list(m.ap_by_class)
    lines = []
    for rank, number in enumerate(reversed(order)):
        named = rank < _MOST_NAMED
        colour = colours[rank] if named else "0.8"
        (line,) = axes.plot(m.curves.recall, curves[number], color=colour, zorder=2 if named else 1)
        if named:
            lines.append((line, f"{areas[number]:.3f} {names[number]}"))
    legend = axes.legend(*zip(*lines, strict=True), fontsize="small", loc="lower left")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def ap_by_class(m: Metrics) -> Figure:
    """A bar for each class, AP over a paler AP50; classes without truth have none."""
    names = sorted(m.ap_by_class, key=lambda n: -1.0 if math.isnan(m.ap_by_class[n]) else m.ap_by_class[n])
    figure = Figure(figsize=(7, 1.2 + 0.26 * len(names)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    for figures, colour, label in (
        (m.ap50_by_class, "#b9d3ea", "AP50"),
        (m.ap_by_class, "#2a6fad", "AP"),
    ):
        axes.barh(places, np.nan_to_num([figures[n] for n in names]), color=colour, label=label)
    axes.set_yticks(places, [f"{n}  {m.ap_by_class[n]:.3f}" for n in names], fontsize="small")
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.set(xlim=(0, 1), title=f"{KINDS[m.kind]}: AP {m.ap:.3f}")
    axes.legend(loc="lower right")
    return figure


def _recall_axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=title)
    axes.grid(alpha=0.3)
    return figure, axes


def _mean(values: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """Mean of what is there; nan where nothing is."""
    count = np.isfinite(values).sum(axis=axis)
    mean: NDArray[np.float64] = np.where(
        count > 0, np.nansum(values, axis=axis) / np.maximum(count, 1), np.nan
    )
    return mean
