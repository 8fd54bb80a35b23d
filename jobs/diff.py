"""`condinst diff`: what two runs say differently of the same images, as a page, as JSON and as a table."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape

from jobs import pages
from jobs.cutout import AFTER, BEFORE, Cutouts
from jobs.errors import JobError
from jobs.target import open_run
from pipeline.diff import SIZES, Accounts, Change, ImageDiff, Kind, Tolerance, diff
from pipeline.export.files import TargetError, place_of, whole_folder
from pipeline.export.selection import Selection, SelectionError
from pipeline.nouns import many
from pipeline.settings import difference
from pipeline.storage import StoreOptions
from pipeline.tables import Run

LARGEST = 24
"""Differences that are shown."""
SHOWN = (Kind.GAINED, Kind.LOST, Kind.CLASS, Kind.SHAPE, Kind.SAME)
TITLES = {
    Kind.GAINED: "gained",
    Kind.LOST: "lost",
    Kind.CLASS: "other class",
    Kind.SHAPE: "other shape",
    Kind.SAME: "same",
}
_SIDE = [
    ("instance_id", pa.int32()),
    ("category", pa.string()),
    ("score", pa.float32()),
    ("area", pa.int64()),
]
SCHEMA = pa.schema(
    [("image_id", pa.string()), ("kind", pa.string()), ("iou", pa.float64()), ("pixels", pa.int64())]
    + [(f"{name}_{side}", kind) for side in ("before", "after") for name, kind in _SIDE]
)
"""Columns of `differences.parquet`: a row an instance that is not the same."""
_ROWS = 10_000


@dataclass(frozen=True)
class Request:
    """Which runs to compare, how, and where the answer goes."""

    before: str
    after: str
    to: str | Path = "diff"
    """A path, or a URI of a store that is reached as the runs'."""
    selection: Selection = field(default_factory=Selection)
    tolerance: Tolerance = field(default_factory=Tolerance)
    store: StoreOptions = field(default_factory=StoreOptions)


def diff_runs(request: Request, console: Console | None = None) -> Accounts:
    """Compare, write `diff.html`, `diff.json` and `differences.parquet` into the folder, say what they say.

    Raises JobError for what is no run, for a class that neither has and for a folder that holds something.
    """
    console = console or Console()
    before, after = (open_run(place, request.store) for place in (request.before, request.after))
    _check(request, before, after)
    accounts = Accounts()
    try:
        with whole_folder(place_of(str(request.to), request.store)) as folder:
            found = diff(before, after, accounts, request.tolerance, request.selection.rows)
            largest = _write_table(found, folder / "differences.parquet")
            said = _said(before, after, accounts, request.tolerance, largest)
            (folder / "diff.json").write_text(json.dumps(said, indent=2) + "\n")
            (folder / "diff.html").write_text(_page(said, largest, request.store), encoding="utf-8")
    except TargetError as error:
        raise JobError(str(error)) from None
    _print(accounts, request.to, console)
    return accounts


def _check(request: Request, before: Run, after: Run) -> None:
    """A class need be in one of the runs alone: it may be what was gained or lost."""
    known = {name for run in (before, after) for commit in run.commits for name in commit.classes}
    if not set(request.selection.classes) <= known:
        try:
            request.selection.check(before)
        except SelectionError as error:
            raise JobError(str(error)) from None


Largest = list[tuple[ImageDiff, Change]]


def _write_table(found: Iterator[ImageDiff], path: Path) -> Largest:
    """Write the differences; returns the largest."""
    heap: list[tuple[int, int, ImageDiff, Change]] = []
    order, rows = count(), list[dict[str, Any]]()
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for image in found:
            for change in image.changes:
                if change.kind is Kind.SAME:
                    continue
                rows.append(_row(change))
                item = (change.pixels, -next(order), image, change)
                heapq.heappush(heap, item) if len(heap) < LARGEST else heapq.heappushpop(heap, item)
            if len(rows) >= _ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    return [(image, change) for _, _, image, change in sorted(heap, key=lambda item: item[:2], reverse=True)]


def _row(change: Change) -> dict[str, Any]:
    row = {
        "image_id": change.row["image_id"],
        "kind": str(change.kind),
        "iou": change.iou,
        "pixels": change.pixels,
    }
    for side, found in (("before", change.before), ("after", change.after)):
        row |= {f"{name}_{side}": None if found is None else found[name] for name, _ in _SIDE}
    return row


def _said(
    before: Run, after: Run, accounts: Accounts, tolerance: Tolerance, largest: Largest
) -> dict[str, Any]:
    """Everything as JSON."""
    names = sorted({name for name, _ in accounts.classes})
    sizes = [name for name, _ in SIZES] + ["large"]
    return {
        "before": _identity(before),
        "after": _identity(after),
        "settings": _settings(before, after),
        "match_iou": tolerance.match,
        "shape_iou": tolerance.shape,
        "empty": accounts.empty,
        "images": {
            "in_both": accounts.images,
            "only_before": accounts.only_before,
            "only_after": accounts.only_after,
            "of_other_size": accounts.other_size,
            "status_changed": [
                {"before": a, "after": b, "images": n} for (a, b), n in sorted(accounts.statuses.items())
            ],
        },
        "instances": {str(kind): accounts.kinds[kind] for kind in SHOWN},
        "by_class": {name: {str(k): accounts.classes[name, k] for k in SHOWN} for name in names},
        "by_size": {name: {str(k): accounts.sizes[name, k] for k in SHOWN} for name in sizes},
        "other_class": [
            {"before": a, "after": b, "instances": n} for (a, b), n in accounts.reclassified.most_common()
        ],
        "largest": [_row(change) for _, change in largest],
    }


def _identity(run: Run) -> dict[str, object]:
    names = ("name", "fingerprint", "model_digest")
    return {
        "output": run.store.uri,
        "complete": run.complete,
        **{name: run.job[name] for name in names if name in run.job},
    }


def _settings(before: Run, after: Run) -> list[str]:
    old, new = before.job.get("settings"), after.job.get("settings")
    return difference(old, new) if isinstance(old, Mapping) and isinstance(new, Mapping) else []


def _page(said: Mapping[str, Any], largest: Largest, options: StoreOptions) -> str:
    images = said["images"]
    columns = [TITLES[kind] for kind in SHOWN]
    parts = [
        pages.text(f"before: {said['before']['output']}"),
        pages.text(f"after: {said['after']['output']}"),
        pages.text("The runs say the same." if said["empty"] else _sentence(said)),
        pages.heading("Settings that differ"),
        *([pages.text(line) for line in said["settings"]] or [pages.text("none")]),
        pages.heading("Instances"),
        _counts("all", columns, {"all": said["instances"]}),
        _counts("by class before, or after where it is new", columns, said["by_class"]),
        _counts("by size: small under 32x32 pixels, large from 96x96", columns, said["by_size"]),
    ]
    if said["other_class"]:
        rows = [(f"{c['before']} → {c['after']}", c["instances"]) for c in said["other_class"]]
        parts.append(pages.table("of another class", ["from → to", "instances"], rows))
    if images["status_changed"]:
        rows = [(f"{c['before']} → {c['after']}", c["images"]) for c in images["status_changed"]]
        parts.append(pages.table("images of another status", ["from → to", "images"], rows))
    if largest:
        parts += [pages.heading("The largest differences"), pages.text("orange: before; blue: after")]
        parts.append(pages.gallery(_pictures(largest, options)))
    return pages.page("Two runs compared", parts)


def _sentence(said: Mapping[str, Any]) -> str:
    images = said["images"]
    return (
        f"{many(images['in_both'], 'image')} in both, {images['only_before']:,} only before, "
        f"{images['only_after']:,} only after, {images['of_other_size']:,} of another size (not compared). "
        f"Instances are one from an IoU of {said['match_iou']}, and of one shape from {said['shape_iou']}."
    )


def _counts(caption: str, columns: list[str], counts: Mapping[str, Mapping[str, int]]) -> str:
    rows = [(name, *(numbers[str(kind)] for kind in SHOWN)) for name, numbers in counts.items()]
    return pages.table(caption, ["", *columns], rows)


def _pictures(largest: Largest, options: StoreOptions) -> Iterator[pages.Picture]:
    cutouts = Cutouts(options)
    for image, change in largest:
        sides = [(change.before, BEFORE), (change.after, AFTER)]
        row = image.image if image.image["width"] is not None else image.after
        outlines = [(found, colour) for found, colour in sides if found is not None]
        jpeg = cutouts.jpeg(row["uri"], (row["height"], row["width"]), outlines)
        names = [f"{found['category']} {found['score']:.2f}" for found, _ in outlines]
        said = f"{TITLES[change.kind]}, {change.pixels:,} pixels: {' → '.join(names)}; {row['image_id']}"
        yield pages.Picture(jpeg, said)


def _print(accounts: Accounts, to: str | Path, console: Console) -> None:
    def line(words: str) -> None:
        console.print(escape(words), highlight=False, soft_wrap=True)

    if accounts.empty:
        same = many(accounts.kinds[Kind.SAME], "instance")
        line(f"the runs say the same: {many(accounts.images, 'image')}, {same}")
    else:
        line(", ".join(f"{accounts.kinds[kind]:,} {TITLES[kind]}" for kind in SHOWN))
        alone = (accounts.only_before, accounts.only_after, accounts.other_size)
        words = ("only before", "only after", "of another size")
        told = [f"{number:,} {word}" for number, word in zip(alone, words, strict=True) if number]
        line(f"{many(accounts.images, 'image')} in both{''.join(f', {part}' for part in told)}")
    line(f"{to}/diff.html, {to}/diff.json, {to}/differences.parquet")
