"""`condinst select`: the images of a run most worth labelling, with the run's masks to start from."""

from __future__ import annotations

import csv
import heapq
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape

from jobs.errors import JobError
from jobs.label_forms import coco_form, label_studio_form
from jobs.seams import rasters
from jobs.target import open_run
from jobs.worth import Found, density, disagreement, seams, uncertainty
from pipeline.export.labelstudio import COLUMNS, TOO_LARGE, interface, model_version, regions_in
from pipeline.nouns import many
from pipeline.records import Status
from pipeline.storage import NotFound, Store, StoreOptions
from pipeline.tables import Run

Criterion = Literal["uncertainty", "density", "disagreement", "seams"]


@dataclass(frozen=True)
class Chosen:
    """An image and why it was chosen."""

    image: dict[str, Any]
    score: float
    reasons: dict[str, float]


def select_images(
    output: str,
    count: int,
    criteria: Sequence[Criterion],
    to: str,
    options: StoreOptions,
    *,
    against: str | None = None,
    label_studio: bool = False,
    console: Console | None = None,
) -> list[Chosen]:
    """Choose images, and write `selection.json` and `selection.csv` below `to`; returns them, best first.

    With `label_studio` the first holds tasks, and `selection.xml` is the labelling interface they are for.
    An image's score is the mean of its criteria, each 0 to 1. Raises JobError for a run without such images,
    a disagreement without a second run, seams of a run that has none, and a place that holds a selection
    already; StoreError, LedgerError.
    """
    console = console or Console()
    store = Store.open(to, options)
    _require_new(store)
    run = open_run(output, options)
    other = None if against is None else open_run(against, options)
    if other is None and "disagreement" in criteria:
        raise JobError("disagreement needs a second run: give --against OUTPUT")
    if "seams" in criteria and not run.tiled:
        raise JobError(f"{output} is no tiled job's output, so it has no seams; choose --by something else")
    best: list[tuple[float, int, Chosen]] = []
    seen = 0
    for seen, (image, found, theirs) in enumerate(_joined(run, other, "seams" in criteria), start=1):
        reasons: dict[str, float] = {name: _judge(name, found, theirs) for name in criteria}
        score = sum(reasons.values()) / len(reasons)
        # Among equals the first of the run stays.
        heapq.heappush(best, (score, -seen, Chosen(image, score, reasons)))
        if len(best) > count:
            heapq.heappop(best)
    if not best:
        raise JobError(f"{run.store.uri} has no image that was read, so there is none to choose")
    chosen = [item for _, _, item in sorted(best, reverse=True, key=lambda b: b[:2])]
    lost = _write(store, run, chosen, label_studio)
    console.print(
        f"{len(chosen):,} of {many(seen, 'image')}, scores {chosen[0].score:.3f} to {chosen[-1].score:.3f}: "
        f"{escape(to)}/selection.json",
        highlight=False,
        soft_wrap=True,
    )
    if lost:
        console.print(f"lost: {lost:,} {TOO_LARGE}", style="yellow", highlight=False, soft_wrap=True)
    return chosen


def _require_new(store: Store) -> None:
    """Raise JobError where a selection lies: people correct it in its place."""
    try:
        store.head("selection.json")
    except NotFound:
        return
    raise JobError(
        f"--to: {store.join('selection.json')} is there already, and may hold corrections; name a new folder "
        "with --to, or move it away"
    )


def _judge(name: Criterion, found: Found, theirs: Found | None) -> float:
    if name == "uncertainty":
        return uncertainty(found)
    if name == "density":
        return density(found)
    if name == "seams":
        return seams(found)
    assert theirs is not None
    return disagreement(found, theirs)


def _joined(
    run: Run, other: Run | None, borders: bool
) -> Iterator[tuple[dict[str, Any], Found, Found | None]]:
    """Each image that was read, with what one run or both found; images that only one has are left out.

    Two runs of one input list their images alike, so hardly any is held while the other catches up.
    """
    ours = _bordered(run) if borders else _images(run)
    if other is None:
        for image, found in ours:
            yield image, found, None
        return
    waiting: dict[str, Found] = {}
    theirs = _images(other)
    for image, found in ours:
        name = image["image_id"]
        while name not in waiting and (more := next(theirs, None)) is not None:
            waiting[more[0]["image_id"]] = more[1]
        if name in waiting:
            yield image, found, waiting.pop(name)


def _bordered(run: Run) -> Iterator[tuple[dict[str, Any], Found]]:
    """The same as `_images` of a tiled run, each with the borders of its windows."""
    planned = rasters(run)
    for image, found in _images(run):
        # Rows lie in plan order; rasters that were not read are passed over.
        raster = next(raster for raster in planned if raster.image_id == image["image_id"])
        yield image, replace(found, borders=raster.seams)


def _images(run: Run) -> Iterator[tuple[dict[str, Any], Found]]:
    """Each image that was read, shard by shard."""
    read = pc.field("status").isin([str(Status.OK), str(Status.EMPTY)])
    images = run.parts("images", ["image_id", "uri", "width", "height"], read)
    instances = run.parts("instances", ["image_id", "category", "score", "bbox"])
    for rows, found in zip(images, instances, strict=True):
        by_image = {name: _found(own) for name, own in _by_image(found)}
        for row in rows.to_pylist():
            yield row, by_image.get(row["image_id"], _found(found.slice(0, 0)))


def _by_image(found: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """A shard's instances, image by image; an image's rows follow one another."""
    names = found["image_id"].to_numpy(zero_copy_only=False)
    if not len(names):
        return
    starts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1).tolist(), len(names)]
    for begin, end in pairwise(starts):
        yield str(names[begin]), found.slice(begin, end - begin)


def _found(rows: pa.Table) -> Found:
    box = rows["bbox"].combine_chunks()
    x, y, w, h = (
        np.asarray(pc.struct_field(box, name), np.float64) for name in ("x", "y", "width", "height")
    )
    classes = rows["category"].cast(pa.string()).to_numpy(zero_copy_only=False)
    scores = np.asarray(rows["score"], np.float64)
    return Found(np.stack([x, y, x + w, y + h], axis=1), scores, np.asarray(classes, object))


def _write(store: Store, run: Run, chosen: Sequence[Chosen], label_studio: bool) -> int:
    """Put the chosen images with the run's masks, and the list of scores; returns how many are lost."""
    rows = _rows(run, [c.image["image_id"] for c in chosen])
    images = [c.image for c in chosen]
    tasks = label_studio_form(images, rows, model_version(run)) if label_studio else None
    form = coco_form(images, rows) if tasks is None else tasks
    store.put("selection.json", json.dumps(form).encode())
    if label_studio:
        classes = sorted({name for commit in run.commits for name in commit.classes})
        store.put("selection.xml", interface(classes).encode())
    text = io.StringIO()
    names = list(chosen[0].reasons)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_id", "uri", "score", *names])
    for c in chosen:
        reasons = [f"{c.reasons[name]:.6f}" for name in names]
        writer.writerow([c.image["image_id"], c.image["uri"], f"{c.score:.6f}", *reasons])
    store.put("selection.csv", text.getvalue().encode())
    return 0 if tasks is None else sum(own.num_rows for own in rows.values()) - sum(map(regions_in, tasks))


def _rows(run: Run, names: Sequence[str]) -> Mapping[str, pa.Table]:
    """The instances of some images."""
    columns = ("image_id", *COLUMNS, "bbox")
    schema = run.schema("instances")
    none = pa.schema([schema.field(name) for name in columns]).empty_table()
    found: dict[str, pa.Table] = dict.fromkeys(names, none)
    for part in run.parts("instances", columns, pc.field("image_id").isin(list(names))):
        found.update(_by_image(part))
    return found
