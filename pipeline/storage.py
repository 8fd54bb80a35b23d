"""One way to objects wherever they lie: a folder on disk, or a prefix in S3, Google or Azure storage."""

from __future__ import annotations

import io
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import BinaryIO, Protocol

from pipeline.keys import Location, addressable, locate, printable, under
from pipeline.local import LocalBackend
from pipeline.objects import (
    BadPath,
    Check,
    Data,
    Denied,
    NotFound,
    ObjectInfo,
    StoreError,
    StoreOptions,
    Unavailable,
)

__all__ = [
    "BadPath",
    "Denied",
    "NotFound",
    "ObjectInfo",
    "Store",
    "StoreError",
    "StoreOptions",
    "Unavailable",
    "addressable",
]


class Backend(Protocol):
    """What a kind of storage can do; keys are full names in the bucket, or paths below a folder."""

    def get(self, key: str, check: Check | None) -> tuple[bytes, ObjectInfo]: ...
    def get_range(self, key: str, start: int, length: int, check: Check | None) -> bytes: ...
    def head(self, key: str) -> ObjectInfo: ...
    def put(self, key: str, data: Data) -> None: ...
    def put_chunks(self, key: str, chunks: Iterator[bytes]) -> None: ...
    def create(self, key: str, data: bytes) -> bool: ...
    def list(self, prefix: str) -> Iterator[ObjectInfo]: ...
    def copy(self, source: str, target: str) -> None: ...
    def delete(self, keys: Iterable[str]) -> None: ...


class Store:
    """The objects below one URI. Keys are relative to it, raw and '/'-separated.

    Opening makes no request. Safe to use from many threads; pickles as its URI and options, and finds its
    credentials anew where it arrives. Every method raises `StoreError`, or one of its kinds: `NotFound`,
    `Denied`, `Unavailable`.
    """

    def __init__(self, location: Location, options: StoreOptions) -> None:
        self.uri = location.uri
        self.options = options
        self._location = location
        self._prefix = f"{location.path}/" if location.path and location.scheme != "file" else ""
        self._made: Backend | None = None
        self._lock = threading.Lock()

    @classmethod
    def open(cls, uri: str, options: StoreOptions | None = None) -> Store:
        """Open a local path, `file://`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`."""
        return cls(locate(uri), options or StoreOptions())

    def __reduce__(self) -> tuple[object, ...]:
        return Store.open, (self.uri, self.options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and (self.uri, self.options) == (other.uri, other.options)

    def __hash__(self) -> int:
        return hash((self.uri, self.options))

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    @property
    def local(self) -> bool:
        """Whether the objects are files on disk."""
        return self._location.scheme == "file"

    def join(self, key: str) -> str:
        """Return the full URI of a key: a plain path on disk."""
        return under(self.uri, key)

    def problem(self, key: str) -> str | None:
        """Say why a listed key cannot be asked for, or None when it can."""
        return addressable(self._prefix + key)

    def get(self, key: str) -> bytes:
        """Read an object as a whole."""
        return self.get_with_info(key)[0]

    def get_with_info(self, key: str, check: Check | None = None) -> tuple[bytes, ObjectInfo]:
        """Read an object and what it is, in one request.

        `check` is called with what it is before the bytes are read; what it raises comes through.
        """
        data, info = self._backend.get(self._full(key), check)
        return data, ObjectInfo(key, info.size, info.etag)

    def get_range(self, key: str, start: int, length: int, check: Check | None = None) -> bytes:
        """Read `length` bytes from `start` on; fewer where the object ends before.

        `check` is called with what the object was that the bytes are of; what it raises comes through. Raises
        Changed, or StoreError, for a `start` beyond the end.
        """
        return self._backend.get_range(self._full(key), start, length, check)

    def head(self, key: str) -> ObjectInfo:
        """Describe an object without reading it."""
        info = self._backend.head(self._full(key))
        return ObjectInfo(key, info.size, info.etag)

    def reader(self, key: str, size: int | None = None) -> BinaryIO:
        """Open an object for seeking and reading, a range request a read; `size` saves asking for it."""
        return ObjectReader(self, key, self.head(key).size if size is None else size)  # type: ignore[return-value]

    def put(self, key: str, data: Data) -> None:
        """Write an object, replacing what is there: readers see the old one or the new one, never a part."""
        self._backend.put(self._full(key), data)

    def put_chunks(self, key: str, chunks: Iterator[bytes]) -> None:
        """Write an object, of any size, as its bytes come; the same promise as `put`.

        Where `chunks` raises, nothing is left. A failed request is made again, the whole is not.
        """
        self._backend.put_chunks(self._full(key), chunks)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless one is there; of many writers exactly one succeeds.

        False when there is one already. After a lost answer the request is made again, so False may then mean
        our own object: who must know reads it.
        """
        return self._backend.create(self._full(key), data)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key begins with `prefix`, at any depth, in the order of keys' UTF-8 bytes.

        Nothing when nothing is there. Keys come raw, those that cannot be asked for too: see `problem`.
        """
        if ".." in prefix.split("/")[:-1]:  # what follows the last slash is the beginning of a name
            raise StoreError(f"{printable(self.join(prefix))} leads out of {self.uri}")
        skip = len(self._prefix)
        for info in self._backend.list(self._prefix + prefix):
            yield ObjectInfo(info.key[skip:], info.size, info.etag) if skip else info

    def records(self, folder: str) -> Iterator[ObjectInfo]:
        """Yield the JSON records below `folder/`, as `list` does: no folder's marker, no file of others'."""
        return (info for info in self.list(folder) if info.key.endswith(".json"))

    def copy(self, source: str, target: str) -> None:
        """Copy an object to another key of this store, replacing what is there in one step."""
        self._backend.copy(self._full(source), self._full(target))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; absent ones are no error."""
        self._backend.delete(self._full(key) for key in keys)

    def probe(self) -> None:
        """Prove that objects can be written here, and created only once; leaves nothing behind.

        Raises `StoreError` where a second create of the same object is accepted: nothing would hold two
        drivers apart there.
        """
        key = f"_probe/{secrets.token_hex(8)}"
        try:
            if not self.create(key, b"first") and self.get(key) != b"first":
                raise StoreError(f"{self.join(key)}: somebody else writes here under random names")
            if self.create(key, b"second") or self.get(key) != b"first":
                raise StoreError(
                    f"{self.uri} overwrites what is to be created only if absent (it ignores If-None-Match), "
                    "so two runs could both commit a shard; use a store that honours conditional puts"
                )
        except StoreError:
            with suppress(StoreError):
                self.delete([key])
            raise
        self.delete([key])

    @property
    def _backend(self) -> Backend:
        if self._made is None:
            with self._lock:
                self._made = self._made or self._make()
        return self._made

    def _make(self) -> Backend:
        place = self._location
        if place.scheme == "file":
            return LocalBackend(self.uri)
        from pipeline.remote import remote_backend  # its clients take half a second to load

        return remote_backend(place.scheme, place.bucket, self.options)

    def _full(self, key: str) -> str:
        full = self._prefix + key
        if reason := addressable(key) or addressable(full):
            raise StoreError(f"{printable(self.join(key))}: {reason}, so it cannot be read or written here")
        return full


class ObjectReader(io.RawIOBase):
    """An object as a file that seeks; each read is one range request. For Parquet and streams of CSV."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        super().__init__()
        self._store, self._key, self._size, self._at = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        data = self._store.get_range(self._key, self._at, length)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
