"""Label Studio's brush: a mask as the run lengths of an RGBA picture, in bits, both ways.

The format is https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack with words of 8 bits: 32
bits for the number of words, 5 for a word's size less 1, four times 4 bits for the sizes of run lengths less
1; then chunks, each a bit that tells a run from single words, 2 bits that choose a size, the length less 1,
and words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SIZES = (3, 4, 8, 16)
_WORD = 8
_CHANNELS = 4
MOST_PIXELS = (1 << 32) // _CHANNELS - 1
"""Of the largest picture whose words can be counted in 32 bits."""
Bits = NDArray[np.uint8]


class BrushError(ValueError):
    """Bytes that are no brush mask."""


def encode_brush(pixels: NDArray[np.bool_], x: int, y: int, height: int, width: int) -> list[int]:
    """The bytes of a mask: the crop `pixels` whose top left is at (x, y) of a frame of (height, width).

    Found from the mask's runs along the rows; no frame is drawn.
    """
    lengths = _rows_runs(pixels, x, y, height, width) * _CHANNELS
    values = (np.arange(len(lengths)) & 1) * 255
    values, lengths = _cut(values[lengths > 0], lengths[lengths > 0], 1 << _SIZES[-1])
    choice = np.searchsorted(1 << np.array(_SIZES), lengths)
    size = np.array(_SIZES)[choice]
    # A chunk is 1 (a run), the choice, the length, the word: so many bits of one number.
    chunk = (((0b100 + choice) << size) + lengths - 1 << _WORD) + values
    head = (height * width * _CHANNELS << 5) + _WORD - 1
    for known in _SIZES:
        head = (head << 4) + known - 1
    bits = [_bits_of(head, 32 + 5 + 4 * len(_SIZES)), _all_bits(chunk, size + 3 + _WORD)]
    return np.packbits(np.concatenate(bits)).tolist()


def decode_brush(data: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The (height, width) mask of a brush's bytes: where its picture is opaque. Raises BrushError."""
    try:
        packed = np.array(data, dtype=np.uint8)
    except (ValueError, TypeError, OverflowError):
        raise BrushError("it is no list of bytes") from None
    reader = _Reader(np.unpackbits(packed))
    words, size = reader.read(32), reader.read(5) + 1
    sizes = [reader.read(4) + 1 for _ in range(4)]
    if words != height * width * _CHANNELS or size != _WORD:
        raise BrushError(f"it has {words:,} words of {size} bits, not those of {height}x{width} pixels")
    out = np.zeros(height * width, bool)
    at = 0
    while at < words:
        run = reader.read(1)
        end = at + 1 + reader.read(sizes[reader.read(2)])
        if end > words:
            raise BrushError("its runs are longer than its picture")
        # Of a pixel's four words the last says how opaque it is.
        first, last = at // _CHANNELS, end // _CHANNELS
        if run:
            out[first:last] = reader.read(size) > 0
        else:
            out[first:last] = reader.words(end - at)[_CHANNELS - 1 - at % _CHANNELS :: _CHANNELS] > 0
        at = end
    return out.reshape(height, width)


def _rows_runs(pixels: NDArray[np.bool_], x: int, y: int, height: int, width: int) -> NDArray[np.int64]:
    """Run lengths along the rows of the frame, zeros first."""
    padded = np.pad(pixels, ((0, 0), (1, 1))).astype(np.int8)
    row, column = np.nonzero(np.diff(padded, axis=1))
    edges = (row + y) * width + column + x
    # Where a run ends at the frame's edge and the next begins the row below, both edges are one place.
    return np.diff(np.concatenate([[0], edges, [height * width]]))


def _cut(values: NDArray[np.int64], lengths: NDArray[np.int64], most: int) -> tuple[NDArray[np.int64], ...]:
    """The same runs, none longer than `most`."""
    pieces = -(-lengths // most)
    owner = np.repeat(np.arange(len(lengths)), pieces)
    last = np.cumsum(pieces) - 1
    cut = np.full(len(owner), most, np.int64)
    cut[last] = lengths - (pieces - 1) * most
    return values[owner], cut


def _all_bits(numbers: NDArray[np.int64], sizes: NDArray[np.int64]) -> Bits:
    """The lowest `sizes` bits of each number, one after another, highest first."""
    owner = np.repeat(np.arange(len(numbers)), sizes)
    place = np.repeat(np.cumsum(sizes), sizes) - 1 - np.arange(len(owner))
    return ((numbers[owner] >> place) & 1).astype(np.uint8)


def _bits_of(number: int, size: int) -> Bits:
    return np.array([number >> place & 1 for place in range(size - 1, -1, -1)], np.uint8)


class _Reader:
    def __init__(self, bits: Bits) -> None:
        self._bits, self._at = bits, 0

    def read(self, size: int) -> int:
        taken = self._bits[self._at : self._at + size]
        if len(taken) < size:
            raise BrushError("it ends before its picture does")
        self._at += size
        return int("".join(map(str, taken.tolist())) or "0", 2)

    def words(self, count: int) -> Bits:
        taken = self._bits[self._at : self._at + count * _WORD]
        if len(taken) < count * _WORD:
            raise BrushError("it ends before its picture does")
        self._at += count * _WORD
        return np.packbits(taken)
