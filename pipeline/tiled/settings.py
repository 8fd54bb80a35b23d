"""What cuts a job's rasters into windows, and what of it changes rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from condinst.config import SIZE_DIVISOR


@dataclass(frozen=True)
class Tiling:
    """How rasters are cut, scaled, coloured and put together again. Plain values, resolved."""

    size: int = 1024
    """Width and height of a window in pixels of the raster's view."""
    overlap: int = 128
    """Pixels that neighbouring windows share."""
    scale: float = 1.0
    """Pixels of the network's input for each pixel of a window."""
    resolution: float | None = None
    """Metres on the ground of a pixel of the view; None for the raster's own pixels."""
    bands: tuple[int, ...] | None = None
    """Bands that are red, green and blue, or the one that is grey; None for those declared so."""
    percentiles: tuple[float, float] = (2.0, 98.0)
    """Of the whole raster's samples: what becomes black and white."""
    stretch: bool = False
    """Stretch 8-bit samples too."""
    across_rasters: bool = False
    """Give what several overlapping rasters show one row."""
    norms: str = "raster"
    """Whose statistics the head's norms take: the `raster`'s, or each `window`'s own."""
    crs: str | None = None
    """CRS of the geometries; None for that of the rasters."""

    @property
    def grid(self) -> int:
        """Pixels of a window between two places that lie alike under the network's maps.

        1 where windows have norms of their own, which what is padded beyond the raster would change.
        """
        return 1 if self.norms == "window" else max(1, round(SIZE_DIVISOR / self.scale))

    def on_grid(self) -> Tiling:
        """The same with the nearest `scale` at which the grid has whole pixels, and windows that fit it.

        Windows become as large as the network pads them to in any case; the overlap no smaller.
        """
        grid = self.grid
        if grid == 1:
            return self
        size = -(-self.size // grid) * grid
        distance = (size - self.overlap) // grid * grid or size - self.overlap
        return replace(self, scale=SIZE_DIVISOR / grid, size=size, overlap=size - distance)

    @property
    def multiple(self) -> int:
        """Pixels that a window's edges are to be multiples of, so that it is resized by `scale` exactly."""
        return 1 if self.scale == 1 else self.grid

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Tiling:
        """From `dataclasses.asdict`, which JSON may have turned tuples of into lists."""
        made: dict[str, Any] = {}
        for name, value in values.items():
            made[name] = tuple(value) if isinstance(value, list) else value
        return cls(**made)

    def row_settings(self) -> dict[str, object]:
        """Everything here that changes rows, as plain JSON values."""
        return {
            "size": self.size,
            "overlap": self.overlap,
            "grid": self.grid,
            "scale": self.scale,
            "resolution": self.resolution,
            "bands": None if self.bands is None else list(self.bands),
            "percentiles": list(self.percentiles),
            "stretch": self.stretch,
            "across_rasters": self.across_rasters,
            "norms": self.norms,
            "crs": self.crs,
        }
