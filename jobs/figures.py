"""COCO figures as tables on the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from pycocotools.coco import COCO
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from condinst.evaluate import Kind, Metrics
from pipeline.nouns import many

KINDS: dict[Kind, str] = {"segm": "masks", "bbox": "boxes"}


def print_metrics(metrics: Sequence[Metrics], truth: COCO, console: Console) -> None:
    """Print each kind's AP and AR, and, of several classes, those of each."""
    images, instances = len(truth.dataset["images"]), len(truth.dataset["annotations"])
    console.print(f"{many(images, 'image')}, {many(instances, 'instance')} in the truth", highlight=False)
    console.print(_overall(metrics))
    if len(metrics[0].ap_by_class) > 1:
        console.print(_by_class(metrics, truth))


def _overall(metrics: Sequence[Metrics]) -> Table:
    """A row a figure and a column a kind: that fits any terminal."""
    table = _table(["", *(KINDS[m.kind] for m in metrics)])
    for name in _figures(metrics[0]):
        table.add_row(name, *(_words(_figures(m)[name]) for m in metrics))
    return table


def _figures(m: Metrics) -> dict[str, float]:
    return (
        {"AP": m.ap, "AP50": m.ap50, "AP75": m.ap75}
        | {f"AP {size}": figure for size, figure in m.ap_by_size.items()}
        | {f"AR {dets}": figure for dets, figure in m.ar_by_dets.items()}
        | {f"AR {size}": figure for size, figure in m.ar_by_size.items()}
    )


def _by_class(metrics: Sequence[Metrics], truth: COCO) -> Table:
    names = {category["id"]: category["name"] for category in truth.dataset["categories"]}
    counts = Counter(names[a["category_id"]] for a in truth.dataset["annotations"])
    headings = [f"{figure} {KINDS[m.kind]}" for m in metrics for figure in ("AP", "AP50")]
    table = _table(["class", *headings, "in the truth"])
    for name in metrics[0].ap_by_class:
        figures = [value for m in metrics for value in (m.ap_by_class[name], m.ap50_by_class[name])]
        table.add_row(escape(name), *map(_words, figures), f"{counts[name]:,}")
    return table


def _table(headings: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _words(figure: float) -> str:
    return "-" if math.isnan(figure) else f"{figure:.3f}"
