"""The images of a report with their masks drawn, as data that the page holds itself."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from jobs.from_tables import instances_of
from jobs.overlay import draw
from jobs.run_report.gather import Gathered
from jobs.run_report.salvage import NoPicture, Salvage
from jobs.viewer.pixels import Pictures
from jobs.viewer.view import meets
from pipeline.geo.windows import inside
from pipeline.pixels import Rgb
from pipeline.plan import PlanError
from pipeline.records import InputRejected, Window
from pipeline.storage import StoreError
from pipeline.tables import Run

SECONDS = 60.0
"""Time that all overlays together may take."""
BYTES = 3_000_000
"""Of all overlays; the page has to stay under 5 MB."""
_SHORTEST, _LONGEST = 480, 900
"""What the longest edge of a picture measures."""
_PART = 2400
"""Longest edge of what is drawn of an image."""
FAILURES = (
    "not segmented: one of each status, then of each reason; with a picture where something can be read"
)
Floats = NDArray[np.float64]
_MASKS = 1000
"""Masks drawn into one image: the best."""
_COLUMNS = ("image_id", "category", "score", "bbox", "area", "mask")


@dataclass(frozen=True)
class Overlay:
    """One image."""

    image_id: str
    said: str
    picture: str = ""
    """A data URI; empty where the image cannot be had."""
    trouble: str = ""
    """Why."""
    status: str = ""
    """Of an input that was not segmented."""


@dataclass(frozen=True)
class Group:
    """Images chosen for one reason."""

    title: str
    why: str
    overlays: list[Overlay]


def overlays(run: Run, gathered: Gathered) -> list[Group]:
    """Draw what was chosen, each image once, as far as time and room go."""
    made: list[Group] = []
    drawer = _Drawer(run, sorted(gathered.classes))
    seen: set[int] = set()
    with ThreadPoolExecutor(2, "overlay") as threads:
        for reason, rows in _groups(gathered):
            # A large image has more than one place to look at.
            fresh = [row for row in rows if row["no"] not in seen or _large(row)]
            seen |= {row["no"] for row in fresh}
            drawn = threads.map(drawer, fresh, [reason] * len(fresh))
            shown = [overlay for overlay in drawn if overlay is not None]
            if shown:
                made.append(Group(reason.title, reason.why, shown))
    if gathered.failures:
        made.append(Group("Failures", FAILURES, list(drawer.failures(gathered.failures))))
    return made


def _large(row: Mapping[str, Any]) -> bool:
    return bool(max(row["width"], row["height"]) > _PART)


@dataclass(frozen=True)
class Reason:
    """Why an image is shown, and which of a large image's instances shows it."""

    title: str
    why: str
    pick: Callable[[Floats, Floats, Floats, int], int]


def _groups(gathered: Gathered) -> Iterator[tuple[Reason, list[dict[str, Any]]]]:
    yield Reason("Random", "by the dice, the same each time", _any), gathered.random.rows
    yield Reason("Densest", "the most instances", _densest), gathered.densest.rows
    yield Reason("Least sure", "the lowest scores in the mean", _lowest), gathered.lowest.rows
    cut = "the most instances cut by the image's edge; of rasters, a seam between windows"
    yield Reason("At seams and edges", cut, _at_seam), gathered.cut.rows


class _Drawer:
    """Draws a row's image. Called from threads."""

    def __init__(self, run: Run, classes: list[str]) -> None:
        self._run, self._classes = run, classes
        self._pictures = Pictures.of(run)
        self._stride = _stride(run)
        self._until = time.monotonic() + SECONDS
        self._room = BYTES

    def __call__(self, row: Mapping[str, Any], reason: Reason) -> Overlay | None:
        """None when there is no time or room left."""
        said = f"{row['instances']:,} instances, {row['width']:,} x {row['height']:,} pixels"
        if time.monotonic() > self._until or self._room <= 0:
            return None
        try:
            part = self._part(row, reason)
            data = self._draw(row, part)
        except (InputRejected, StoreError, PlanError) as error:
            return Overlay(row["image_id"], said, trouble=str(error))
        self._room -= len(data)
        if _large(row):
            said += f"; here {part.width:,} x {part.height:,} of them from {part.x:,}, {part.y:,}"
        return Overlay(row["image_id"], said, f"data:image/webp;base64,{data}")

    def failures(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Overlay]:
        """The inputs of these rows, which were not segmented; without pictures where time or room is out."""
        with closing(Salvage(self._pictures, self._until)) as salvage:
            for row in rows:
                shown = Overlay(row["image_id"], row["error"], status=row["status"])
                try:
                    if self._room <= 0:
                        raise NoPicture("the page has no room for more pictures")
                    data = _webp(salvage.picture(row))
                except NoPicture as error:
                    yield replace(shown, trouble=str(error))
                    continue
                self._room -= len(data)
                yield replace(shown, picture=f"data:image/webp;base64,{data}")

    def _draw(self, row: Mapping[str, Any], part: Window) -> str:
        found = instances_of(self._rows(row, _COLUMNS, meets(part)).slice(0, _MASKS), self._classes)
        found = replace(
            found,
            boxes=found.boxes - np.array([part.x, part.y] * 2, np.float32),
            masks=replace(found.masks, x=found.masks.x - part.x, y=found.masks.y - part.y),
        )
        pixels = self._pictures.part(row, part)
        return _webp(draw(pixels, found, self._classes, _SHORTEST, _LONGEST))

    def _part(self, row: Mapping[str, Any], reason: Reason) -> Window:
        """The image, or of a large one the part round an instance that shows why it was chosen."""
        whole = Window(0, 0, row["width"], row["height"])
        if max(whole.width, whole.height) <= _PART:
            return whole
        rows = self._rows(row, ("score", "bbox"))
        if not rows.num_rows:
            return inside(Window(0, 0, _PART, _PART), whole.width, whole.height)
        boxes = pc.struct_field(rows["bbox"], "x"), pc.struct_field(rows["bbox"], "y")
        x, y = (np.asarray(side, np.float64) for side in boxes)
        at = reason.pick(x, y, np.asarray(rows["score"]), self._stride)
        left = int(min(max(0, x[at] - _PART // 2), max(0, whole.width - _PART)))
        top = int(min(max(0, y[at] - _PART // 2), max(0, whole.height - _PART)))
        return inside(Window(left, top, _PART, _PART), whole.width, whole.height)

    def _rows(
        self, row: Mapping[str, Any], columns: Sequence[str], also: pc.Expression | None = None
    ) -> pa.Table:
        wanted = pc.field("image_id") == row["image_id"]
        commit = self._run.commits[row["shard"]]
        return self._run.part(commit, "instances", columns, wanted if also is None else wanted & also)


def _webp(picture: Rgb) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=74, method=4)
    return base64.b64encode(buffer.getvalue()).decode()


def _stride(run: Run) -> int:
    """Pixels from window to window of a tiled run; 0 of another."""
    spec = run.job.get("spec")
    tiling = spec.get("tiling") if isinstance(spec, Mapping) else None
    return int(tiling["size"]) - int(tiling["overlap"]) if isinstance(tiling, Mapping) else 0


def _any(x: Floats, y: Floats, scores: Floats, stride: int) -> int:
    return len(x) // 2


def _lowest(x: Floats, y: Floats, scores: Floats, stride: int) -> int:
    return int(scores.argmin())


def _densest(x: Floats, y: Floats, scores: Floats, stride: int) -> int:
    """One in the square that holds the most."""
    squares = np.stack([x // _PART, y // _PART])
    _, place, counts = np.unique(squares, axis=1, return_inverse=True, return_counts=True)
    return int(counts[place.reshape(-1)].argmax())


def _at_seam(x: Floats, y: Floats, scores: Floats, stride: int) -> int:
    """The one that begins closest before a seam between windows."""
    if not stride:
        return _any(x, y, scores, stride)
    away = np.minimum(-x % stride, -y % stride)
    away[(x < stride / 2) & (y < stride / 2)] = np.inf  # the image's own corner is no seam
    return int(away.argmin())
