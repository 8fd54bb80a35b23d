"""What GDAL sees of a raster: one file without neighbours, whose bytes our own storage fetches.

So requests, retries and credentials are the pipeline's, and no secret ever enters GDAL's configuration.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from rasterio.abc import MultiByteRangeResourceContainer

from pipeline.geo.ranges import Ranged

NAME = "image.tif"


class GdalFile(io.RawIOBase):
    """A raster's bytes as GDAL reads them."""

    def __init__(self, folder: GdalFolder, bytes: Ranged) -> None:
        super().__init__()
        self._folder, self._bytes, self._at = folder, bytes, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move there, and say where that is."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._bytes)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next bytes, up to `size`; none at the end."""
        length = len(self._bytes) - self._at if size < 0 else size
        data = self._ranges([(self._at, length)])[0]
        self._at += len(data)
        return data

    def get_byte_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Several ranges at once, each of exactly its size: GDAL copies so many bytes whatever comes."""
        parts = self._ranges(list(zip(offsets, sizes, strict=True)))
        return [part.ljust(size, b"\0") for part, size in zip(parts, sizes, strict=True)]

    def _ranges(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        if self._folder.fault is None:
            try:
                return self._bytes.read_many(ranges) if len(ranges) > 1 else [self._bytes.read(*ranges[0])]
            except Exception as error:
                self._folder.fault = error
        return [b""] * len(ranges)


class GdalFolder(MultiByteRangeResourceContainer):  # type: ignore[misc]  # rasterio has no types
    """A folder that holds one raster and nothing else: GDAL finds no side files, and looks for none.

    An exception cannot cross GDAL, so the first is kept in `fault` and zeros are handed out instead: whoever
    reads through this must look there, and throw away what was read.
    """

    def __init__(self, bytes: Ranged) -> None:
        super().__init__()
        self._bytes = bytes
        self.fault: Exception | None = None

    def open(self, path: str, mode: str = "r", **kwargs: object) -> GdalFile:
        """The raster; OSError for any other name and for writing."""
        if not self.isfile(path) or mode not in ("r", "rb"):
            raise FileNotFoundError(path)
        return GdalFile(self, self._bytes)

    def isfile(self, path: str) -> bool:
        """Whether this is the raster."""
        return path.rpartition("/")[2] == NAME

    def isdir(self, path: str) -> bool:
        """Whether this is a folder: the one that GDAL is told of is of no interest."""
        return False

    def ls(self, path: str) -> list[str]:
        """Names in the folder."""
        return [NAME]

    def mtime(self, path: str) -> int:
        """Time of change: none is known."""
        return 0

    def rm(self, path: str) -> None:
        """Refuse: a raster is only read."""
        raise PermissionError(path)

    def size(self, path: str) -> int:
        """Bytes of the raster."""
        return len(self._bytes)
