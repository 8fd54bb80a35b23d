"""Stitching as windows come: instances are given out as soon as no window still to come can touch them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from condinst.instances import Instances
from pipeline.stitch.fragments import Fragments, Mask, Windows, touching
from pipeline.stitch.match import Pairs, Rules, agreeing
from pipeline.stitch.merge import resolve
from pipeline.stitch.order import order_keys, row_order, window_order
from pipeline.stitch.overlap import crops
from pipeline.stitch.regions import Ints


class Stitcher:
    """Stitches windows that come in any order; those of neighbours close together keep memory small.

    Instances that no other window sees are given out at once. Held are those in overlaps, until every window
    that sees one of them, or one of those it could be joined to, has come. Given out is a set: the same
    instances for every order of windows, in batches that differ. `ordered` puts them in the order of rows.

    `hold`: so many fragments may gather before it is looked which of them are settled.
    """

    def __init__(self, windows: Windows, rules: Rules | None = None, hold: int = 20_000) -> None:
        self.windows = windows
        self.rules = rules or Rules()
        self._hold = hold
        self._waiting = np.ones(len(windows), bool)
        self._parts: list[Fragments] = []
        self.held = 0
        """Fragments that wait for other windows."""
        self._limit = hold

    def add(self, window: int, found: Instances) -> Fragments:
        """Take a window's instances, in its own pixels; return those settled by now, in the grid's pixels.

        Raises ValueError for a window that came before.
        """
        if not self._waiting[window]:
            raise ValueError(f"window {window} was stitched before")
        self._waiting[window] = False
        fragments = Fragments.of_window(self.windows, window, found)
        shared = self.windows.seen_by_others(crops(fragments.found.masks), fragments.window)
        self._parts.append(fragments.take(shared))
        self.held += int(shared.sum())
        alone = fragments.take(~shared)
        if self.held < self._limit:
            return alone
        return Fragments.concatenate([alone, self._settle()])

    def finish(self) -> Fragments:
        """The instances still held. Raises ValueError while windows are missing."""
        missing = np.flatnonzero(self._waiting)
        if len(missing):
            raise ValueError(f"{len(missing)} windows were never stitched, the first is window {missing[0]}")
        return self._settle()

    def _settle(self) -> Fragments:
        """Resolve what no window still to come can change, keep the rest."""
        held = Fragments.concatenate(self._parts)
        held = held.take(window_order(order_keys(held.found), self.windows.rank[held.window]))
        pairs = agreeing(held, self.windows, self.rules)
        settled = self._settled(held, pairs)
        kept = held.take(~settled)
        self._parts, self.held = [kept], len(kept)
        # At least as many again come before the next look, so that all looks together stay linear.
        self._limit = self._hold + 2 * len(kept)
        pairs = pairs.take(settled[pairs.i])
        place = np.cumsum(settled) - 1
        pairs = replace(pairs, i=place[pairs.i], j=place[pairs.j])
        return resolve(held.take(settled), pairs, self.windows, self.rules)

    def _settled(self, held: Fragments, pairs: Pairs) -> Mask:
        """(n,) whether neither a fragment nor one that pairs lead to is seen by a window still to come."""
        label = _connected(len(held), pairs.i, pairs.j)
        unsettled, _ = touching(crops(held.found.masks), self.windows.rects[self._waiting])
        return ~np.isin(label, label[unsettled])


def stitch(windows: Windows, found: Iterable[tuple[int, Instances]], rules: Rules | None = None) -> Fragments:
    """All instances of a raster, ordered, from every window's number and instances (see `Stitcher`)."""
    stitcher = Stitcher(windows, rules)
    parts = [stitcher.add(window, instances) for window, instances in found]
    return ordered(Fragments.concatenate([*parts, stitcher.finish()]))


def ordered(stitched: Fragments) -> Fragments:
    """Instances in the order of a raster's rows: by falling score (see `order.row_order`)."""
    return stitched.take(row_order(order_keys(stitched.found)))


def _connected(count: int, i: Ints, j: Ints) -> Ints:
    """(count,) the smallest number that each is connected to by pairs."""
    label = np.arange(count)
    while True:
        least = np.minimum(label[i], label[j])
        before = label.copy()
        np.minimum.at(label, i, least)
        np.minimum.at(label, j, least)
        label = label[label]
        if (label == before).all():
            return label
