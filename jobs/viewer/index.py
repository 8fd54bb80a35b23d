"""Finds images among millions: what the grid filters and sorts by, in DuckDB, filled shard by shard.

The tables are read through the run's commits, so an index holds exactly what was committed when the run was
opened, wherever it lies; masks are not read. A file in a temporary folder holds it. Questions are answered
from what is in it already while the rest comes in.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from jobs.viewer.filters import SORTS, Filter, matching
from jobs.viewer.shelf import FIRST, IMAGES, INSTANCES, Shelf, listed
from pipeline.tables import Run

_TABLES = """
CREATE TABLE images (no INTEGER, shard INTEGER, place INTEGER, image_id VARCHAR, status VARCHAR,
    error VARCHAR, width INTEGER, height INTEGER, instances INTEGER, best FLOAT, worst FLOAT);
CREATE TABLE instances (no INTEGER, instance_id INTEGER, category SMALLINT, score FLOAT);
CREATE TABLE places (no INTEGER, instance_id INTEGER, category SMALLINT, score FLOAT, lon DOUBLE, lat DOUBLE);
"""
_ALL = 2**62
_SECONDS = 0.3
"""Rows are made visible this often."""
_PAGE = (
    *("no", "shard", "image_id", "status", "error", "width", "height", "instances"),
    *("hits", "best", "worst"),
)


@dataclass(frozen=True)
class Page:
    """One page of the grid."""

    total: int
    """Images that the filter holds for, of those looked at."""
    images: list[dict[str, Any]]
    whole: bool
    """Whether all of the run was looked at."""


@dataclass(frozen=True)
class Cells:
    """What lies in a part of the map: so many instances, each or by cells of a raster of 64 x 64."""

    total: int
    points: list[dict[str, Any]]
    """`lon`, `lat`, `hits`; single ones also `no`, `instance_id`, `category`, `score`."""


class Index:
    """Images and instances of a run. `fill` it in a thread; ask from any."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.shelf = Shelf(run)
        self.crs = run.crs
        """Of the instances' geometries; None for a run without."""
        self.shards = 0
        """Shards that are in."""
        self.error: str | None = None
        """Why filling ended early."""
        self._images = 0
        self._folder = tempfile.TemporaryDirectory(prefix="condinst-view-")
        self._db = duckdb.connect(Path(self._folder.name) / "index.duckdb")
        self._db.execute("SET enable_external_access = false; SET memory_limit = '1GB'; SET threads = 2")
        self._db.execute(_TABLES)
        self._stop = threading.Event()
        self._begin = threading.Event()
        self._came = threading.Condition()

    @property
    def categories(self) -> tuple[str, ...]:
        """Classes by number, as far as they are known: more may follow, none changes its place."""
        return self.shelf.known.categories

    @property
    def complete(self) -> bool:
        """Whether every shard is in."""
        return self.shelf.counted and self.shards == len(self.run.shards)

    def stop(self) -> None:
        """Let whoever fills it end with the shard that is in work."""
        self._stop.set()
        self._begin.set()

    def close(self) -> None:
        """Take the file away; nobody may fill it or ask any more."""
        self.stop()
        self._db.close()
        del self._db  # at the end of the process duckdb prints what of it is still held
        self._folder.cleanup()

    def fill(self, patience: float = 0.0) -> None:
        """Read the run's tables to their end. An error ends it, and is told in `error`.

        The first page has so many seconds to itself, unless more is asked for before.
        """
        try:
            self._fill(patience)
        except Exception as error:
            if not self._stop.is_set():
                self.error = f"{type(error).__name__}: {error}"
        finally:
            self._tell()

    def wait_for(self, images: int, seconds: float) -> None:
        """Wait until so many images are in, or all, or the time is over."""
        self._wait(lambda: self._images >= images or self.complete, seconds)

    def wait_for_page(self, wanted: Filter, seconds: float) -> None:
        """Wait until a page can be had whole, or the time is over."""
        end = (wanted.page + 1) * wanted.size
        if wanted.plain and not wanted.falling and end <= FIRST:
            self._wait(lambda: self.shelf.counted or self.shelf.known.images >= end, seconds, first=True)
        elif wanted.plain:
            self._wait(lambda: self.shelf.counted, seconds)
        else:
            self.wait_for(end, seconds)

    def wait_for_image(self, no: int, seconds: float) -> None:
        """Wait until that image can be had, or it is known that there is none, or the time is over."""
        self._wait(lambda: self.shelf.known.images > no or self.shelf.counted, seconds)

    def page(self, wanted: Filter) -> Page:
        """The images that a filter holds for, in its order, those of its page.

        `hits`, `best` and `worst` are the number and the scores of the instances that count. While shards
        come in, images in plan order are read from their files; all else is of the shards that are in.
        """
        if wanted.plain and not self.complete and self.error is None:
            whole, images = self.shelf.counted, self.shelf.known.images
            shown = self.shelf.page(wanted.page, wanted.size, wanted.falling)
            self._begin.set()
            return Page(images, [{name: row[name] for name in _PAGE} for row in shown], whole)
        complete = self.complete
        rows, values = matching(wanted, self.categories)
        falling = "DESC" if wanted.falling else "ASC"
        order = f"{SORTS[wanted.sort]} {falling} NULLS LAST, no {falling}"
        columns = f"{', '.join(_PAGE)}, count(*) OVER () AS total"
        sql = f"SELECT {columns} FROM ({rows}) ORDER BY {order} LIMIT ? OFFSET ?"
        found = self._ask(sql, [*values, wanted.size, wanted.page * wanted.size])
        if not found and wanted.page:
            counted = self._ask(f"SELECT count(*) AS total FROM ({rows})", values)
            return Page(counted[0]["total"], [], complete)
        total = found[0]["total"] if found else 0
        return Page(total, [{name: row[name] for name in _PAGE} for row in found], complete)

    def image(self, no: int) -> dict[str, Any] | None:
        """One image's row, with `place`, its place in its shard; None where there is none yet."""
        found = self._ask("SELECT *, instances AS hits FROM images WHERE no = ?", [no])
        return found[0] if found else self.shelf.row(no)

    def find(self, image_id: str, near: int | None = None, seconds: float = 0.0) -> dict[str, Any] | None:
        """The same of the image of that id; where it is likely to be is looked first, then in what is in.

        Waits so many seconds for all to be in.
        """
        if near is not None and (row := self.shelf.row(near)) is not None and row["image_id"] == image_id:
            return row
        self.wait_for(_ALL, seconds)
        found = self._ask("SELECT *, instances AS hits FROM images WHERE image_id = ?", [image_id])
        return found[0] if found else None

    def bounds(self) -> tuple[float, float, float, float] | None:
        """West, south, east and north of all instances that have a place; None when none has."""
        row = self._ask("SELECT min(lon) w, min(lat) s, max(lon) e, max(lat) n FROM places", [])[0]
        return None if row["w"] is None else (row["w"], row["s"], row["e"], row["n"])

    def around(self, box: Sequence[float], score: float, most: int) -> Cells:
        """Instances of at least that score in west, south, east, north: each, or cells when they are more."""
        west, south, east, north = box
        where = "FROM places WHERE lon BETWEEN ? AND ? AND lat BETWEEN ? AND ? AND score >= ?"
        values = [west, east, south, north, score]
        total = self._ask(f"SELECT count(*) AS total {where}", values)[0]["total"]
        if total <= most:
            points = self._ask(f"SELECT *, 1 AS hits {where} ORDER BY no, instance_id", values)
            return Cells(total, [{**p, "category": self.categories[p["category"]]} for p in points])
        width, height = max(east - west, 1e-9) / 64, max(north - south, 1e-9) / 64
        middle = f"SELECT avg(lon) AS lon, avg(lat) AS lat, count(*) AS hits {where}"
        by_cell = f"{middle} GROUP BY floor(lon / ?), floor(lat / ?)"
        return Cells(total, self._ask(by_cell, [*values, width, height]))

    def _ask(self, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        with self._db.cursor() as cursor:
            answer = cursor.execute(sql, list(values))
            names = [column[0] for column in answer.description or ()]
            return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]

    def _fill(self, patience: float) -> None:
        self.shelf.learn_first(self._stop.is_set, self._tell)
        self._begin.wait(patience)
        self.shelf.learn(self._stop.is_set, self._tell)
        columns = [*INSTANCES, "geometry"] if self.crs else list(INSTANCES)
        commits = self.shelf.known.commits
        parts = zip(
            self.run.parts("images", IMAGES, commits=commits),
            self.run.parts("instances", columns, commits=commits),
            strict=True,
        )
        with self._db.cursor() as cursor:
            cursor.begin()
            shown = time.monotonic()
            for shard, (images, instances) in enumerate(parts):
                if self._stop.is_set():
                    return
                self._add(cursor, shard, images, instances)
                if time.monotonic() - shown > _SECONDS or shard < 2:
                    cursor.commit()
                    self._tell(shard + 1)
                    cursor.begin()
                    shown = time.monotonic()
            cursor.commit()
        self._tell(len(commits))

    def _add(
        self, cursor: duckdb.DuckDBPyConnection, shard: int, images: pa.Table, instances: pa.Table
    ) -> None:
        rows, found = listed(shard, self.shelf.known, images, instances)
        cursor.register("found", found)
        cursor.register("listed", rows)
        cursor.execute("INSERT INTO instances SELECT * FROM found")
        cursor.execute("INSERT INTO images SELECT * FROM listed")
        if self.crs:
            from jobs.viewer.places import centres  # loads what knows of maps

            lon, lat = centres(instances["geometry"], self.crs)
            cursor.register("placed", found.append_column("lon", lon).append_column("lat", lat))
            cursor.execute("INSERT INTO places SELECT * FROM placed WHERE lon IS NOT NULL")
        self._images += rows.num_rows

    def _wait(self, holds: Callable[[], bool], seconds: float, first: bool = False) -> None:
        if not first and not holds():
            self._begin.set()
        with self._came:
            self._came.wait_for(lambda: holds() or self.error is not None, seconds)

    def _tell(self, shards: int | None = None) -> None:
        with self._came:
            if shards is not None:
                self.shards = shards
            self._came.notify_all()
