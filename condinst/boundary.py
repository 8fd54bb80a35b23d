"""Where full-size masks change from off to on and back, found from their low-resolution logits.

Bilinear values lie between those of the samples around them, so a mask can only change where neighbouring samples
lie on different sides of the threshold. Two grids are searched, coarse to fine: squares of four neighbouring cells of
the logits, and within those that are mixed, squares of four neighbouring pixels of the resized image (both resizes
of the reference sample the first grid inside one such square). Output pixels are evaluated in mixed squares alone.

Each square tells the changes down each output column, as a sequence that starts from the sign of its top left
corner and ends on that of its bottom left one. Squares that share a corner agree on its sign, so their sequences join:
a change told twice at one pixel is none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from condinst.upsample import STRIDE, Axis, bilinear, joint_kernel, quarter_grid

_MARGIN = (
    2e-6  # more than both resizes can round by; a sample this near the threshold counts as on both sides
)
_PIXELS = 1 << 20  # values evaluated at once
_SIGMOID_BLOCK = 1 << 15
_VECTOR = 32


@dataclass(frozen=True)
class Frame:
    """The output of one image: its rows and columns, and the threshold above which a pixel is positive."""

    rows: Axis
    cols: Axis
    threshold: float


@dataclass(frozen=True)
class Squares:
    """Squares of four neighbouring cells, (m,) each: instance, and row and column of the top left cell, from -1."""

    instance: Tensor
    row: Tensor
    col: Tensor

    def __len__(self) -> int:
        return len(self.instance)

    def __getitem__(self, index: slice) -> "Squares":
        return Squares(self.instance[index], self.row[index], self.col[index])


def changes(logits: Tensor, frame: Frame) -> Tensor:
    """Changes of each output column of each instance, (k,) int64, unsorted.

    `logits` is (n, h4, w4). A change at row y of column x of instance i, before which the pixel differs from the one
    above (outside the frame all is off; y may be the frame's height), is ((i * width) + x) * (height + 1) + y. One
    that appears an even number of times is none.
    """
    squares = _mixed_squares(logits, frame)
    grow = (frame.rows.target / frame.rows.source) * (frame.cols.target / frame.cols.source)
    step = max(_PIXELS // int(25 + 16 * grow), 1)
    parts = [_square_changes(logits, squares[at : at + step], frame) for at in range(0, len(squares), step)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=logits.device)


def _levels(threshold: float) -> tuple[float, float]:
    """Values at most the first are surely off, above the second surely on."""
    return threshold - _MARGIN, threshold + _MARGIN


def _codes(values: Tensor, low: float, high: float) -> Tensor:
    """uint8: 0 surely off, 2 surely on, 1 too near the threshold to tell."""
    return (values > low).view(torch.uint8) + (values > high).view(torch.uint8)


def _logit(level: float) -> float:
    return float(torch.tensor(level, dtype=torch.float64).logit())


def _mixed_squares(logits: Tensor, frame: Frame) -> Squares:
    """Squares with cells on both sides of the threshold, and those with any on at the frame's top and bottom."""
    n, h4, w4 = logits.shape
    low, high = map(_logit, _levels(frame.threshold))
    live = logits.amax(dim=2) > low
    # Square row i (from -1) spans cell rows i and i + 1, clamped: 4i + 2 is its first pixel row.
    last = (frame.rows.source - 3) // STRIDE
    upper = torch.arange(-1, last + 1, device=logits.device).clamp(0, h4 - 1)
    lower = torch.arange(0, last + 2, device=logits.device).clamp(0, h4 - 1)
    instance, band = (live[:, upper] | live[:, lower]).nonzero(as_tuple=True)
    needed = torch.zeros(n, h4, dtype=torch.bool, device=logits.device)
    needed[instance, upper[band]] = True
    needed[instance, lower[band]] = True
    picked = needed.view(-1).nonzero().view(-1)
    place = needed.view(-1).cumsum(0) - 1
    sums = _pair_sums(_codes(logits.reshape(n * h4, w4)[picked], low, high))
    base = instance * h4
    sums = sums[place[base + upper[band]]] + sums[place[base + lower[band]]]
    mixed = (sums > 0) & (sums < 8)
    edge = (band == 0) | (band == last + 1)
    mixed[edge] = sums[edge] > 0
    line, col = mixed.nonzero(as_tuple=True)
    return Squares(instance[line], band[line] - 1, col - 1)


def _pair_sums(codes: Tensor) -> Tensor:
    """Sums of horizontal neighbours, (r, w) to (r, w + 1), the outer cells repeated."""
    sums = torch.empty(codes.shape[0], codes.shape[1] + 1, dtype=codes.dtype, device=codes.device)
    torch.add(codes[:, :-1], codes[:, 1:], out=sums[:, 1:-1])
    sums[:, 0] = 2 * codes[:, 0]
    sums[:, -1] = 2 * codes[:, -1]
    return sums


def _square_changes(logits: Tensor, squares: Squares, frame: Frame) -> Tensor:
    values = _samples(logits, squares)
    if frame.rows.identity and frame.cols.identity:
        return _changes_at_samples(values, squares, frame)
    return _changes_between_samples(values, squares, frame)


def _samples(logits: Tensor, squares: Squares) -> Tensor:
    """Stride-1 values of the squares, (5, 5, m); sample (k, l) is pixel (4 row + 2 + k, 4 col + 2 + l)."""
    _, h4, w4 = logits.shape
    base = squares.instance * h4
    upper = (base + squares.row.clamp(min=0)) * w4
    lower = (base + (squares.row + 1).clamp(max=h4 - 1)) * w4
    left = squares.col.clamp(min=0)
    right = (squares.col + 1).clamp(max=w4 - 1)
    index = torch.cat([upper + left, upper + right, lower + left, lower + right])
    corners = _sigmoid(logits.reshape(-1)[index]).chunk(4)
    joint = joint_kernel(STRIDE * h4 + 1, STRIDE * w4 + 1)
    values = quarter_grid((corners[0], corners[1], corners[2], corners[3]), joint)
    # Left of the first cell's centre and above it the reference repeats the value there.
    edge = (squares.col == -1).nonzero().view(-1)
    values[:, :STRIDE, edge] = values[:, STRIDE:, edge]
    edge = (squares.row == -1).nonzero().view(-1)
    values[:STRIDE, :, edge] = values[STRIDE:, :, edge]
    return values


def _sigmoid(values: Tensor) -> Tensor:
    """Sigmoid as PyTorch's vector kernel rounds it, whatever the number of values.

    Its scalar kernel, which takes what is left over at the end of a thread's share, rounds otherwise.
    """
    padded = torch.zeros(-(-len(values) // _VECTOR) * _VECTOR, dtype=values.dtype, device=values.device)
    padded[: len(values)] = values
    for block in padded.split(_SIGMOID_BLOCK):
        block.sigmoid_()
    return padded[: len(values)]


def _keys(instance: Tensor, x: Tensor, y: Tensor, frame: Frame) -> Tensor:
    return (instance * frame.cols.target + x) * (frame.rows.target + 1) + y


def _changes_at_samples(values: Tensor, squares: Squares, frame: Frame) -> Tensor:
    """The resized image is the output: its pixels are the samples."""
    steps = torch.arange(STRIDE + 1, device=values.device).view(-1, 1)
    rows = STRIDE * squares.row + 2 + steps
    cols = STRIDE * squares.col + 2 + steps[:-1]
    bits = values[:, :STRIDE] > frame.threshold
    bits &= ((rows >= 0) & (rows < frame.rows.source)).unsqueeze(1)
    bits &= ((cols >= 0) & (cols < frame.cols.source)).unsqueeze(0)
    k, l, m = (bits[1:] ^ bits[:-1]).nonzero(as_tuple=True)
    return _keys(squares.instance[m], cols[l, m], rows[k + 1, m], frame)


@dataclass(frozen=True)
class Cells:
    """Squares of four neighbouring pixels of the resized image, (m,) each: instance, row and column of the top left
    pixel, and the four values."""

    instance: Tensor
    row: Tensor
    col: Tensor
    corners: tuple[Tensor, Tensor, Tensor, Tensor]

    def __getitem__(self, index: Tensor | slice) -> "Cells":
        a, b, c, d = (corner[index] for corner in self.corners)
        return Cells(self.instance[index], self.row[index], self.col[index], (a, b, c, d))


def _changes_between_samples(values: Tensor, squares: Squares, frame: Frame) -> Tensor:
    """The output is another resize away: its pixels lie between four samples each."""
    cells = _mixed_cells(values, squares, frame)
    heights = frame.rows.first.diff()
    widths = frame.cols.first.diff()
    # Pixels outside the outermost samples make the first cell of an axis longer: it is a case of its own, so that
    # it does not set the size for all others.
    tall, wide = (
        int(heights[1:].max()) if len(heights) > 1 else 0,
        int(widths[1:].max()) if len(widths) > 1 else 0,
    )
    large = (heights[cells.row] > tall) | (widths[cells.col] > wide)
    parts = []
    for group, shape in (
        (cells[~large], (tall, wide)),
        (cells[large], (int(heights.max()), int(widths.max()))),
    ):
        step = max(_PIXELS // max((shape[0] + 1) * shape[1], 1), 1)
        for at in range(0, len(group.row), step):
            parts.append(_cell_changes(group[at : at + step], shape, frame))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=values.device)


def _mixed_cells(values: Tensor, squares: Squares, frame: Frame) -> Cells:
    """The mixed cells of mixed squares whose columns hold output pixels."""
    codes = _codes(values, *_levels(frame.threshold))
    sums = codes[:-1] + codes[1:]
    sums = sums[:, :-1] + sums[:, 1:]
    steps = torch.arange(STRIDE, device=values.device).view(-1, 1)
    rows = STRIDE * squares.row + 2 + steps
    cols = STRIDE * squares.col + 2 + steps
    height, width = frame.rows.source, frame.cols.source
    edge = (rows == 0) | (rows == height - 1)
    filled = frame.cols.first.diff() > 0
    mixed = (sums > 0) & ((sums < 8) | edge.unsqueeze(1))
    mixed &= ((rows >= 0) & (rows < height)).unsqueeze(1)
    mixed &= ((cols >= 0) & (cols < width) & filled[cols.clamp(0, width - 1)]).unsqueeze(0)
    k, l, m = mixed.nonzero(as_tuple=True)
    row, col = rows[k, m], cols[l, m]
    count = len(squares)
    at = (k * (STRIDE + 1) + l) * count + m
    # The last row and column have nothing after them: the reference takes themselves for the next.
    down = torch.where(row == height - 1, 0, (STRIDE + 1) * count)
    right = torch.where(col == width - 1, 0, count)
    flat = values.view(-1)
    corners = (flat[at], flat[at + right], flat[at + down], flat[at + down + right])
    return Cells(squares.instance[m], row, col, corners)


def _cell_changes(cells: Cells, shape: tuple[int, int], frame: Frame) -> Tensor:
    """Changes in the columns of cells of at most `shape` (rows, columns) output pixels."""
    rows, cols = frame.rows, frame.cols
    step_y = torch.arange(shape[0], device=cells.row.device).view(-1, 1, 1)
    step_x = torch.arange(shape[1], device=cells.row.device).view(1, -1, 1)
    top, left = rows.first[cells.row], cols.first[cells.col]
    y = (top + step_y).clamp(max=rows.target - 1)
    x = (left + step_x).clamp(max=cols.target - 1)
    joint = joint_kernel(rows.target, cols.target)
    values = bilinear(cells.corners, (rows.near[y], rows.far[y]), (cols.near[x], cols.far[x]), joint)
    bits = torch.empty(shape[0] + 2, shape[1], len(cells.row), dtype=torch.bool, device=values.device)
    bits[0] = (cells.corners[0] > frame.threshold) & (cells.row > 0)
    bits[-1] = (cells.corners[2] > frame.threshold) & (cells.row < rows.source - 1)
    inside = step_y < rows.first[cells.row + 1] - top
    bits[1:-1] = torch.where(inside, values > frame.threshold, bits[-1])
    found = (bits[1:] ^ bits[:-1]) & (step_x < cols.first[cells.col + 1] - left)
    k, l, m = found.nonzero(as_tuple=True)
    return _keys(cells.instance[m], left[m] + l, top[m] + k, frame)
