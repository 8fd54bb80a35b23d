"""What a model says of an image, in numpy alone: reading tables and masks needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condinst import rle


@dataclass(frozen=True)
class RleMasks:
    """Masks of one image, in columns.

    `x`, `y`, `height`, `width` (n,) int32: the tight crop around each mask's pixels, its top left in image
    pixels. `area` (n,) int64: the mask's pixels. `counts`: the COCO compressed RLE of the crop. A mask of no
    pixels is a 1 x 1 crop of area 0 at (0, 0).
    """

    x: NDArray[np.int32]
    y: NDArray[np.int32]
    height: NDArray[np.int32]
    width: NDArray[np.int32]
    area: NDArray[np.int64]
    counts: list[bytes]

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: NDArray[np.integer] | NDArray[np.bool_] | slice) -> RleMasks:
        """The masks at an array of positions, in its order, at an array of n booleans, or at a slice."""
        picked = np.arange(len(self))[index]
        return RleMasks(
            self.x[picked],
            self.y[picked],
            self.height[picked],
            self.width[picked],
            self.area[picked],
            [self.counts[at] for at in picked],
        )

    def frames(self, size: tuple[int, int]) -> list[bytes]:
        """COCO compressed RLEs of the whole image, (height, width); ValueError for a mask that leaves it."""
        crops = zip(self.counts, self.x, self.y, self.height, self.width, strict=True)
        return [rle.embed(counts, int(x), int(y), int(h), int(w), *size) for counts, x, y, h, w in crops]

    @staticmethod
    def empty(count: int = 0) -> RleMasks:
        """`count` masks without pixels."""
        x, y, area = np.zeros(count, np.int32), np.zeros(count, np.int32), np.zeros(count, np.int64)
        height, width = np.ones(count, np.int32), np.ones(count, np.int32)
        return RleMasks(x, y, height, width, area, [rle.from_runs(np.array([1]))] * count)

    @staticmethod
    def concatenate(parts: Iterable[RleMasks]) -> RleMasks:
        """All masks of `parts`, in order."""
        several = [RleMasks.empty(), *parts]
        return RleMasks(
            np.concatenate([part.x for part in several]),
            np.concatenate([part.y for part in several]),
            np.concatenate([part.height for part in several]),
            np.concatenate([part.width for part in several]),
            np.concatenate([part.area for part in several]),
            [counts for part in several for counts in part.counts],
        )


@dataclass
class Instances:
    """n instances of one image, by falling score; ties by (level, location, class)."""

    boxes: NDArray[np.float32]
    """(n, 4) x1, y1, x2, y2 in image pixels, clipped to the image."""
    scores: NDArray[np.float32]
    """(n,)."""
    classes: NDArray[np.int64]
    """(n,) index into the model's classes."""
    masks: RleMasks
    """n crop-local masks at the image's own resolution."""
    capped: bool = False
    """Whether as many were detected as may be in one image: weaker ones may be missing."""

    def __len__(self) -> int:
        return len(self.scores)
