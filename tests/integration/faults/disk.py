"""A small disk that is full, in memory and only for root: mounting is what makes it one of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PAGE = 4096
SIZE = 4 * 2**20


class Disk:
    """A file system of four megabytes; a ballast file fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, pages: int) -> None:
        """Leave so many pages free; every file takes one at least."""
        written = 0
        with self._ballast.open("wb", buffering=0) as file:
            with suppress(OSError):
                while True:
                    written += file.write(b"\0" * PAGE)
            file.truncate(max(0, written // PAGE - pages) * PAGE)

    def free(self) -> None:
        """Somebody has made room."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def disk(folder: Path) -> Iterator[Disk | None]:
    """A disk mounted at a folder; None where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        yield None
        return
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
