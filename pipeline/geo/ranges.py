"""An object read by ranges, a page at a time: what several windows need is fetched once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, count

from pipeline.objects import Changed, ObjectInfo
from pipeline.storage import Store
from pipeline.watchdog import paused

PAGE = 1 << 14
"""Bytes of a page; a request reads whole pages."""
_HEADER_PAGES = 4
"""Pages a request for a few bytes reads: a header's parts lie close together."""
_GAP = 4
"""Pages that are not asked for are read too where that saves a request."""
_SMALL = 1 << 12

_numbers = count()


class Pages:
    """The pages last used, of all rasters together, up to a number of bytes. Safe in threads."""

    def __init__(self, limit: int = 128 << 20) -> None:
        self._limit = limit // PAGE
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, file: int, numbers: Iterable[int]) -> dict[int, bytes]:
        """Those of a file's pages that are here."""
        found = {}
        with self._lock:
            for number in numbers:
                if (page := self._kept.get((file, number))) is not None:
                    self._kept.move_to_end((file, number))
                    found[number] = page
        return found

    def put(self, file: int, pages: dict[int, bytes]) -> None:
        """Keep a file's pages, at the cost of those that were not used for longest."""
        with self._lock:
            self._kept.update(((file, number), page) for number, page in pages.items())
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)


class Ranged:
    """One object of a store as a sequence of bytes, fetched where it is asked for. Safe in threads."""

    def __init__(
        self,
        store: Store,
        key: str,
        size: int,
        pages: Pages,
        threads: ThreadPoolExecutor | None = None,
        etag: str | None = None,
    ) -> None:
        """`threads` make a read's requests at the same time; without them they go one after another.

        With its `etag` no byte is taken of another object that was put in its place.
        """
        self.uri = store.join(key)
        self._store, self._key, self._size, self._etag = store, key, size, etag
        self._pages, self._threads = pages, threads
        self._number = next(_numbers)
        self._coming: dict[int, Future[dict[int, bytes]]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        return self.read(start, stop - start)

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start` on; fewer at the end. Raises StoreError: Changed for another object."""
        length = min(length, self._size - start)
        if length <= 0:
            return b""
        first, last = start // PAGE, (start + length - 1) // PAGE
        pages = self._get(range(first, last + 1), _HEADER_PAGES if length <= _SMALL else 1)
        return _cut(pages, start, length)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several (start, length) at once, in as few requests as their places allow; raises as `read`."""
        ranges = [(start, max(0, min(length, self._size - start))) for start, length in ranges]
        wanted = {
            number
            for start, length in ranges
            if length
            for number in range(start // PAGE, (start + length - 1) // PAGE + 1)
        }
        pages = self._get(sorted(wanted), 1)
        return [_cut(pages, start, length) for start, length in ranges]

    def _get(self, numbers: Sequence[int], least: int) -> dict[int, bytes]:
        """Pages by their numbers: from the cache, from a request another thread has made, or from ours.

        Time that passes until they are here is nobody's who decodes.
        """
        mine: Future[dict[int, bytes]] = Future()
        with self._lock:
            found = self._pages.get(self._number, numbers)
            missing = [number for number in numbers if number not in found]
            theirs = {number: self._coming[number] for number in missing if number in self._coming}
            runs = _runs([number for number in missing if number not in theirs], least)
            for number in chain(*runs):
                self._coming.setdefault(number, mine)
        if not missing:
            return found
        with paused():
            return found | self._come(runs, mine, theirs)

    def _come(
        self,
        runs: Sequence[range],
        mine: Future[dict[int, bytes]],
        theirs: Mapping[int, Future[dict[int, bytes]]],
    ) -> dict[int, bytes]:
        """The pages of some runs, which we fetch, and those that other threads fetch."""
        try:
            found = self._fetch_all(runs, mine)
        finally:
            with self._lock:
                for number in chain(*runs):
                    if self._coming.get(number) is mine:
                        del self._coming[number]
        for number, future in theirs.items():
            # Whoever else asked for it may have failed for reasons of its own; then it is our turn.
            pages = self._get([number], 1) if future.exception() else future.result()
            found[number] = pages[number]
        return found

    def _fetch_all(self, runs: Sequence[range], done: Future[dict[int, bytes]]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        try:
            each = map(self._fetch, runs) if self._threads is None else self._threads.map(self._fetch, runs)
            for pages in each:
                self._pages.put(self._number, pages)
                found |= pages
        except BaseException as error:
            done.set_exception(error)
            raise
        done.set_result(found)
        return found

    def _fetch(self, run: range) -> dict[int, bytes]:
        start, stop = run.start * PAGE, min(run.stop * PAGE, self._size)
        data = self._store.get_range(self._key, start, stop - start, self._check)
        if len(data) != stop - start:
            raise Changed(f"{self.uri}: it ends before byte {stop:,}: it was changed since it was planned")
        view = memoryview(data)
        return {
            run.start + at: bytes(view[at * PAGE : (at + 1) * PAGE]) for at in range(-(-len(data) // PAGE))
        }

    def _check(self, info: ObjectInfo) -> None:
        if self._etag is not None and info.etag is not None and info.etag != self._etag:
            raise Changed(f"{self.uri}: changed since the plan (etag {self._etag} -> {info.etag})")


def _runs(numbers: Sequence[int], least: int) -> list[range]:
    """Stretches of pages to fetch that hold all of `numbers`, which rise; each of at least `least` pages."""
    runs: list[range] = []
    for number in numbers:
        if runs and number <= runs[-1].stop + _GAP:
            runs[-1] = range(runs[-1].start, max(runs[-1].stop, number + 1))
        else:
            runs.append(range(number, number + least))
    return runs


def _cut(pages: dict[int, bytes], start: int, length: int) -> bytes:
    if not length:
        return b""
    first, last = start // PAGE, (start + length - 1) // PAGE
    if first == last:
        return pages[first][start - first * PAGE :][:length]
    joined = b"".join(pages[number] for number in range(first, last + 1))
    return joined[start - first * PAGE :][:length]
