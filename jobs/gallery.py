"""Overlays of a few images in a folder, and a table of what was found in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from condinst import Instances
from jobs.errors import on_disk, one_line
from jobs.overlay import draw
from pipeline.nouns import many
from pipeline.records import Status

MOST_ROWS = 12
"""Instances of one image that are printed one by one."""

_WRITTEN = ".overlays"
"""File in the folder that names the overlays in it, a line each, with what tells that they are ours still."""


class Gallery:
    """Writes an overlay an image into a folder and prints what is in it."""

    def __init__(
        self, folder: Path, classes: Sequence[str], console: Console, *, afresh: bool = False
    ) -> None:
        """`afresh` takes away what the last gallery that was begun so has left in the folder."""
        self.folder = folder
        self.statuses: Counter[str] = Counter()
        self.instances = 0
        self._classes = classes
        self._console = console
        self._names: set[str] = set()
        self._afresh = afresh
        with on_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if afresh:
                _take_away(folder)

    def add(self, name: str, image: NDArray[np.uint8], found: Instances, *, each: bool) -> None:
        """Draw one image; `each` prints its instances one by one, else a line."""
        self.statuses[Status.OK if len(found) else Status.EMPTY] += 1
        self.instances += len(found)
        path = self.folder / self._file_name(name)
        with on_disk(path):
            Image.fromarray(draw(image, found, self._classes)).save(path, quality=92)
            if self._afresh:
                with (self.folder / _WRITTEN).open("a", encoding="utf-8") as written:
                    written.write(f"{path.name} {_stamp(path)}\n")
        height, width = image.shape[:2]
        kinds = Counter(self._classes[int(label)] for label in found.classes)
        listed = ", ".join(f"{count:,} {label}" for label, count in kinds.most_common()) or "no instances"
        shown = escape(one_line(name))
        self._console.print(
            f"[bold]{shown}[/] {width} x {height}: {escape(listed)} [dim]→ {escape(str(path))}[/]",
            highlight=False,
            soft_wrap=True,
        )
        if each and len(found):
            self._console.print(self._table(found))

    def reject(self, name: str, status: Status, reason: str) -> None:
        """Tell of an image that could not be segmented."""
        self.statuses[status] += 1
        self._console.print(
            f"[bold]{escape(one_line(name))}[/] [red]{status}[/]: {escape(one_line(reason))}",
            highlight=False,
            soft_wrap=True,
        )

    def close(self) -> None:
        """Print the totals."""
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        self._console.print(
            f"{many(self.statuses.total(), 'image')} ({counts}), {many(self.instances, 'instance')}; "
            f"overlays in [bold]{escape(str(self.folder))}[/]",
            highlight=False,
            soft_wrap=True,
        )

    def _table(self, found: Instances) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
        for heading in ("#", "score", "x", "y", "width", "height", "area px"):
            table.add_column(heading, justify="right")
        table.add_column("class")
        for number in range(min(len(found), MOST_ROWS)):
            x0, y0, x1, y1 = (round(float(edge)) for edge in found.boxes[number])
            numbers = (number, f"{found.scores[number]:.3f}", x0, y0, x1 - x0, y1 - y0)
            label = self._classes[int(found.classes[number])]
            table.add_row(*map(str, numbers), f"{found.masks.area[number]:,}", escape(label))
        if len(found) > MOST_ROWS:
            table.caption = f"and {len(found) - MOST_ROWS} more"
        return table

    def _file_name(self, name: str) -> str:
        """A file name that no other image of this gallery has and no folder is needed for."""
        kept = name.rpartition(".")[0] or name
        base = "".join(c if c.isalnum() or c in "-_." else "_" for c in kept.replace("/", "__"))[-60:]
        base = base.lstrip(".") or "image"
        stem, number = base, 1
        while stem in self._names:
            number += 1
            stem = f"{base}-{number}"
        self._names.add(stem)
        return f"{stem}.jpg"


def _take_away(folder: Path) -> None:
    """Remove the overlays that the folder's list names, but for those that are others now, and the list."""
    listed = folder / _WRITTEN
    lines = listed.read_text(encoding="utf-8", errors="replace").splitlines() if listed.is_file() else []
    for name, _, stamp in (line.rpartition(" ") for line in lines):
        path = folder / name
        if name.endswith(".jpg") and path.name == name and _stamp(path) == stamp:
            path.unlink()
    listed.unlink(missing_ok=True)


def _stamp(path: Path) -> str:
    """What changes with a file's content; nothing where there is none."""
    if path.is_symlink() or not path.is_file():
        return ""
    found = path.stat()
    return f"{found.st_size}-{found.st_mtime_ns}"
