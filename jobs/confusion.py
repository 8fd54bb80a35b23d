"""`condinst confusion`: what a run takes for what, counted against a truth, with examples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from rich.console import Console
from rich.markup import escape

from jobs import pages
from jobs.categories import Categories, parse_renames
from jobs.confusion_count import NOTHING, Confusion, count_confusion, outline
from jobs.cutout import AFTER, BEFORE, Cutouts, Outline
from jobs.errors import JobError
from jobs.from_tables import lacking
from jobs.target import open_run
from jobs.truth import has_masks, read_truth
from pipeline.export.files import TargetError, place_of, whole_folder
from pipeline.nouns import many
from pipeline.storage import StoreOptions
from pipeline.tables import Run


@dataclass(frozen=True)
class Request:
    """Which run to hold against which truth, how, and where the answer goes."""

    output: str
    truth: str
    to: str | Path = "confusion"
    """A path, or a URI of a store that is reached as the run's."""
    min_score: float = 0.5
    iou: float = 0.5
    rename: tuple[str, ...] = ()
    store: StoreOptions = field(default_factory=StoreOptions)


def confusion(request: Request, console: Console | None = None) -> Confusion:
    """Count, write `confusion.html` and `confusion.json` into the folder, and say where they are.

    Found and true instances of one image are matched by the IoU of their masks (of their boxes where the
    truth has no masks), whatever their class. Raises JobError for a run, truth or folder that does not do.
    """
    console = console or Console()
    truth = read_truth(request.truth, request.store)
    run = open_run(request.output, request.store)
    names = [category["name"] for category in truth.dataset["categories"]]
    renames = parse_renames(request.rename)
    categories = Categories(truth, renames, class_agnostic=None)
    counted = count_confusion(run, truth, request.min_score, request.iou, renames)
    found = {name for _, name in counted.cells} - {NOTHING}
    foreign = sorted(found - set(names))
    if foreign and not found & set(names):
        categories.id_of(foreign[0])  # raises: nothing could be right
    said = _said(request, run, truth, counted, [*names, *foreign])
    try:
        with whole_folder(place_of(str(request.to), request.store)) as folder:
            (folder / "confusion.json").write_text(json.dumps(said, indent=2) + "\n")
            html = _page(said, counted, request.store)
            (folder / "confusion.html").write_text(html, encoding="utf-8")
    except TargetError as error:
        raise JobError(str(error)) from None
    right = sum(number for (true, as_), number in counted.cells.items() if true == as_)
    text = (
        f"{right:,} of {many(said['true'], 'instance')} found as what they are, "
        f"{said['found']:,} found in all\n"
        f"{request.to}/confusion.html, {request.to}/confusion.json"
    )
    console.print(escape(text), highlight=False, soft_wrap=True)
    notes = lacking(counted.there, truth)
    if foreign:
        notes.append(f"the truth has no category {', '.join(foreign)}: found wrongly, or to be renamed")
    for note in notes:
        console.print(f"note: {escape(note)}", style="yellow", highlight=False, soft_wrap=True)
    return counted


def _said(
    request: Request, run: Run, truth: COCO, counted: Confusion, names: Sequence[str]
) -> dict[str, Any]:
    classes = {}
    for name in names:
        right, there, found = counted.of_class(name)
        classes[name] = {
            "true": there,
            "found": found,
            "right": right,
            "recall": right / there if there else None,
            "precision": right / found if found else None,
        }
    rows = [*names, NOTHING]
    return {
        "output": run.store.uri,
        "truth": request.truth,
        "images": {"in_truth": len(truth.dataset["images"]), "compared": counted.images},
        "iou": request.iou,
        "of": "masks" if has_masks(truth) else "boxes",
        "min_score": request.min_score,
        "true": sum(n for (true, _), n in counted.cells.items() if true != NOTHING),
        "found": sum(n for (_, as_), n in counted.cells.items() if as_ != NOTHING),
        "matrix": {true: {as_: counted.cells[true, as_] for as_ in rows} for true in rows},
        "classes": classes,
        "examples": [
            {
                "true": cell[0],
                "found_as": cell[1],
                "image_id": example.image["image_id"],
                "annotation": None if example.true is None else example.true["id"],
                "instance_id": None if example.found is None else example.found["instance_id"],
            }
            for cell, example in counted.examples()
        ],
    }


def _page(said: Mapping[str, Any], counted: Confusion, options: StoreOptions) -> str:
    matrix = said["matrix"]
    columns = ["truth \\ found as", *matrix]
    rows = [(name, *found.values()) for name, found in matrix.items()]
    listed = [
        (name, c["true"], c["found"], c["right"], _share(c["recall"]), _share(c["precision"]))
        for name, c in said["classes"].items()
    ]
    pictures = list(_pictures(counted, options))
    return pages.page(
        "What is taken for what",
        [
            pages.text(f"{said['output']} against {said['truth']}"),
            pages.text(
                f"{said['images']['compared']:,} of the truth's {many(said['images']['in_truth'], 'image')}; "
                f"found instances of score {said['min_score']} or more; one thing from an IoU of "
                f"{said['of']} of {said['iou']}"
            ),
            pages.heading("Instances"),
            pages.table("rows: what is there; columns: what it was found as", columns, rows),
            pages.table("by class", ["", "true", "found", "right", "recall", "precision"], listed),
            pages.heading("Examples of what is wrong"),
            pages.text("orange: the truth; blue: what was found"),
            pages.gallery(pictures),
        ],
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _pictures(counted: Confusion, options: StoreOptions) -> Iterator[pages.Picture]:
    cutouts = Cutouts(options)
    for (true, as_), example in counted.examples():
        image = example.image
        size = (image["height"], image["width"])
        outlines: list[Outline] = [] if example.true is None else [(outline(example.true, size), BEFORE)]
        outlines += [] if example.found is None else [(example.found, AFTER)]
        jpeg = cutouts.jpeg(image["uri"], size, outlines)
        yield pages.Picture(jpeg, f"{true} found as {as_}; {image['image_id']}")
