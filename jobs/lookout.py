"""What a driver looks at while its workers work: whether to cancel, and what stands still."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from jobs.beside import CANCEL_SECONDS, hear, repeated
from jobs.progress import duration
from jobs.stopping import Stop
from pipeline.nouns import many
from pipeline.signs import AGAIN, PATIENCE, Stall, StallWatch, read_signs
from pipeline.storage import Store, StoreError

SIGNS_SECONDS = 30.0
"""Between two looks at the workers' signs: one request a worker."""
JOIN_SECONDS = 2.0
"""How long the end waits for a look that is under way, which could set an alarm after it."""


class Lookout:
    """A thread that looks while the block runs."""

    def __init__(
        self,
        store: Store,
        stop: Stop,
        tell: Callable[[str], None],
        patience: float = PATIENCE,
        asked: Store | None = None,
    ) -> None:
        """`tell` prints a line; it is called from another thread.

        `asked` is where a request to cancel is left, if not where the workers give their signs.
        """
        self._store, self._stop, self._tell, self._patience = store, stop, tell, patience
        self._asked = asked or store
        self._watch = StallWatch(patience)
        self._done: set[str] = set()
        self._heard = self._looked = time.monotonic()
        self._again = patience
        self._looking = repeated(self._look, min(CANCEL_SECONDS, patience), "lookout", JOIN_SECONDS)

    def __enter__(self) -> Self:
        """Begin to look."""
        with suppress(StoreError):
            self._watch.look(read_signs(self._store), time.monotonic())
        self._looking.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; a request that is under way is waited for, but not for long."""
        self._looking.__exit__(kind, error, trace)

    def ended(self, shard: str) -> None:
        """Note that a shard's result came."""
        self._done.add(shard)
        self._heard, self._again = time.monotonic(), self._patience

    def _look(self) -> None:
        now = time.monotonic()
        if hear(self._asked, self._stop):
            self._tell("a cancel was requested: no shard is begun any more, those in work are committed")
        if now - self._looked >= min(SIGNS_SECONDS, self._patience):
            self._looked = now
            signs = read_signs(self._store)
            for stall in self._watch.look(signs, now, self._done):
                self._tell(told(stall))
            if any(sign.shards for sign in signs):
                self._heard = now
            elif now - self._heard >= self._again:
                self._again += AGAIN
                self._tell(f"no worker has begun a shard for {duration(now - self._heard)}: is one starting?")


def told(stall: Stall) -> str:
    """A stall in words: which shard, where, at what, since when."""
    sign = stall.sign
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - stall.seconds))
    silent = f"; the worker has given no sign for {duration(stall.silent)}" if stall.silent > 60 else ""
    return (
        f"shard {sign.shard} stands still for {duration(stall.seconds)}, since {when}: worker {sign.worker}, "
        f"at {sign.doing}, {sign.done:,} of {many(sign.images, 'image')} done{silent}"
    )
