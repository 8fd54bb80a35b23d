"""Charts as SVG text: pure functions, their colours those of the page by day and by night.

Each has a title and a description for who does not see it; every text in it is escaped.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import accumulate
from zlib import crc32

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 12, 40


def bars(
    values: Sequence[float], labels: Sequence[str], title: str, x_name: str, y_name: str = "count"
) -> Markup:
    """A histogram; `labels` are those of the bars' left edges, empty where there is none."""
    top = nice(max([*values, 0.0]))
    step = (WIDTH - _LEFT - _RIGHT) / max(len(values), 1)
    drawn = "".join(
        f'<rect class="bar" x="{_LEFT + at * step + 0.5:.1f}" y="{_y(value, top):.1f}" '
        f'width="{max(step - 1, 0.5):.1f}" height="{_y(0, top) - _y(value, top):.1f}"/>'
        for at, value in enumerate(values)
        if value > 0
    )
    marks = "".join(_x_mark(_LEFT + at * step, label) for at, label in enumerate(labels) if label)
    peak = max(range(len(values)), key=lambda at: values[at], default=0)
    near = next((label for label in reversed(labels[: peak + 1]) if label), "")
    said = (
        f"{len(values)} bars of {y_name} by {x_name}; the highest, {short(max([*values, 0.0]))}, from {near}"
    )
    return _framed(title, said, drawn + marks, top, x_name, y_name)


def area(values: Sequence[float], ends: tuple[str, str], title: str, x_name: str, y_name: str) -> Markup:
    """Values over an even axis of which the ends are named, as a filled line."""
    top = nice(max([*values, 0.0]))
    step = (WIDTH - _LEFT - _RIGHT) / max(len(values), 1)
    points = [
        (_LEFT + (at + side) * step, _y(value, top)) for at, value in enumerate(values) for side in (0, 1)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    base = f"{_y(0, top):.1f}"
    drawn = (
        f'<polygon class="under" points="{_LEFT},{base} {path} {WIDTH - _RIGHT},{base}"/>'
        f'<polyline class="line" points="{path}"/>'
    )
    marks = _x_mark(_LEFT, ends[0]) + _x_mark(WIDTH - _RIGHT, ends[1], "end")
    mean = sum(values) / max(len(values), 1)
    said = f"{y_name} over {x_name}: {short(mean)} in the mean, {short(max([*values, 0.0]))} at most"
    return _framed(title, said, drawn + marks, top, x_name, y_name)


def shares(parts: Sequence[tuple[str, float]], title: str) -> Markup:
    """Parts of a whole as one bar; their names and numbers stand beside it in the page."""
    whole = sum(value for _, value in parts) or 1.0
    begins = accumulate((value / whole * WIDTH for _, value in parts), initial=0.0)
    drawn = "".join(
        f'<rect class="part part-{at % 8}" x="{begin:.1f}" y="0" height="28" '
        f'width="{value / whole * WIDTH:.1f}"/>'
        for at, (begin, (_, value)) in enumerate(zip(begins, parts, strict=False))
    )
    said = ", ".join(f"{name} {value / whole:.0%}" for name, value in parts)
    return _svg(title, said, drawn, 28)


def nice(value: float) -> float:
    """The next of 1, 2, 3, 4, 6, 8, 10, 20, ... that is not smaller; 1 for nothing."""
    if value < sys.float_info.min:  # powers of ten below it are not what they say
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(
        step * unit for step in (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0) if step * unit >= value * (1 - 1e-9)
    )


def short(value: float) -> str:
    """A number in few signs: 1,240, 12.4 k, 3.1 M, 0.25."""
    for unit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if sign == 'k' else unit):.3g} {sign}"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _framed(title: str, said: str, drawn: str, top: float, x_name: str, y_name: str) -> Markup:
    ticks = "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{_y(v, top):.1f}" y2="{_y(v, top):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{_y(v, top) + 4:.1f}" text-anchor="end">{escape(short(v))}</text>'
        for v in (0.0, top / 2, top)
    )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    names = (
        f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text transform="translate(11 {(_TOP + HEIGHT - _BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_name)}</text>'
    )
    return _svg(title, said, ticks + drawn + names, HEIGHT)


def _svg(title: str, said: str, drawn: str, height: int) -> Markup:
    # By what it tells: a report that is written again is the same, whatever the process drew before.
    told = crc32((title + said).encode(errors="surrogatepass"))
    name = f"chart-{told:08x}"
    return Markup(  # noqa: S704  # its parts are numbers, and texts that were escaped
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(said)}</desc>{drawn}</svg>'
    )


def _x_mark(x: float, label: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="{anchor}">{escape(label)}</text>'


def _y(value: float, top: float) -> float:
    return HEIGHT - _BOTTOM - value / top * (HEIGHT - _BOTTOM - _TOP)
