"""Which names have been seen: 16 bytes a name, however many millions there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEW, DUPLICATE, CONFLICT = 0, 1, 2
Hashes = NDArray[np.int64]


def hashes(texts: list[str]) -> Hashes:
    """64-bit hashes of strings, equal within one process only."""
    return np.fromiter(map(hash, texts), np.int64, len(texts))


class Distinct:
    """Names and what each stands for, both as hashes, in sorted runs that are merged as they grow."""

    def __init__(self) -> None:
        self._runs: list[tuple[Hashes, Hashes]] = []

    def add(self, names: Hashes, meanings: Hashes) -> NDArray[np.int8]:
        """Take a batch in; returns a verdict a row, rows before it in the batch counted as seen.

        NEW: the name was not seen; DUPLICATE: with this meaning; CONFLICT: with another meaning.
        """
        order = np.argsort(names, kind="stable")
        ordered, meant = names[order], meanings[order]
        first = np.ones(len(ordered), bool)
        first[1:] = ordered[1:] != ordered[:-1]
        starts = np.flatnonzero(first)
        original = meant[starts[np.cumsum(first) - 1]] if len(starts) else meant
        verdicts = np.where(first, NEW, np.where(meant == original, DUPLICATE, CONFLICT)).astype(np.int8)
        self._look_up(ordered, meant, verdicts)
        new = verdicts == NEW
        if new.any():
            self._push(ordered[new], meant[new])
        result = np.empty_like(verdicts)
        result[order] = verdicts
        return result

    def look_up(self, names: Hashes, meanings: Hashes) -> NDArray[np.int8]:
        """Judge a batch as `add` does, against the names before it only, without taking it in."""
        verdicts = np.full(len(names), NEW, np.int8)
        self._look_up(names, meanings, verdicts)
        return verdicts

    def _look_up(self, names: Hashes, meanings: Hashes, verdicts: NDArray[np.int8]) -> None:
        for known, meant in self._runs:
            at = np.searchsorted(known, names)
            at[at == len(known)] = 0
            hit = known[at] == names
            verdicts[hit] = np.where(meant[at[hit]] == meanings[hit], DUPLICATE, CONFLICT)

    def _push(self, names: Hashes, meanings: Hashes) -> None:
        """Append a sorted run; runs at least half as long as what follows them are merged into it."""
        while self._runs and len(self._runs[-1][0]) <= 2 * len(names):
            known, meant = self._runs.pop()
            names, meanings = np.concatenate((known, names)), np.concatenate((meant, meanings))
            order = np.argsort(names, kind="stable")
            names, meanings = names[order], meanings[order]
        self._runs.append((names, meanings))
