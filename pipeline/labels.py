"""Labels to learn from: of a COCO json, or of a segment job's tables."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from condinst.augment import StoredMask
from condinst.coco_truth import ImageTruth, TruthError, read_truth, unlisted
from pipeline import tables
from pipeline.keys import locate
from pipeline.known import MARK
from pipeline.ledger import LedgerError
from pipeline.records import Status
from pipeline.storage import NotFound, Store, StoreError, StoreOptions

Row = Mapping[str, Any]
_MARKED = re.compile(rf"@[0-9a-f]{{{MARK}}}$")
"""What is put behind the id of an object that changed (`pipeline.known`)."""


class SampleError(ValueError):
    """A source or an image of it that cannot be trained on; the message names it and what is wrong."""


@dataclass(frozen=True)
class Labels:
    """What one source says."""

    names: tuple[str, ...]
    """Class names; an instance's category is an index into them."""
    images: list[ImageTruth]
    digest: str
    """sha256 of what was read."""
    unlisted: int = 0
    """Annotations of images that are not listed, which are left out."""


def read_coco(uri: str, options: StoreOptions) -> Labels:
    """The labels of a COCO json. Raises SampleError, StoreError."""
    parent, _, name = uri.rpartition("/")
    store = Store.open(parent or ("/" if uri.startswith("/") else "."), options)
    try:
        text = store.get(name)
        data = json.loads(text)
    except NotFound:
        raise SampleError(f"{uri}: there is no such file") from None
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{uri}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise SampleError(f"{uri}: not COCO annotations: it is no mapping")
    try:
        names, images = read_truth(data)
    except TruthError as error:
        raise SampleError(f"{uri}: {error}") from None
    return Labels(names, images, hashlib.sha256(text).hexdigest(), unlisted(data))


def read_run(uri: str, options: StoreOptions, images: str, min_score: float = 0.0) -> Labels:
    """The labels that a segment job's tables are: its instances of `min_score` or more.

    `images` is the folder or URI of the images. One that the job read below it has its name from there, and
    the etag it had then; of others the name is the `image_id`. Of several versions of an image the last that
    was planned counts. Images that were not read are left out; those without instances are background. Raises
    SampleError, StoreError.
    """
    root = Store.open(images, options).join("")
    try:
        run = tables.open(uri, options)
        found, names = _instances(run, min_score)
        rows = run.images(["image_id", "uri", "etag", "status", "width", "height"]).to_pylist()
    except NotFound:
        raise SampleError(f"{uri}: holds no segment job") from None
    except LedgerError as error:
        raise SampleError(str(error)) from None
    ids = {row["image_id"] for row in rows}
    truths = [
        ImageTruth(
            _name(row, root, ids),
            row["height"],
            row["width"],
            tuple(found[row["image_id"]]),
            False,
            row["etag"] if _place(row["uri"]).startswith(root) else None,
        )
        for row in _newest(rows)
        if row["status"] in (Status.OK, Status.EMPTY)
    ]
    files = sorted((c.shard, c.revision, c.files["instances"].sha256) for c in run.commits)
    return Labels(names, truths, hashlib.sha256(json.dumps([files, min_score]).encode()).hexdigest())


def _newest(rows: Iterable[Row]) -> list[Row]:
    """Of the rows of one uri the last: an object that changed was planned anew, under an id of its own."""
    return list({row["uri"] or f"id:{row['image_id']}": row for row in rows}.values())


def _name(row: Row, root: str, ids: Container[str]) -> str:
    """Where an image lies below a folder: as its uri says, otherwise as its id does, without a later mark."""
    place, name = _place(row["uri"]), str(row["image_id"])
    if place.startswith(root):
        return place[len(root) :]
    first = _MARKED.sub("", name)
    return first if first in ids else name


def _place(uri: str | None) -> str:
    """A URI as stores write it; empty for none, or none that is read here."""
    try:
        return "" if uri is None else locate(uri, trim=False).uri
    except StoreError:
        return ""


def _instances(run: tables.Run, min_score: float) -> tuple[dict[str, list[StoredMask]], tuple[str, ...]]:
    """Each image's masks as they are in the table, and the classes in order of their ids."""
    found: dict[str, list[StoredMask]] = defaultdict(list)
    classes: dict[int, str] = {}
    columns = ("image_id", "category_id", "category", "mask")
    for batch in run.batches("instances", columns, pc.field("score") >= min_score):
        for row in batch.to_pylist():
            classes[row["category_id"]] = row["category"]
            found[row["image_id"]].append(_stored(row["mask"], row["category_id"]))
    order = sorted(classes)
    index = {category: number for number, category in enumerate(order)}
    renumbered = {
        image: [StoredMask(m.x, m.y, m.height, m.width, m.counts, index[m.category]) for m in masks]
        for image, masks in found.items()
    }
    return defaultdict(list, renumbered), tuple(classes[category] for category in order)


def _stored(mask: Mapping[str, Any], category: int) -> StoredMask:
    return StoredMask(mask["x"], mask["y"], mask["height"], mask["width"], mask["counts"], category)
