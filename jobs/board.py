"""TensorBoard's event files in an output's `tensorboard/`: a new one each time that events are put.

A single one that grows would be put whole each time, and pictures make it large.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboardX import SummaryWriter

from pipeline.storage import Store

FOLDER = "tensorboard/"


class Board:
    """What one run of a training shows after a step; what earlier runs showed after it is hidden."""

    def __init__(self, store: Store, step: int) -> None:
        self._store = store
        self._folder = tempfile.TemporaryDirectory(prefix="condinst-board-")
        self._hide: int | None = step + 1
        """The first step of earlier runs that is hidden; the first file says so."""
        self._files = 0
        self._writer: SummaryWriter | None = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Curves by name: `loss/mask`."""
        for name, value in values.items():
            self._open().add_scalar(name, value, step)

    def picture(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        """An RGB picture of (H, W, 3)."""
        self._open().add_image(name, pixels, step, dataformats="HWC")

    def flush(self) -> None:
        """Put what was written since the last time."""
        if self._writer is None:
            return
        self._writer.close()  # `flush` leaves what is still in the writer's queue
        self._writer = None
        for path in Path(self._folder.name).iterdir():
            self._store.put(FOLDER + path.name, path.read_bytes())
            path.unlink()

    def close(self) -> None:
        """Put the rest, and remove what lies on this machine."""
        self.flush()
        self._folder.cleanup()

    def _open(self) -> SummaryWriter:
        if self._writer is None:
            # Names begin with the second: within one, the number keeps their order.
            self._writer = SummaryWriter(
                self._folder.name,
                purge_step=self._hide,
                flush_secs=3600,
                filename_suffix=f".{self._files:06d}",
            )
            self._files, self._hide = self._files + 1, None
        return self._writer
