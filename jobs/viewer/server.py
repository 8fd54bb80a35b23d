"""The viewer's HTTP: static files, and of a run only what the screen shows. Reads alone; see `guard`."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from pydantic import ValidationError

from jobs.viewer.filters import Filter
from jobs.viewer.guard import guard
from jobs.viewer.index import Index
from jobs.viewer.view import View
from pipeline.records import Window

STATIC = Path(__file__).parent / "static"
FIRST_PAGE = 1.0
"""Seconds that a page waits for the index to have its images."""
ALONE = 2.0
"""Seconds that the first page has the processor for itself before indices are filled."""
MOST_INSTANCES = 20_000
"""Instances of an image, or of a part of it, that are sent at once: the best."""
MOST_ON_MAP = 1_500
_THREADS = 6
_LISTS = ("status", "category")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".mjs": "text/javascript"}
T = TypeVar("T")


def make_app(views: Sequence[View], token: str | None = None) -> web.Application:
    """The viewer of one run, or of two to compare. With a token nothing is told to who does not hold it."""
    app = web.Application(middlewares=[guard(token)])
    handlers = _Handlers(views)
    app.cleanup_ctx.append(handlers.working)
    one = "/api/runs/{run:[0-9]}/images/{no:[0-9]{1,9}}"
    app.add_routes(
        [
            web.get("/", handlers.page),
            web.get("/static/{path:[a-z./-]+}", handlers.static),
            web.get("/api/runs", handlers.runs),
            web.get("/api/runs/{run:[0-9]}/images", handlers.images),
            web.get("/api/runs/{run:[0-9]}/find", handlers.find),
            web.get("/api/runs/{run:[0-9]}/map", handlers.map),
            web.get(one, handlers.image),
            web.get(one + "/instances", handlers.instances),
            web.get(one + "/pixels", handlers.pixels),
            web.get(one + "/thumbnail", handlers.thumbnail),
        ]
    )
    return app


class _Handlers:
    def __init__(self, views: Sequence[View]) -> None:
        self._views = views
        self._pool = ThreadPoolExecutor(_THREADS, "view")
        # The only files there are to serve: a path is looked up here and never on the disk.
        self._files = {f.relative_to(STATIC).as_posix(): f for f in STATIC.rglob("*") if f.suffix in _TYPES}

    async def working(self, _: web.Application) -> AsyncIterator[None]:
        """Fill the indices while the server lives."""
        # No daemons: a thread that is inside a library's code when the interpreter ends aborts the process.
        fillers = [
            threading.Thread(target=view.index.fill, args=(ALONE,), name="filler") for view in self._views
        ]
        for filler in fillers:
            filler.start()
        yield
        for view in self._views:
            view.index.stop()
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        for filler, view in zip(fillers, self._views, strict=True):
            await asyncio.to_thread(filler.join)
            view.index.close()

    async def page(self, request: web.Request) -> web.StreamResponse:
        """The page; its address is left without the token."""
        if "token" in request.query:
            return web.Response(status=302, headers={"Location": "/"})
        return self._file("index.html")

    async def static(self, request: web.Request) -> web.StreamResponse:
        """A file of the page."""
        return self._file(request.match_info["path"])

    async def runs(self, request: web.Request) -> web.StreamResponse:
        """What is shown."""
        return web.json_response([await self._work(view.about) for view in self._views])

    async def images(self, request: web.Request) -> web.StreamResponse:
        """A page of the grid."""
        index, wanted = self._view(request).index, _filter(request)
        await self._work(index.wait_for_page, wanted, FIRST_PAGE)
        page = await self._work(index.page, wanted)
        return web.json_response({**asdict(page), "indexed": index.shards, "shards": len(index.run.shards)})

    async def find(self, request: web.Request) -> web.StreamResponse:
        """The image of an id, as in the other run; `near` is its number there."""
        index, near = self._view(request).index, _number(request, "near", -1, -1, 10**9)
        name = request.query.get("image_id", "")
        found = await self._work(index.find, name, None if near < 0 else near, FIRST_PAGE)
        return web.json_response(_there(found, index))

    async def image(self, request: web.Request) -> web.StreamResponse:
        """One image's row."""
        return web.json_response(await self._row(request))

    async def instances(self, request: web.Request) -> web.StreamResponse:
        """An image's instances, or those in a part of it."""
        row = await self._row(request)
        part = _window(request, "x" in request.query, row)
        found = await self._work(self._view(request).instances, row, part, MOST_INSTANCES)
        return web.json_response(found)

    async def pixels(self, request: web.Request) -> web.StreamResponse:
        """An image's pixels, or those of a part of it."""
        row = await self._row(request)
        whole = Window(0, 0, row["width"] or 1, row["height"] or 1)
        part = _window(request, "x" in request.query, row) or whole
        data = await self._work(
            self._view(request).pictures.window, row, part, _number(request, "step", 1, 1, 4096)
        )
        return _picture(data)

    async def thumbnail(self, request: web.Request) -> web.StreamResponse:
        """An image small, with up to so many of its masks."""
        most = _number(request, "masks", 200, 0, 1000)
        return _picture(await self._work(self._view(request).thumbnail, await self._row(request), most))

    async def map(self, request: web.Request) -> web.StreamResponse:
        """What lies in a part of the map."""
        box = [float(request.query.get(side, "nan")) for side in ("west", "south", "east", "north")]
        score = float(request.query.get("score", "0"))
        if not all(abs(value) <= 1000 for value in (*box, score)):
            raise ValueError("west, south, east and north are degrees, score is 0 to 1")
        return web.json_response(await self._work(self._view(request).map, box, score, MOST_ON_MAP))

    async def _row(self, request: web.Request) -> dict[str, Any]:
        index, no = self._view(request).index, int(request.match_info["no"])
        await self._work(index.wait_for_image, no, FIRST_PAGE)
        return _there(await self._work(index.image, no), index)

    def _view(self, request: web.Request) -> View:
        number = int(request.match_info["run"])
        if number >= len(self._views):
            raise web.HTTPNotFound(text="there is no such run")
        return self._views[number]

    def _file(self, name: str) -> web.StreamResponse:
        if name not in self._files:
            raise web.HTTPNotFound(text="there is no such file")
        file = self._files[name]
        return web.FileResponse(
            file,
            headers={"Content-Type": f"{_TYPES[file.suffix]}; charset=utf-8", "Cache-Control": "no-cache"},
        )

    def _work(self, function: Callable[..., T], *arguments: Any) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


def _filter(request: web.Request) -> Filter:
    """The address's words as a filter. Raises ValueError, which says what is wrong."""
    given: dict[str, Any] = dict(request.query)
    given |= {name: tuple(request.query.getall(name)) for name in _LISTS if name in request.query}
    given.pop("token", None)
    try:
        return Filter.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _window(request: web.Request, asked: bool, row: dict[str, Any]) -> Window | None:
    """The part of an image that is asked for; None for all of it."""
    if not asked:
        return None
    width, height = row["width"] or 1, row["height"] or 1
    x, y = _number(request, "x", 0, 0, width - 1), _number(request, "y", 0, 0, height - 1)
    return Window(
        x, y, _number(request, "width", width, 1, width), _number(request, "height", height, 1, height)
    )


def _number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    said = request.query.get(name, str(default))
    try:
        value = int(said)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise ValueError(f"{name} is a whole number of {least} to {most}")
    return value


def _there(row: dict[str, Any] | None, index: Index) -> dict[str, Any]:
    if row is None:
        read = 100 * index.shards // max(1, len(index.run.shards))
        so_far = "" if index.complete else f" in the {read} % of the run that are read so far"
        raise web.HTTPNotFound(text=f"there is no such image{so_far}")
    return row


def _picture(data: bytes) -> web.Response:
    kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
    return web.Response(body=data, content_type=kind, headers={"Cache-Control": "private, max-age=3600"})


def free_socket(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any. Raises OSError, such as for a port that is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host.strip("[]"), port))
        listening.listen(128)
    except BaseException:
        listening.close()
        raise
    return listening


def serve(app: web.Application, listening: socket.socket) -> None:
    """Serve until the process is interrupted."""
    with closing(listening):
        web.run_app(app, sock=listening, print=None, access_log=None)
