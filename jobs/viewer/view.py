"""One run as the viewer shows it: its index, its pictures, the instances of an image, the map."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.viewer.index import Index
from jobs.viewer.shelf import Shelf
from pipeline.records import Window
from pipeline.tables import Run

if TYPE_CHECKING:
    from jobs.viewer.pixels import Pictures

_COLUMNS = ("image_id", "instance_id", "category", "score", "bbox", "area", "mask", "truncated")
_SHARDS = 8
"""Shards read for the outlines of one map."""


class View:
    """What the server asks of a run. Safe in threads."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.index = Index(run)
        self._rows = _Rows(self.index.shelf)

    @cached_property
    def pictures(self) -> Pictures:
        """The run's images."""
        from jobs.viewer.pixels import Pictures  # loads what decodes: the first page need not wait for it

        return Pictures.of(self.run)

    def about(self) -> dict[str, Any]:
        """What the page says of the run, and what it can filter by."""
        job, tally = self.run.job, self.index.shelf.known.tally
        return {
            "name": str(job.get("name", "")),
            "uri": self.run.store.uri,
            "fingerprint": job["fingerprint"],
            "model": job.get("model_digest"),
            "complete": self.run.complete,
            "images": tally.images,
            "instances": tally.instances,
            "statuses": dict(tally.statuses),
            "classes": dict(sorted(tally.classes.items(), key=lambda item: -item[1])),
            "counted": self.index.shelf.counted,
            "categories": self.index.categories,
            "bounds": self.index.bounds() if self.index.crs else None,
            "georeferenced": self.index.crs is not None,
            "indexed": self.index.shards,
            "shards": len(self.run.shards),
            "error": self.index.error,
        }

    def instances(self, row: Mapping[str, Any], part: Window | None, most: int) -> dict[str, Any]:
        """An image's instances by falling score, in columns: those whose crop meets `part`, so many."""
        rows = self._rows.of(row)
        if part is not None:
            rows = rows.filter(meets(part))
        shown = rows.slice(0, most)
        masks = shown["mask"].to_pylist()
        return {
            "total": rows.num_rows,
            "id": shown["instance_id"].to_pylist(),
            "category": shown["category"].cast(pa.string()).to_pylist(),
            "score": shown["score"].to_pylist(),
            "area": shown["area"].to_pylist(),
            "truncated": shown["truncated"].to_pylist(),
            "x": [mask["x"] for mask in masks],
            "y": [mask["y"] for mask in masks],
            "width": [mask["width"] for mask in masks],
            "height": [mask["height"] for mask in masks],
            "counts": [mask["counts"].decode("ascii") for mask in masks],
        }

    def thumbnail(self, row: Mapping[str, Any], most: int) -> bytes:
        """A small picture with up to so many masks. Raises InputRejected."""
        if not most or not row["instances"]:
            return self.pictures.thumbnail(row)
        found = self._rows.of(row).slice(0, most)
        numbers = {name: at for at, name in enumerate(self.index.categories)}
        labels = [numbers[name] for name in found["category"].cast(pa.string()).to_pylist()]
        return self.pictures.thumbnail(row, found["mask"].to_pylist(), labels)

    def map(self, box: Sequence[float], score: float, most: int) -> dict[str, Any]:
        """What lies in west, south, east, north: outlines where they are few, points, or counts of cells."""
        cells = self.index.around(box, score, most)
        single = bool(cells.points) and "no" in cells.points[0]
        shapes = self._shapes(cells.points) if single else {}
        features = [
            _feature(point, shapes.get((point.get("no", -1), point.get("instance_id", -1))))
            for point in cells.points
        ]
        pictures = self._places({point["no"] for point in cells.points}) if single else []
        return {
            "total": cells.total,
            "kind": "instances" if single else "cells",
            "features": {"type": "FeatureCollection", "features": features},
            "images": pictures,
        }

    def _shapes(self, points: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], dict[str, Any]]:
        """Outlines by image and instance; none when they lie in too many shards to be read at once."""
        rows = {no: self.index.image(no) for no in {point["no"] for point in points}}
        if len({row["shard"] for row in rows.values() if row}) > _SHARDS or self.index.crs is None:
            return {}
        from jobs.viewer.places import geojson

        wanted = {(point["no"], point["instance_id"]) for point in points}
        shapes = {}
        for no, row in rows.items():
            if row is None:
                continue
            found = self._rows.of(row, ("image_id", "instance_id", "geometry"))
            for instance, geometry in zip(
                found["instance_id"].to_pylist(), found["geometry"].to_pylist(), strict=True
            ):
                if geometry is not None and (no, instance) in wanted:
                    shapes[no, instance] = geojson(geometry, self.index.crs)
        return shapes

    def _places(self, numbers: set[int], most: int = 24) -> list[dict[str, Any]]:
        """Images to lie under the map: their corners."""
        from jobs.viewer.places import corners

        placed = []
        for no in sorted(numbers)[:most]:
            row = self.index.image(no)
            if row is None:
                continue
            wanted = pc.field("image_id") == row["image_id"]
            commit = self.index.shelf.known.commits[row["shard"]]
            said = self.run.part(commit, "images", ("image_id", "crs", "transform"), wanted).to_pylist()[0]
            found = corners(said["crs"], said["transform"], row["width"] or 0, row["height"] or 0)
            if found is not None:
                placed.append({"no": no, "corners": found})
        return placed


class _Rows:
    """Rows of the images looked at last."""

    def __init__(self, shelf: Shelf, most: int = 64) -> None:
        self._shelf = shelf
        self._most = most
        self._kept: OrderedDict[tuple[object, ...], pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, row: Mapping[str, Any], columns: Sequence[str] = _COLUMNS) -> pa.Table:
        """An image's rows of `instances`, by falling score."""
        key = (row["no"], *columns)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        commit = self._shelf.known.commits[row["shard"]]
        table = self._shelf.run.part(commit, "instances", columns, pc.field("image_id") == row["image_id"])
        with self._lock:
            self._kept[key] = table
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return table


def meets(part: Window) -> pc.Expression:
    """Holds for the rows whose crop meets a rectangle."""
    x, y, width, height = (pc.field("mask", name) for name in ("x", "y", "width", "height"))
    across = (x < part.x + part.width) & (x + width > part.x)
    return across & (y < part.y + part.height) & (y + height > part.y)


def _feature(point: Mapping[str, Any], shape: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": shape or {"type": "Point", "coordinates": [point["lon"], point["lat"]]},
        "properties": {name: value for name, value in point.items() if name not in ("lon", "lat")},
    }
