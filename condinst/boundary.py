"""Where full-size masks change between off and on, found from their low-resolution logits.

A bilinear value lies between the samples around it, so a mask can only change where neighbouring samples lie
on both sides of the threshold. That is looked for on two grids: among squares of four neighbouring cells of
the logits, then, inside the mixed ones, among squares of four neighbouring pixels of the resized image. (Both
resizes of the reference draw an output pixel from one square of either grid.) Output pixels are evaluated in
mixed squares alone.

A square tells, for each of its output columns, the changes in a sequence that begins with the sign of its top
left corner and ends with that of its bottom left one. Squares above each other have these in common, so that
their sequences join to one; a change that both of them tell at one pixel is none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from condinst.upsample import (
    STRIDE,
    Along,
    Axis,
    Corners,
    bilinear,
    pick,
    quarter_grid,
    weights_first,
)

_MARGIN = 2e-6  # more than both resizes round by: a sample this near the threshold counts for both sides
_VECTOR = 32  # float32 values that PyTorch's widest vector loop takes at once


@dataclass(frozen=True)
class Frame:
    """The outputs of masks: their rows, their columns, and the value above which a pixel is on.

    Several images share one if they are of a kind: `whole` and `joint` are the same for each.
    """

    rows: Axis
    cols: Axis
    threshold: float
    image: Tensor | None = None
    """(n,) int64, of each mask its image's place in the axes; None for the masks of one image."""

    @property
    def whole(self) -> bool:
        """Whether outputs have the sizes of the resized images."""
        return self.rows.sources == self.rows.targets and self.cols.sources == self.cols.targets

    @property
    def joint(self) -> bool:
        """`weights_first` of the outputs."""
        return weights_first(self.rows.targets[0], self.cols.targets[0])

    def along(self, instance: Tensor) -> tuple[Along, Along]:
        """Rows and columns as things of masks, (m,) int64, see them."""
        image = None if self.image is None else pick(self.image, instance)
        return self.rows.of(image), self.cols.of(image)

    @property
    def levels(self) -> tuple[float, float]:
        """Samples at most the first are surely off, samples above the second surely on."""
        return self.threshold - _MARGIN, self.threshold + _MARGIN


@dataclass(frozen=True)
class Squares:
    """Squares of four neighbouring cells, (m,) int64 each: instance, row and column of the top left cell.

    Rows and columns begin at -1: outside the logits the outermost cells are repeated.
    """

    instance: Tensor
    row: Tensor
    col: Tensor

    def __len__(self) -> int:
        return len(self.instance)

    def __getitem__(self, index: slice) -> "Squares":
        return Squares(self.instance[index], self.row[index], self.col[index])


@dataclass(frozen=True)
class Cells:
    """Squares of four neighbouring pixels of the resized image, (m,) each: as `Squares`, and their values."""

    instance: Tensor
    row: Tensor
    col: Tensor
    corners: Corners

    def __len__(self) -> int:
        return len(self.instance)

    def __getitem__(self, index: slice) -> "Cells":
        a, b, c, d = (corner[index] for corner in self.corners)
        return Cells(self.instance[index], self.row[index], self.col[index], (a, b, c, d))

    def picked(self, chosen: Tensor) -> "Cells":
        """Those where `chosen`, (m,) bool."""
        at = chosen.nonzero().view(-1)
        a, b, c, d = (pick(corner, at) for corner in self.corners)
        return Cells(pick(self.instance, at), pick(self.row, at), pick(self.col, at), (a, b, c, d))


def mixed_squares(logits: Tensor, frame: Frame) -> Squares:
    """Squares of `logits` (n, h4, w4) in which the masks may change, by instance.

    These have cells on both sides of the threshold; at the frame's top and bottom, any that is on.
    """
    h4, w4 = logits.shape[1:]
    low, high = (float(torch.tensor(level, dtype=torch.float64).logit()) for level in frame.levels)
    # Most rows hold nothing: one cheap pass finds those. A row with NaN is kept, and its NaN counts as off.
    rows = logits.reshape(-1, w4)
    step = max(_together(logits.device) // (w4 + 1), 1)
    live = ~(torch.cat([part.amax(dim=1) for part in rows.split(step)]).view(-1, h4) <= low)
    live = torch.cat([live[:, :1], live, live[:, -1:]], dim=1)
    bands = (max(frame.rows.sources) - 3) // STRIDE + 2  # b, square row b - 1, begins with pixel row 4b - 2
    live = live[:, :bands] | live[:, 1 : bands + 1]
    last = (frame.rows.of(frame.image).source - 3) // STRIDE + 1
    if isinstance(last, Tensor):
        live &= torch.arange(bands, device=live.device) <= last[:, None]
    instance, band = live.nonzero(as_tuple=True)
    last = last if isinstance(last, int) else pick(last, instance)
    upper, lower = instance * h4 + (band - 1).clamp(min=0), instance * h4 + band.clamp(max=h4 - 1)
    outermost = ((band == 0) | (band == last)).view(-1, 1)
    found = [instance.new_empty(3, 0)]
    for at in range(0, len(band), step):
        part = slice(at, at + step)
        sums = _codes(pick(rows, upper[part]), low, high) + _codes(pick(rows, lower[part]), low, high)
        sums = _pair_sums(sums)
        line, col = ((sums > 0) & ((sums < 8) | outermost[part])).nonzero(as_tuple=True)
        found.append(torch.stack([pick(instance[part], line), pick(band[part], line) - 1, col - 1]))
    return Squares(*torch.cat(found, dim=1))


def changes(logits: Tensor, squares: Squares, frame: Frame) -> Tensor:
    """The changes in `squares`, which are `mixed_squares` of `logits`, or those of some of its instances.

    Returns (k,) int64, unsorted: a pixel (y, x) of instance i that differs from the one above it is numbered
    (i * width + x) * (height + 1) + y, where height and width are the largest of the frame's. Outside the
    image all is off, and y may be its height. What appears an even number of times is no change.
    """
    inside = _changes_at_samples if frame.whole else _changes_between_samples
    step = _together(logits.device) // (STRIDE + 1) ** 2
    parts = [squares[at : at + step] for at in range(0, len(squares), step)]
    found = [inside(_samples(logits, part), part, frame) for part in parts]
    return torch.cat(found) if found else squares.instance


def _together(device: torch.device) -> int:
    """How many values to work on together.

    On a CPU one less than PyTorch spreads over threads: such pieces stay in the cache, and threads cost such
    short work more than they give it, above all where something else uses the cores. On a GPU, many.
    """
    return (1 << 15) - 1 if device.type == "cpu" else 1 << 22


def _codes(values: Tensor, low: float, high: float) -> Tensor:
    """uint8: 0 surely off, 2 surely on, 1 too near the threshold to tell."""
    return (values > low).view(torch.uint8) + (values > high).view(torch.uint8)


def _pair_sums(codes: Tensor) -> Tensor:
    """Sums of horizontal neighbours, (r, w) to (r, w + 1), the outermost repeated."""
    sums = torch.empty(codes.shape[0], codes.shape[1] + 1, dtype=codes.dtype, device=codes.device)
    torch.add(codes[:, :-1], codes[:, 1:], out=sums[:, 1:-1])
    sums[:, 0] = 2 * codes[:, 0]
    sums[:, -1] = 2 * codes[:, -1]
    return sums


def _samples(logits: Tensor, squares: Squares) -> Tensor:
    """Pixels of the resized image in the squares, (5, 5, m): at (k, l), row 4 row + 2 + k and so on."""
    _, h4, w4 = logits.shape
    upper = (squares.instance * h4 + squares.row.clamp(min=0)) * w4
    lower = (squares.instance * h4 + (squares.row + 1).clamp(max=h4 - 1)) * w4
    left, right = squares.col.clamp(min=0), (squares.col + 1).clamp(max=w4 - 1)
    index = torch.cat([upper + left, upper + right, lower + left, lower + right])
    a, b, c, d = _sigmoid(pick(logits.reshape(-1), index)).nan_to_num_(nan=0).chunk(4)
    values = quarter_grid((a, b, c, d), weights_first(STRIDE * h4 + 1, STRIDE * w4 + 1))
    # Left of the first cell's centre, and above it, the reference repeats the pixel there.
    outside = (squares.col < 0).nonzero().view(-1)
    values[:, :-1, outside] = values[:, -1:, outside]
    outside = (squares.row < 0).nonzero().view(-1)
    values[:-1, :, outside] = values[-1:, :, outside]
    return values


def _sigmoid(values: Tensor) -> Tensor:
    """Sigmoid as PyTorch's vector kernel rounds it, however many values there are.

    A thread's last values, too few for a vector, go through a scalar kernel that rounds otherwise.
    """
    padded = torch.zeros(-(-len(values) // _VECTOR) * _VECTOR, dtype=values.dtype, device=values.device)
    padded[: len(values)] = values
    return padded.sigmoid_()[: len(values)]


def _positions(squares: Squares, down: Along, across: Along, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns (count, m) of samples of squares, and which lie in the image, (count, count, m)."""
    steps = torch.arange(count, device=squares.row.device).view(-1, 1) + 2
    rows, cols = STRIDE * squares.row + steps, STRIDE * squares.col + steps
    valid_rows = (rows >= 0) & (rows < down.source)
    valid_cols = (cols >= 0) & (cols < across.source)
    return rows, cols, valid_rows.unsqueeze(1) & valid_cols.unsqueeze(0)


def _number(instance: Tensor, x: Tensor, y: Tensor, frame: Frame) -> Tensor:
    return (instance * max(frame.cols.targets) + x) * (max(frame.rows.targets) + 1) + y


def _changes_at_samples(values: Tensor, squares: Squares, frame: Frame) -> Tensor:
    """Changes where the resized image has the output's size: its pixels are the samples."""
    _, _, valid = _positions(squares, *frame.along(squares.instance), STRIDE + 1)
    on = ((values > frame.threshold) & valid)[:, :-1]
    down, across, which = (on[1:] ^ on[:-1]).nonzero(as_tuple=True)
    row, col = STRIDE * pick(squares.row, which) + 2 + down, STRIDE * pick(squares.col, which) + 2 + across
    return _number(pick(squares.instance, which), col, row + 1, frame)


def _changes_between_samples(values: Tensor, squares: Squares, frame: Frame) -> Tensor:
    """Changes where the output is a resize away: each pixel lies between four samples."""
    cells = _mixed_cells(values, squares, frame)
    down, across = frame.along(cells.instance)
    heights = down.first(cells.row + 1) - down.first(cells.row)
    widths = across.first(cells.col + 1) - across.first(cells.col)
    # The few longer cells at the frame's top and left go apart, or the rest would be evaluated at their size.
    longer = (heights > frame.rows.usual) | (widths > frame.cols.usual)
    groups = [
        (cells.picked(~longer), frame.rows.usual, frame.cols.usual),
        (cells.picked(longer), frame.rows.most, frame.cols.most),
    ]
    found = []
    for group, height, width in groups:
        step = max(_together(values.device) // ((height + 2) * max(width, 1)), 1)
        found += [
            _cell_changes(group[at : at + step], height, width, frame) for at in range(0, len(group), step)
        ]
    return torch.cat(found) if found else cells.instance


def _mixed_cells(values: Tensor, squares: Squares, frame: Frame) -> Cells:
    """The mixed cells of squares, of those with output columns in them."""
    sums = _codes(values, *frame.levels)
    sums = sums[:-1] + sums[1:]
    sums = sums[:, :-1] + sums[:, 1:]
    own_rows, own_cols = frame.along(squares.instance)
    rows, cols, valid = _positions(squares, own_rows, own_cols, STRIDE)
    outermost = (rows == 0) | (rows == own_rows.source - 1)
    filled = own_cols.filled(cols.clamp(min=0).clamp(max=own_cols.source - 1))
    mixed = valid & filled & (sums > 0) & ((sums < 8) | outermost.unsqueeze(1))
    down, across, which = mixed.nonzero(as_tuple=True)
    instance = pick(squares.instance, which)
    own_rows, own_cols = frame.along(instance)
    row, col = STRIDE * pick(squares.row, which) + 2 + down, STRIDE * pick(squares.col, which) + 2 + across
    at = (down * (STRIDE + 1) + across) * len(squares) + which
    # After the last row and column the reference takes these themselves for the next.
    below = torch.where(row == own_rows.source - 1, 0, (STRIDE + 1) * len(squares))
    right = torch.where(col == own_cols.source - 1, 0, len(squares))
    flat = values.view(-1)
    corners = (
        pick(flat, at),
        pick(flat, at + right),
        pick(flat, at + below),
        pick(flat, at + below + right),
    )
    return Cells(instance, row, col, corners)


def _cell_changes(cells: Cells, height: int, width: int, frame: Frame) -> Tensor:
    """Changes in cells of at most `height` rows and `width` columns of output pixels."""
    rows, cols = frame.along(cells.instance)
    down = torch.arange(height, device=cells.row.device).view(-1, 1, 1)
    across = torch.arange(width, device=cells.row.device).view(1, -1, 1)
    top, left = rows.first(cells.row), cols.first(cells.col)
    y, x = (top + down).clamp(max=rows.target - 1), (left + across).clamp(max=cols.target - 1)
    values = bilinear(cells.corners, rows.shares(y), cols.shares(x), frame.joint)
    on = torch.empty(height + 2, width, len(cells), dtype=torch.bool, device=values.device)
    on[0] = (cells.corners[0] > frame.threshold) & (cells.row > 0)
    on[-1] = (cells.corners[2] > frame.threshold) & (cells.row < rows.source - 1)
    inside = top + down < rows.first(cells.row + 1)
    on[1:-1] = torch.where(inside, values > frame.threshold, on[-1])
    found = (on[1:] ^ on[:-1]) & (left + across < cols.first(cells.col + 1))
    dy, dx, which = found.nonzero(as_tuple=True)
    return _number(pick(cells.instance, which), pick(left, which) + dx, pick(top, which) + dy, frame)
