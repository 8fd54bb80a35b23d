"""What a model is measured on: a COCO truth, and where each of its images lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from numpy.typing import NDArray
from pycocotools.coco import COCO
from rich.console import Console
from rich.markup import escape

from condinst import CondInst, DetectConfig, Instances, parallel, rle
from condinst.augment import StoredMask
from condinst.coco_truth import ImageTruth
from condinst.evaluate import Kind, load_truth
from jobs.counting import counted
from jobs.errors import JobError
from jobs.predictions import AHEAD, predictions
from jobs.resolve import options_of
from jobs.train_spec import ExamSection
from jobs.truth import has_masks, read_truth
from pipeline.ahead import ahead
from pipeline.badimages import BadImages
from pipeline.pixels import Rgb
from pipeline.samples import SampleError, Samples, read_labelled
from pipeline.storage import Store

Row = dict[str, Any]


@dataclass(frozen=True)
class Exam:
    """Labelled images that a model does not learn from."""

    truth: COCO
    images: list[tuple[Store, Row]]
    """Every image of the truth, with the store in which its `file_name` starts."""
    category_ids: list[int]
    """The truth's id of each of the model's classes."""
    ignored: tuple[str, ...] = ()
    """Categories of the json that are no class of the model, and are not measured."""

    @property
    def kind(self) -> Kind:
        """What is measured: masks where the truth has them."""
        return "segm" if has_masks(self.truth) else "bbox"

    @property
    def digest(self) -> str:
        """sha256 of what is measured: images by name and size, and their instances of the model's classes.

        Ids, order, other categories and how the json is written do not count.
        """
        classes = {category["id"]: category["name"] for category in self.truth.dataset["categories"]}
        rows = [row for _, row in self.images]
        said = [_canonical(["image", row["file_name"], row["height"], row["width"]]) for row in rows]
        names = {row["id"]: row["file_name"] for row in rows}
        for a in self.truth.dataset["annotations"]:
            numbers = [float(value) for value in (*a["bbox"], a["area"], a["iscrowd"])]
            instance = [classes[a["category_id"]], numbers, a.get("segmentation") or None]
            said.append(_canonical([names[a["image_id"]], *instance]))
        return hashlib.sha256("\n".join(sorted(said)).encode()).hexdigest()

    def results(self, model: CondInst, detect: DetectConfig) -> Iterator[Row]:
        """COCO results of this process's share of the images. Raises SampleError, StoreError."""
        own = self.images[parallel.rank() :: parallel.world()]
        quiet = Console(quiet=True)
        for store, rows in groupby(own, key=lambda item: item[0]):
            listed = [row for _, row in rows]
            yield from predictions(model, detect, listed, store, self.category_ids, quiet)

    def examples(self, model: CondInst, count: int) -> Iterator[tuple[NDArray[Any], Instances]]:
        """Pixels and found instances of the first images."""
        for number in range(min(count, len(self.images))):
            pixels = self.read(number)
            yield pixels, model.predict([pixels])[0]

    def read(self, number: int) -> Rgb:
        """Pixels of an image, by its place in `images`. Raises SampleError, StoreError."""
        store, row = self.images[number]
        size = (row["height"], row["width"])
        return read_labelled(store, str(row["file_name"]), size, row.get("etag"))

    def without(self, numbers: Container[int]) -> Exam:
        """The same but for some images, by their place in `images`.

        Raises SampleError where no instance is left.
        """
        images = [item for number, item in enumerate(self.images) if number not in numbers]
        if len(images) == len(self.images):
            return self
        ids = {row["id"] for _, row in images}
        annotations = [a for a in self.truth.dataset["annotations"] if a["image_id"] in ids]
        if not annotations:
            raise SampleError("no image with an instance is left to measure on: the others cannot be used")
        kept = {"images": [row for _, row in images], "annotations": annotations}
        return replace(self, truth=load_truth({**self.truth.dataset, **kept}), images=images)


def given_exam(section: ExamSection, classes: Sequence[str]) -> Exam:
    """Of a COCO json that the spec names, without what is no class of the model: it would count as missed.

    Raises JobError for one that lacks a class or has no instance of any, StoreError.
    """
    truth = read_truth(section.annotations, options_of(section), called="data.val.annotations")
    ids = {c["name"]: int(c["id"]) for c in truth.dataset["categories"]}
    if missing := [c for c in classes if c not in ids]:
        raise JobError(f"data.val: {section.annotations} has no category {', '.join(map(escape, missing))}")
    wanted = [ids[c] for c in classes]
    kept = {
        "images": truth.dataset["images"],
        "categories": [c for c in truth.dataset["categories"] if c["name"] in classes],
        "annotations": [a for a in truth.dataset["annotations"] if int(a["category_id"]) in wanted],
    }
    if not kept["annotations"]:
        raise JobError(
            f"data.val: {section.annotations} has no instance of {', '.join(map(escape, classes))}"
        )
    store = Store.open(section.uri, options_of(section))
    return Exam(
        load_truth(kept),
        [(store, row) for row in kept["images"]],
        wanted,
        tuple(str(name) for name in ids if name not in classes),
    )


def held_exam(samples: Samples) -> Exam:
    """Of the images that the sources hold out. Raises JobError where none of them has an instance."""
    rows, annotations = [], []
    for number, (store, image) in enumerate(samples.held, start=1):
        row = {"id": number, "file_name": image.file_name, "height": image.height, "width": image.width}
        if image.version is not None:
            row["etag"] = image.version
        rows.append((store, row))
        annotations += [_annotation(number, image, m) for m in image.instances]
    if not annotations:
        raise JobError(
            f"data.held_out: {len(rows)} images are held out, with no instance among them; raise it, or give "
            "data.val"
        )
    if any(image.boxes_only for _, image in samples.held):
        annotations = [{**a, "segmentation": []} for a in annotations]
    dataset = {
        "images": [row for _, row in rows],
        "categories": [{"id": n, "name": name} for n, name in enumerate(samples.classes, start=1)],
        "annotations": [{**a, "id": n} for n, a in enumerate(annotations, start=1)],
    }
    return Exam(load_truth(dataset), rows, list(range(1, len(samples.classes) + 1)))


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=bytes.decode)


def look(exam: Exam, bad: BadImages, threads: int, console: Console) -> None:
    """Read this process's share of the images, in threads, and note which of them cannot be used.

    Raises TooManyBad, StoreError.
    """
    own = range(parallel.rank(), len(exam.images), parallel.world())
    with ThreadPoolExecutor(threads, thread_name_prefix="look") as pool:
        read = ahead(pool, lambda number: bad.attempt(number, exam.read) is None, own, max(AHEAD, threads))
        for _ in counted(read, len(own), "looking at what is measured on", console):
            pass


def _annotation(image_id: int, image: ImageTruth, m: StoredMask) -> Row:
    size = (image.height, image.width)
    counts = rle.embed(m.counts, m.x, m.y, m.height, m.width, *size)
    return {
        "image_id": image_id,
        "category_id": m.category + 1,
        "bbox": [m.x, m.y, m.width, m.height],
        "area": rle.area(m.counts),
        "iscrowd": 0,
        "segmentation": {"size": list(size), "counts": counts},
    }
