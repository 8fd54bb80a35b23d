"""What a plan keeps of a raster: everything that its windows are read by, decided once for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pydantic import ConfigDict, TypeAdapter

from pipeline.geo.bands import Colours, Stretch
from pipeline.geo.georef import Georef
from pipeline.geo.reader import View
from pipeline.records import InputRejected, Status

Transform = tuple[float, float, float, float, float, float]
Part = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of a view."""


@dataclass(frozen=True)
class FrozenRaster:
    """A raster of a tiled job, or a photograph; plain values, kept in the manifest as JSON."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    width: int = 0
    """Pixels of the view: what windows, masks and the `images` row count in."""
    height: int = 0
    level: int | None = None
    """The overview that is read; None for the raster itself."""
    level_width: int = 0
    level_height: int = 0
    bands: tuple[int, ...] = ()
    """Empty for a photograph, which is decoded as a whole."""
    samples: str | None = None
    """What its samples are, in words; None in plans of versions that did not keep it."""
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    crs: str | None = None
    transform: Transform | None = None
    """From pixels of the view to the CRS."""
    etag: str | None = None
    """What it was looked at as, where the listing did not say: all windows are read of this version."""
    first: int = 0
    """Its first window's place among those of all rasters."""
    windows: int = 0
    part: Part | None = None
    """What an area of interest lies in; None where all of it is of interest."""
    squares: tuple[tuple[int, int], ...] | None = None
    """Top left of each square in which an area's norms are found; None where they follow from the sizes."""
    status: Status | None = None
    """What it ends as where its header says already that it cannot be read."""
    reason: str | None = None

    @property
    def photograph(self) -> bool:
        """Whether it is decoded as a whole: no GeoTIFF."""
        return not self.bands

    @property
    def view(self) -> View:
        """The scale it is read at."""
        return View(self.width, self.height, self.level, self.level_width, self.level_height)

    @property
    def colours(self) -> Colours:
        """How its samples become RGB."""
        stretch = None if self.low is None or self.high is None else Stretch(self.low, self.high)
        return Colours(self.bands, stretch)

    @property
    def georef(self) -> Georef | None:
        """Where its view lies."""
        if self.crs is None or self.transform is None:
            return None
        return Georef(self.crs, self.transform)

    @classmethod
    def refused(cls, error: InputRejected) -> FrozenRaster:
        """One without windows."""
        return cls(status=error.status, reason=error.reason)

    def to_json(self) -> str:
        """As the manifest keeps it."""
        return _ADAPTER.dump_json(self, exclude_defaults=True).decode()


_ADAPTER = TypeAdapter(FrozenRaster)


@lru_cache(1024)
def read_frozen(text: str) -> FrozenRaster:
    """A raster as `to_json` wrote it. Raises ValueError for anything else."""
    found: FrozenRaster = _ADAPTER.validate_json(text)
    return found
