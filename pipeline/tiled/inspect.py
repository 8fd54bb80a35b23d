"""Looks at a raster or a photograph from its header, and decides how its windows will be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline import jpeg
from pipeline.children import ChildError, DeadlyImage
from pipeline.exif import TURNED, stored_orientation
from pipeline.geo.bands import choose_colours
from pipeline.geo.ranges import Pages, Ranged
from pipeline.geo.reader import Raster
from pipeline.geo.views import choose_view, view_georef
from pipeline.headers import probe, sniff
from pipeline.inputs import Inputs, rejecting
from pipeline.objects import Unavailable
from pipeline.records import ImageRef, InputRejected, Status, describe
from pipeline.sources import InputSource
from pipeline.tiled.frozen import FrozenRaster
from pipeline.tiled.settings import Tiling

_HEADERS = (1 << 16, 1 << 20, 1 << 24)
"""Bytes of a photograph that are read for its header, more where they do not hold it."""


Look = Callable[[Ranged, Tiling], FrozenRaster]


def look_at(raster: Raster, tiling: Tiling) -> FrozenRaster:
    """How a raster is to be read. Raises ValueError, InputRejected and StoreError as what it asks."""
    view = choose_view(raster, tiling.resolution)
    colours = choose_colours(raster, tiling.bands, tiling.percentiles, tiling.stretch)
    georef, stretch = view_georef(raster, view), colours.stretch
    return FrozenRaster(
        width=view.width,
        height=view.height,
        level=view.level,
        level_width=view.level_width,
        level_height=view.level_height,
        bands=colours.bands,
        samples=raster.header.samples(colours.bands[0]),
        low=None if stretch is None else stretch.low,
        high=None if stretch is None else stretch.high,
        crs=None if georef is None else georef.crs,
        transform=None if georef is None else georef.transform,
    )


class Inspector:
    """Inspects the inputs of a job through their sources' options. Safe in threads."""

    def __init__(self, sources: Sequence[InputSource], tiling: Tiling, look: Look) -> None:
        """`look` is what looks at a raster: `RasterChildren.inspect`, for those that may end a process."""
        self._inputs, self._tiling, self._look = Inputs(sources), tiling, look

    def inspect(self, ref: ImageRef) -> FrozenRaster:
        """How the raster is to be read; one that cannot be has a status and no windows.

        Raises Unavailable when its store serves nobody, ChildError when there is no process to look in.
        """
        try:
            if ref.problem is not None:
                raise InputRejected(Status.UNSUPPORTED, ref.problem)
            with rejecting():
                return self._inspect(ref)
        except (Unavailable, ChildError):
            raise
        except DeadlyImage as death:
            return FrozenRaster.refused(InputRejected(Status.FAILED, str(death)))
        except InputRejected as error:
            return FrozenRaster.refused(error)
        except ValueError as error:
            return FrozenRaster.refused(InputRejected(Status.UNSUPPORTED, str(error)))
        except Exception as error:
            return FrozenRaster.refused(InputRejected(Status.FAILED, describe(error)))

    def _inspect(self, ref: ImageRef) -> FrozenRaster:
        store, key = self._inputs.find(ref)
        info = self._inputs.head(ref)
        data = Ranged(store, key, info.size, Pages(32 << 20), etag=info.etag)
        if not len(data):
            raise InputRejected(Status.CORRUPT, "the file is empty")
        found = self._look(data, self._tiling) if sniff(data[:256]) == "TIFF" else self._photograph(data)
        return found if ref.etag is not None else replace(found, etag=info.etag)

    def _photograph(self, data: Ranged) -> FrozenRaster:
        if self._tiling.resolution is not None:
            raise ValueError("`resolution` is in metres a pixel, and a photograph does not say where it lies")
        for size in _HEADERS:
            start = data[:size]
            try:
                header = probe(start)
            except InputRejected as error:
                if error.status is Status.CORRUPT and len(start) < len(data) and size != _HEADERS[-1]:
                    continue
                raise
            break
        width, height = header.width, header.height
        if header.format == "JPEG":
            height, width = jpeg.upright_size(jpeg.read_header(start))
        elif stored_orientation(header.format, data) >= TURNED:
            width, height = height, width
        if width < 1 or height < 1:
            raise InputRejected(Status.CORRUPT, f"{header.format}: {width}x{height} pixels")
        return FrozenRaster(width=width, height=height)
