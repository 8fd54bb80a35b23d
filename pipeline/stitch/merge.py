"""From matched fragments to instances: grouped, the best view taken or the parts united, strays dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from condinst.instances import Instances
from pipeline.stitch.fragments import Fragments, Mask, Windows, touching
from pipeline.stitch.gaps import without_gaps
from pipeline.stitch.match import Pairs, Rules, mutual
from pipeline.stitch.overlap import crops, united
from pipeline.stitch.regions import Ints, Rects


@dataclass(frozen=True)
class Groups:
    """g instances made of n fragments: fragment i is of group `label[i]`; labels count up with fragments."""

    label: Ints
    count: int

    def extents(self, rects: Rects) -> Rects:
        """(g, 4) the rectangle round each group's (n, 4) rectangles."""
        order = np.argsort(self.label, kind="stable")
        first = np.searchsorted(self.label[order], np.arange(self.count))
        low = np.minimum.reduceat(rects[order, :2], first, axis=0)
        return np.concatenate([low, np.maximum.reduceat(rects[order, 2:], first, axis=0)], axis=1)


def resolve(fragments: Fragments, pairs: Pairs, windows: Windows, rules: Rules) -> Fragments:
    """The instances that the fragments are pieces and copies of.

    `pairs` are the agreeing ones (`match.agreeing`); fragments are in the order of `order.window_order`. All
    that a chain of pairs leads to from one of these must be among them, and windows must be all that were
    segmented: then the result depends on the set of them only.
    """
    if len(fragments) == 0:
        return fragments
    rects = crops(fragments.found.masks)
    away = windows.distances(rects, fragments.window)
    groups = group(fragments.window, mutual(pairs, fragments.window, rules))
    whole = _whole(windows.rects[fragments.window], rects, away, groups, rules.border)
    best = _farthest_inside(groups.label, away, ~whole)
    place = np.where(whole[best][:, None], rects[best], groups.extents(rects))
    seen = _Seen(place, fragments.window[best], away[best])
    kept = _confirmed(seen, fragments.window, windows, groups, rules.border)
    kept &= ~_covered(fragments.window, windows, groups, rects, away, pairs, rules.containment)
    cut = kept & ~whole[best]
    members = np.flatnonzero(cut[groups.label])
    members = members[np.argsort(groups.label[members], kind="stable")]
    number = (np.cumsum(cut) - 1)[groups.label[members]]
    joined = _joined(fragments.take(members), number, int(cut.sum()), windows)
    return Fragments.concatenate([fragments.take(best[kept & whole[best]]), joined])


def group(window: Ints, pairs: Pairs) -> Groups:
    """Join pairs, the best first, unless that would put two fragments of one window into one group.

    A window saw those two side by side and called them two; no chain of matches makes them one.
    """
    parent = list(range(len(window)))
    seen: dict[int, set[int]] = {}

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    for i, j in zip(pairs.i.tolist(), pairs.j.tolist(), strict=True):
        a, b = root(i), root(j)
        if a == b:
            continue
        mine, theirs = seen.get(a) or {int(window[a])}, seen.get(b) or {int(window[b])}
        if mine.isdisjoint(theirs):
            a, b = min(a, b), max(a, b)
            parent[b] = a
            seen[a] = mine | theirs
            seen.pop(b, None)
    label, inverse = np.unique([root(at) for at in range(len(window))], return_inverse=True)
    return Groups(inverse.astype(np.int64), len(label))


def _whole(frames: Rects, rects: Rects, away: Ints, groups: Groups, border: int) -> Mask:
    """(n,) whether a fragment shows its whole instance.

    It does if it is not cut and no other of its group goes on beyond its window; alone, it is all there is.
    """
    reach = groups.extents(rects)[groups.label]
    inside = (reach[:, :2] > frames[:, :2] - border) & (reach[:, 2:] < frames[:, 2:] + border)
    alone = np.bincount(groups.label)[groups.label] == 1
    whole: Mask = ((away[:, 0] >= border) & inside.all(axis=1)) | alone
    return whole


def _farthest_inside(label: Ints, away: Ints, last: Mask) -> Ints:
    """(g,) the fragment of each group that lies farthest inside its window; those marked only if all are."""
    order = np.lexsort((np.arange(len(label)), *(-away[:, at] for at in (3, 2, 1, 0)), last, label))
    best: Ints = order[np.unique(label[order], return_index=True)[1]]
    return best


@dataclass(frozen=True)
class _Seen:
    """Where each of g groups lies, and the window that sees it best."""

    place: Rects
    window: Ints
    away: Ints
    """(g, 4) how far inside that window its best fragment lies (`Windows.distances`)."""


def _confirmed(seen: _Seen, window: Ints, windows: Windows, groups: Groups, border: int) -> Mask:
    """(g,) whether no window that may overrule a group's saw its place farther inside and found nothing.

    A stray at its window's border, of which a neighbour that sees more around it knows nothing, is dropped.
    Windows of one raster overrule each other: they show the same. Those of another raster may show another
    day, so they overrule only what is cut by their own one's border, and only where they surely hold data.
    """
    which, other = touching(seen.place, windows.rects)
    same = windows.raster[other] == windows.raster[seen.window[which]]
    may = same | (windows.full[other] & (seen.away[which, 0] < border))
    may &= ~np.isin(which * len(windows) + other, groups.label * len(windows) + window)
    which, other = which[may], other[may]
    theirs = windows.distances(seen.place[which], other)
    better = (theirs[:, 0] >= 0) & _greater(theirs, seen.away[which])
    kept = np.ones(groups.count, bool)
    kept[which[better]] = False
    return kept


def _covered(
    window: Ints, windows: Windows, groups: Groups, rects: Rects, away: Ints, pairs: Pairs, share: float
) -> Mask:
    """(g,) whether each fragment of a group lies in one of another group whose window sees it farther inside.

    Of one raster `_confirmed` says so already; this is what one raster's rim leaves on another's instances.
    """
    small = np.concatenate([pairs.i[pairs.of_i >= share], pairs.j[pairs.of_j >= share]])
    large = np.concatenate([pairs.j[pairs.of_i >= share], pairs.i[pairs.of_j >= share]])
    apart = groups.label[small] != groups.label[large]
    small, large = small[apart], large[apart]
    theirs = windows.distances(rects[small], window[large])
    lies = np.zeros(len(window), bool)
    lies[small[(theirs[:, 0] >= 0) & _greater(theirs, away[small])]] = True
    covered: Mask = np.bincount(groups.label, ~lies) == 0
    return covered


def _greater(a: Ints, b: Ints) -> Mask:
    """(n,) whether row i of `a` comes after row i of `b`, compared like words."""
    first = (a != b).argmax(axis=1)[:, None]
    greater: Mask = np.take_along_axis(a, first, axis=1)[:, 0] > np.take_along_axis(b, first, axis=1)[:, 0]
    return greater


def _joined(fragments: Fragments, number: Ints, count: int, windows: Windows) -> Fragments:
    """`count` instances from fragments that belong to the one with their `number`, which counts up.

    The mask is the union; the box goes round the boxes; the score is the mean, weighted by the masks' pixels.
    An instance belongs to the window that shows most of it, and holds none of its raster's nodata.
    """
    if count == 0:
        return fragments
    area = fragments.found.masks.area
    first = np.searchsorted(number, np.arange(count))
    most = np.lexsort((np.arange(len(number)), -area, number))[first]
    found = without_gaps(fragments, windows.raster[fragments.window[most]][number], windows)
    low = np.minimum.reduceat(found.boxes[:, :2], first, axis=0)
    boxes = np.concatenate([low, np.maximum.reduceat(found.boxes[:, 2:], first, axis=0)], axis=1)
    score = np.add.reduceat(area * found.scores.astype(np.float64), first) / np.add.reduceat(area, first)
    masks = united(found.masks, number, count)
    instances = Instances(boxes, score.astype(np.float32), found.classes[first], masks)
    return Fragments(fragments.window[most], instances)
