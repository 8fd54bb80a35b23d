"""Whether tiling changes anything: two segmentations of one raster compared, along seams and elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condinst.instances import Instances
from pipeline.stitch.fragments import Mask, Windows, touching
from pipeline.stitch.overlap import crops, overlaps
from pipeline.stitch.regions import Ints, Rects

NEAR = 32
"""Pixels from a seam within which an instance lies along it."""

_SAME = 0.9
_FOUND = 0.5
_COVERED = 0.8


@dataclass(frozen=True)
class Side:
    """What one segmentation has and the other has not; instances near the score threshold do not count."""

    instances: int
    """Those counted."""
    same: int
    """Of these, how many have a partner in the other with an IoU over 0.9."""
    duplicates: int
    """How many have no partner at an IoU of 0.5 and lie on another of their own: IoU 0.5, or 80 % in it."""
    along_seams: int
    """How many lie within 32 pixels of a seam."""
    alone_along_seams: int
    """How many of these have no partner at an IoU of 0.5."""
    alone_elsewhere: int
    """How many of the rest have none."""


@dataclass(frozen=True)
class Seams:
    """A comparison of a reference (a raster segmented whole, or another tiling) and a tiling of it."""

    reference: Side
    tiled: Side

    @property
    def matched(self) -> float:
        """Share of the reference's instances that the tiling has at an IoU over 0.9."""
        return _share(self.reference.same, self.reference.instances)

    @property
    def duplicates(self) -> float:
        """Share of the tiling's instances that are one too many on a thing it has already."""
        return _share(self.tiled.duplicates, self.tiled.instances)

    @property
    def excess(self) -> float:
        """Instances along seams that only the tiling has, as a share of those of the reference there."""
        return _share(self.tiled.alone_along_seams, self.reference.along_seams)

    @property
    def lack(self) -> float:
        """Instances along seams that only the reference has, as a share of those of the reference there."""
        return _share(self.reference.alone_along_seams, self.reference.along_seams)


def seam_lines(windows: Windows) -> Rects:
    """(s, 4) the interior borders of windows as rectangles without width or height."""
    left, top, right, bottom = windows.rects.T
    sides = [(left, top, left, bottom), (left, top, right, top), (right, top, right, bottom)]
    sides.append((left, bottom, right, bottom))
    lines = [np.stack(side, axis=1)[windows.interior[:, at]] for at, side in enumerate(sides)]
    return np.unique(np.concatenate(lines), axis=0)


def along(rects: Rects, seams: Rects) -> Mask:
    """Which rectangles lie within 32 pixels of a seam."""
    near = np.zeros(len(rects), bool)
    near[touching(rects, seams + np.array([-NEAR, -NEAR, NEAR, NEAR]))[0]] = True
    return near


def compare(
    reference: Instances, tiled: Instances, seams: Rects, threshold: float, spared: float = 0.05
) -> Seams:
    """Compare two segmentations of one raster, in its pixels; `seams` are those of both (see `seam_lines`).

    Instances of a class are paired one to one, those with the highest IoU first. Instances with a score below
    `threshold` + `spared` count on neither side, but an instance of the other side may pair with them.
    """
    i, j, iou, _ = _overlaps(reference, tiled)
    order = np.lexsort((j, i, -iou))
    best = [np.zeros(len(reference)), np.zeros(len(tiled))]
    for at in order[iou[order] >= _FOUND].tolist():
        if best[0][i[at]] == 0 and best[1][j[at]] == 0:
            best[0][i[at]] = best[1][j[at]] = iou[at]
    least = threshold + spared
    return Seams(_side(reference, best[0], seams, least), _side(tiled, best[1], seams, least))


def _side(found: Instances, best: NDArray[np.float64], seams: Rects, least: float) -> Side:
    counted = found.scores >= least
    alone = counted & (best == 0)
    i, j, iou, inside = _overlaps(found, found)
    covered = (i != j) & ((iou >= _FOUND) | (inside >= _COVERED))
    double = np.zeros(len(found), bool)
    double[i[covered]] = True
    near = along(crops(found.masks), seams)
    return Side(
        instances=int(counted.sum()),
        same=int((counted & (best > _SAME)).sum()),
        duplicates=int((alone & double).sum()),
        along_seams=int((counted & near).sum()),
        alone_along_seams=int((alone & near).sum()),
        alone_elsewhere=int((alone & ~near).sum()),
    )


def _overlaps(a: Instances, b: Instances) -> tuple[Ints, Ints, NDArray[np.float64], NDArray[np.float64]]:
    """Pairs of a class that share a pixel: both numbers, IoU, and the share of the first in the second."""
    rects = crops(a.masks), crops(b.masks)
    i, j = touching(*rects)
    same: Mask = a.classes[i] == b.classes[j]
    i, j = i[same], j[same]
    first, second, shared = overlaps(a.masks, i, b.masks, j)
    return i, j, shared / (first + second - shared), shared / first


def _share(part: int, whole: int) -> float:
    """0 where there is nothing to have a share of."""
    return part / whole if whole else 0.0
