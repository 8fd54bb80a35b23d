"""The bytes of a job's inputs, wherever they lie."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pipeline.keys import locate
from pipeline.objects import Changed, Denied, NotFound, ObjectInfo, StoreError, StoreOptions, Unavailable
from pipeline.records import ImageRef, InputRejected, Status
from pipeline.sources import InputSource
from pipeline.storage import Store

HEADER_BYTES = 64 << 10
"""Of a file's beginning: they hold the header of nearly every image."""


@contextmanager
def rejecting() -> Iterator[None]:
    """Around the reading of one input: its store's errors become InputRejected, all but Unavailable."""
    try:
        yield
    except Unavailable:
        raise
    except (NotFound, Denied, Changed) as error:
        raise InputRejected(Status.MISSING, str(error)) from None
    except StoreError as error:
        raise InputRejected(Status.FAILED, str(error)) from None


class Inputs:
    """Fetches the images of a plan through their sources' options; one client a bucket. Safe in threads."""

    def __init__(self, sources: Sequence[InputSource]) -> None:
        self._sources = tuple(sources)
        self._stores: dict[tuple[str, StoreOptions | None], Store] = {}
        self._lock = threading.Lock()

    def fetch(self, ref: ImageRef, limit_bytes: int) -> tuple[bytes, str | None]:
        """Read an image's file in one request; returns its bytes and its etag.

        Raises InputRejected when this one file cannot be had: `unsupported` for a name that cannot be asked
        for, `too_large` over `limit_bytes` (known before it is read), `missing` when it is gone, forbidden or
        no longer the file that was planned, `failed` otherwise. Raises Unavailable when the store serves
        nobody: that is no fault of the image, and its shard is to be tried again.
        """
        if ref.problem is not None:
            raise InputRejected(Status.UNSUPPORTED, ref.problem)
        if ref.bytes is not None:
            _check_size(ref.bytes, limit_bytes)

        def check(info: ObjectInfo) -> None:
            _check_etag(ref, info)
            _check_size(info.size, limit_bytes)

        with rejecting():
            store, key = self.find(ref)
            data, info = store.get_with_info(key, check)
        return data, info.etag

    def head(self, ref: ImageRef) -> ObjectInfo:
        """What an input's file is now.

        Raises InputRejected, `missing`, when it is no longer the file that was planned, StoreError.
        """
        store, key = self.find(ref)
        info = store.head(key)
        _check_etag(ref, info)
        return info

    def as_they_are(self, refs: Sequence[ImageRef]) -> list[ImageRef]:
        """The same inputs with the etags that their files have now, each file asked for once.

        So all windows of a raster are read from one version of it. What cannot be had is left as it is, to be
        refused when it is read. Raises Unavailable when a store serves nobody.
        """
        etags: dict[tuple[int, str], str | None] = {}
        for ref in refs:
            if (ref.source, ref.uri) not in etags:
                etags[ref.source, ref.uri] = self._etag(ref)
        return [replace(ref, etag=etags[ref.source, ref.uri]) for ref in refs]

    def _etag(self, ref: ImageRef) -> str | None:
        store, key = self.find(ref)
        try:
            return store.head(key).etag
        except Unavailable:
            raise
        except StoreError:
            return ref.etag

    def beginning(self, ref: ImageRef, length: int = HEADER_BYTES) -> bytes:
        """Read the first bytes of an image's file; raises as `fetch` does."""
        if ref.problem is not None:
            raise InputRejected(Status.UNSUPPORTED, ref.problem)
        if ref.bytes == 0:
            raise InputRejected(Status.CORRUPT, "the file is empty")
        with rejecting():
            store, key = self.find(ref)
            return store.get_range(key, 0, length if ref.bytes is None else min(length, ref.bytes))

    def find(self, ref: ImageRef) -> tuple[Store, str]:
        """The store that an input's file lies in, and its key there."""
        place = locate(ref.uri, trim=False)
        options = self._sources[ref.source].options
        with self._lock:
            store = self._stores.setdefault((place.root, options), Store.open(place.root, options))
        return store, place.path


def _check_etag(ref: ImageRef, info: ObjectInfo) -> None:
    if ref.etag is not None and info.etag is not None and info.etag != ref.etag:
        raise InputRejected(Status.MISSING, f"changed since the plan (etag {ref.etag} -> {info.etag})")


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise InputRejected(Status.TOO_LARGE, f"{size:,} bytes; the limit is {limit:,} (limits.bytes)")
