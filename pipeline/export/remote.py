"""An export that goes to a store: streamed there in parts, or put together on disk and uploaded."""

from __future__ import annotations

import io
import queue
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pipeline.export.errors import TargetError
from pipeline.storage import Store, StoreError, StoreOptions

_CHUNK = 1 << 20
"""Bytes handed to the upload at a time; it sends parts of 16 of them."""
_WAITING = 16
"""Chunks that wait for the upload."""
_SMALL = 16 << 20
"""Files up to this size go up as one object in one request."""
_UPLOADS = 8
"""Files of a folder uploaded at a time."""


@dataclass(frozen=True)
class Remote:
    """A URI in a store."""

    uri: str
    options: StoreOptions

    def __str__(self) -> str:
        return self.uri

    @property
    def suffix(self) -> str:
        """The ending of its last part, with the dot."""
        return PurePosixPath(self.uri).suffix

    def with_suffix(self, suffix: str) -> Remote:
        """The same with another ending."""
        return Remote(self.uri.removesuffix(self.suffix) + suffix, self.options)

    def file(self) -> tuple[Store, str]:
        """Store and key of the URI as a file. Raises TargetError where it names none."""
        folder, _, name = self.uri.rpartition("/")
        if not name or folder.endswith(":/"):
            raise TargetError(f"{self.uri} names no file; name another place with --to")
        return Store.open(folder, self.options), name

    def folder(self) -> Store:
        """Store of the URI as a folder."""
        return Store.open(self.uri, self.options)


@contextmanager
def streamed_file(place: Remote) -> Iterator[BinaryIO]:
    """A file to write to from start to end, sent while it is written; it appears when the block ends well.

    Memory holds some parts. Raises StoreError when the store does.
    """
    store, key = place.file()
    chunks: queue.Queue[bytes | BaseException | None] = queue.Queue(_WAITING)
    with ThreadPoolExecutor(1, "upload") as thread:
        upload = thread.submit(store.put_chunks, key, _taken(chunks))
        sink = _Sink(chunks, upload)
        file = io.BufferedWriter(sink, _CHUNK)  # type: ignore[type-var]
        try:
            yield file
            file.flush()
        except BaseException as error:
            sink.give(error)
            with suppress(BaseException):
                upload.result()
            raise
        sink.give(None)
        upload.result()


@contextmanager
def uploaded_file(place: Remote) -> Iterator[Path]:
    """A name in a temporary folder; what is there when the block ends well is uploaded."""
    store, key = place.file()
    with _spool(place) as folder:
        path = folder / key
        yield path
        _upload(store, key, path)


@contextmanager
def uploaded_folder(place: Remote) -> Iterator[Path]:
    """The same for a folder, below which nothing may lie yet.

    Its own files go up last: they tell that the folders are whole.
    """
    store = place.folder()
    if next(iter(store.list()), None) is not None:
        raise TargetError.taken(place)
    with _spool(place) as folder:
        yield folder
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for last in (False, True):
            some = [path for path in files if (path.parent == folder) is last]
            with ThreadPoolExecutor(_UPLOADS, "upload") as threads:
                for _ in threads.map(
                    lambda path: _upload(store, path.relative_to(folder).as_posix(), path), some
                ):
                    pass


@contextmanager
def _spool(place: Remote) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="condinst-export-") as name:
        try:
            yield Path(name)
        except OSError as error:
            raise TargetError(
                f"{name}: {error.strerror or error}; what goes to {place} is put together there: set TMPDIR "
                "to a folder with room"
            ) from error


def _upload(store: Store, key: str, path: Path) -> None:
    if path.stat().st_size <= _SMALL:
        store.put(key, path.read_bytes())
    else:
        with path.open("rb") as file:
            store.put_chunks(key, iter(lambda: file.read(_CHUNK), b""))


def _taken(chunks: queue.Queue[bytes | BaseException | None]) -> Iterator[bytes]:
    """What the upload takes: chunks up to the end; an error in their place makes it give up."""
    while (chunk := chunks.get()) is not None:
        if isinstance(chunk, BaseException):
            raise StoreError(f"given up: {chunk}")
        yield chunk


class _Sink(io.RawIOBase):
    """Hands what is written to the upload."""

    def __init__(self, chunks: queue.Queue[bytes | BaseException | None], upload: Future[None]) -> None:
        super().__init__()
        self._chunks, self._upload, self._ended = chunks, upload, False

    def writable(self) -> bool:
        return True

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        """Give a copy of the bytes; raises what the upload raised. After the end they go nowhere."""
        if not self._ended:
            self.give(bytes(data))
        return len(data)

    def give(self, chunk: bytes | BaseException | None) -> None:
        """Give a chunk, the end, or a reason to give up; to nobody once the upload has ended."""
        self._ended = self._ended or not isinstance(chunk, bytes)
        while not self._upload.done():
            with suppress(queue.Full):
                self._chunks.put(chunk, timeout=0.2)
                return
        if isinstance(chunk, bytes):
            self._upload.result()
