"""Runs to look at, and the viewer that shows them, for its tests."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pyarrow as pa
import yaml
from aiohttp import web
from rich.console import Console

from condinst.masks import RleMasks
from jobs.check import load
from jobs.from_tables import instances_of
from jobs.scenes import write_mosaic
from jobs.segment import run_job
from jobs.viewer.server import free_socket, make_app
from jobs.viewer.view import View
from pipeline import tables
from pipeline.geo.geoparquet import geo_columns, geo_metadata
from pipeline.geo.georef import Georef
from pipeline.geo.polygons import on_map
from pipeline.geo.reader import open_raster
from pipeline.storage import Store
from tests.made import rewrite

HOSTILE = '"><img src=x onerror=alert(1)>.jpg'
"""A name that a page which forgets to escape would run."""
REAL = ("dsb2018-nuclei", "maize-kernels", "mushroom-beds", "estonia-aerial-boxes")


def real_images(data: Path, folder: Path, each: int = 5) -> Path:
    """Some photographs of each real set, and one that is cut off under a hostile name."""
    folder.mkdir(parents=True)
    for name in REAL:
        for source in sorted((data / name / "images" / "val").glob("*.jpg"))[:each]:
            shutil.copy(source, folder / f"{name}-{source.name}")
    whole = next(folder.glob("*.jpg")).read_bytes()
    (folder / HOSTILE).write_bytes(whole[: len(whole) // 3])
    return folder


def segment(inputs: Path, output: str, shard: int = 8, score: float = 0.05, **model: Any) -> tables.Run:
    """A whole job in this process, of the model that ships."""
    spec = {
        "kind": "segment",
        "name": "looked-at",
        "input": [{"uri": str(inputs)}],
        "model": {"weights": "demo", "score_threshold": score, **model},
        "output": {"uri": output},
        "shards": {"images": shard},
        "workers": {"count": 1, "gpus": 0, "cpus": 1},
    }
    file = inputs.parent / f"{Path(output).name}.yaml"
    file.write_text(yaml.safe_dump(spec))
    run_job(load(file, []), local=True, console=Console(quiet=True))
    return tables.open(output)


def georeferenced(folder: Path) -> tables.Run:
    """A run of a mosaic that lies somewhere, with the geometries of its instances."""
    raster = folder / "ground" / "mosaic.tif"
    raster.parent.mkdir(parents=True)
    write_mosaic(raster, 7, 512, 512)
    run = segment(raster.parent, str(folder / "placed"), max_instances=300, score=0.3)
    georef = open_raster(Store.open(str(raster.parent)), raster.name).header.georef
    assert georef is not None
    store, shard = run.store, run.shards[0]
    rewrite(store, shard, "instances", lambda rows: _placed(rows, georef))
    rewrite(store, shard, "images", lambda rows: _located(rows, georef))
    return tables.open(run.store.uri)


def _placed(rows: pa.Table, georef: Georef) -> pa.Table:
    classes = sorted(set(rows["category"].to_pylist()))
    found = on_map(instances_of(rows, classes).masks, georef)
    at = rows.schema.get_field_index("geometry")
    said = {**(rows.schema.metadata or {}), **geo_metadata(georef.crs, found.bounds)}
    return rows.set_column(at, rows.schema.field(at), geo_columns(found)[0]).replace_schema_metadata(said)


def _located(rows: pa.Table, georef: Georef) -> pa.Table:
    for name, value in (("crs", georef.crs), ("transform", list(georef.transform))):
        at = rows.schema.get_field_index(name)
        field = rows.schema.field(at)
        rows = rows.set_column(at, field, pa.array([value] * len(rows), field.type))
    return rows


def masks_of(rows: pa.Table) -> RleMasks:
    """The masks of some rows."""
    return instances_of(rows, sorted(set(rows["category"].to_pylist()))).masks


@dataclass
class Answer:
    """What came back."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Site:
    """A viewer that listens."""

    url: str
    views: Sequence[View]

    def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> Answer:
        """One request; redirections are not followed."""
        words = f"?{urlencode(query, doseq=True)}" if query else ""
        request = urllib.request.Request(f"{self.url}{path}{words}", headers=headers or {})
        try:
            with _opener.open(request, timeout=60) as response:
                return Answer(response.status, response.read(), dict(response.headers))
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read(), dict(error.headers))


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_Stay)


@contextmanager
def viewing(*runs: tables.Run, token: str | None = None) -> Iterator[Site]:
    """The viewer of these runs, over HTTP, in a thread; its indices are filled."""
    views = [View(run) for run in runs]
    listening = free_socket("127.0.0.1", 0)
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(make_app(views, token))

    async def start() -> None:
        await runner.setup()
        await web.SockSite(runner, listening).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        for view in views:
            view.index.wait_for(2**31, 60)
            assert view.index.error is None
        yield Site(f"http://127.0.0.1:{listening.getsockname()[1]}", views)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
