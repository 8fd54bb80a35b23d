"""Somebody who reads the tables while the job runs, as the docs say: `images` first, then `instances`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.storage import NotFound, Store, StoreError

PAUSE = 0.3


class Reader:
    """Looks at every file of `images` as it appears or changes, and for the instances that it speaks of."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, str | None] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.complaints: list[str] = []
        """Image rows that were there before their instances."""

    def close(self) -> None:
        """Look for the last time."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(PAUSE):
            self._look()
        self._look()

    def _look(self) -> None:
        try:
            for info in list(self._store.list("images/")):
                if self._seen.get(info.key) != info.etag:
                    self._seen[info.key] = info.etag
                    self._compare(info.key)
        except StoreError as error:
            self.complaints.append(f"the reader was refused: {error}")

    def _compare(self, key: str) -> None:
        promised = pc.sum(self._read(key)["instances"]).as_py() or 0
        try:
            found = self._read(key.replace("images/", "instances/")).num_rows
        except NotFound:
            self.complaints.append(f"{key} was there before its instances")
            return
        if found != promised:
            self.complaints.append(f"{key} speaks of {promised} instances, {found} were there")

    def _read(self, key: str) -> pa.Table:
        return pq.read_table(BytesIO(self._store.get(key)))


@contextmanager
def reader(store: Store) -> Iterator[Reader]:
    """A reader for the time of a block."""
    it = Reader(store)
    try:
        yield it
    finally:
        it.close()
