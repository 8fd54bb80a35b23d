"""The images of a report with their masks drawn, as data that the page holds itself."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from jobs.from_tables import instances_of
from jobs.overlay import draw
from jobs.run_report.gather import Gathered
from jobs.viewer.pixels import Pictures
from pipeline.plan import PlanError
from pipeline.records import InputRejected
from pipeline.storage import StoreError
from pipeline.tables import Run

SECONDS = 60.0
"""Time that all overlays together may take."""
BYTES = 3_000_000
"""Of all overlays; the page has to stay under 5 MB."""
_LONGEST = 900
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
        for title, why, rows in _groups(gathered):
            fresh = [row for row in rows if row["no"] not in seen]
            seen |= {row["no"] for row in fresh}
            drawn = [overlay for overlay in threads.map(drawer, fresh) if overlay is not None]
            if drawn:
                made.append(Group(title, why, drawn))
    return made


def _groups(gathered: Gathered) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    yield "Random", "by the dice, the same each time", gathered.random.rows
    yield "Densest", "the most instances", gathered.densest.rows
    yield "Least sure", "the lowest scores in the mean", gathered.lowest.rows
    yield "At seams and edges", "the most instances cut by the image's edge", gathered.cut.rows


class _Drawer:
    """Draws a row's image. Called from threads."""

    def __init__(self, run: Run, classes: list[str]) -> None:
        self._run, self._classes = run, classes
        self._pictures = Pictures.of(run)
        self._until = time.monotonic() + SECONDS
        self._room = BYTES

    def __call__(self, row: Mapping[str, Any]) -> Overlay | None:
        """None when there is no time or room left."""
        said = f"{row['instances']:,} instances, {row['width']:,} x {row['height']:,} pixels"
        if time.monotonic() > self._until or self._room <= 0:
            return None
        try:
            data = self._draw(row)
        except (InputRejected, StoreError, PlanError) as error:
            return Overlay(row["image_id"], said, trouble=str(error))
        self._room -= len(data)
        return Overlay(row["image_id"], said, f"data:image/webp;base64,{data}")

    def _draw(self, row: Mapping[str, Any]) -> str:
        found = instances_of(self._rows(row), self._classes)
        picture = Image.fromarray(draw(self._pictures.image(row), found, self._classes))
        picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=74, method=4)
        return base64.b64encode(buffer.getvalue()).decode()

    def _rows(self, row: Mapping[str, Any]) -> pa.Table:
        commit = self._run.commits[row["shard"]]
        wanted = pc.field("image_id") == row["image_id"]
        return self._run.part(commit, "instances", _COLUMNS, wanted).slice(0, _MASKS)
