"""Which fragments are one instance: compared where both windows looked, each with one partner a window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.stitch.fragments import Fragments, Windows, touching
from pipeline.stitch.overlap import crops, overlaps
from pipeline.stitch.regions import Ints


@dataclass(frozen=True)
class Rules:
    """What makes two fragments one instance, and which of them is whole."""

    iou: float = 0.5
    """Fragments are one instance where their masks, within what both windows saw, overlap so much."""
    containment: float = 0.8
    """So are they where so much of the smaller one lies in the larger."""
    least_iou: float = 0.1
    """But not below this overlap: the smaller one is then too small to tell what it is a part of."""
    border: int = 2
    """A fragment whose mask comes nearer than so many pixels to an interior border of its window is cut."""


@dataclass(frozen=True)
class Pairs:
    """m pairs of fragments `i < j` of different windows, and how far their masks agree where both looked."""

    i: Ints
    j: Ints
    iou: NDArray[np.float64]
    of_i: NDArray[np.float64]
    """Share of the first that lies in the second."""
    of_j: NDArray[np.float64]
    """Share of the second that lies in the first."""

    def __len__(self) -> int:
        return len(self.i)

    def take(self, index: Ints | NDArray[np.bool_]) -> Pairs:
        """Those at an array of positions, or of m booleans."""
        return Pairs(self.i[index], self.j[index], self.iou[index], self.of_i[index], self.of_j[index])


def agreeing(fragments: Fragments, windows: Windows, rules: Rules) -> Pairs:
    """All pairs of one class and different windows that overlap enough, or of which one lies in the other.

    By falling IoU, then containment, then the fragments' order.
    """
    i, j = _candidates(fragments)
    window, masks = fragments.window, fragments.found.masks
    seen = windows.rects[window[j]], windows.rects[window[i]]
    first, second, shared = overlaps(masks, i, masks, j, seen)
    # One of the two, or both, may have no pixel where both windows looked; they share none then.
    of_i, of_j = shared / np.maximum(first, 1), shared / np.maximum(second, 1)
    iou = shared / np.maximum(first + second - shared, 1)
    inside = np.maximum(of_i, of_j)
    order = np.lexsort((j, i, -inside, -iou))
    enough = (iou >= rules.iou) | (inside >= rules.containment)
    return Pairs(i, j, iou, of_i, of_j).take(order[enough[order]])


def mutual(pairs: Pairs, window: Ints, rules: Rules) -> Pairs:
    """Of agreeing pairs those that are one instance: each fragment is the other's best in its window.

    So a fragment has at most one partner a window. `window` (n,) is each fragment's.
    """
    pairs = pairs.take(pairs.iou >= rules.least_iou)
    one = _first_of_each(pairs.i, window[pairs.j])
    other = _first_of_each(pairs.j, window[pairs.i])
    return pairs.take(one & other)


def _candidates(fragments: Fragments) -> tuple[Ints, Ints]:
    """Pairs i < j, sorted, of one class and different windows whose crops share a pixel."""
    rects = crops(fragments.found.masks)
    i, j = touching(rects, rects)
    apart = (i < j) & (fragments.window[i] != fragments.window[j])
    apart &= fragments.found.classes[i] == fragments.found.classes[j]
    return i[apart], j[apart]


def _first_of_each(fragment: Ints, window: Ints) -> NDArray[np.bool_]:
    """(m,) whether a pair is the first of its fragment with that window."""
    order = np.lexsort((np.arange(len(fragment)), window, fragment))
    fragment, window = fragment[order], window[order]
    first = np.ones(len(order), bool)
    first[1:] = (fragment[1:] != fragment[:-1]) | (window[1:] != window[:-1])
    chosen = np.zeros(len(order), bool)
    chosen[order[first]] = True
    return chosen
