"""TensorBoard's event files in an output's `tensorboard/`: one a run, written again as it grows."""

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
        self._writer = SummaryWriter(self._folder.name, purge_step=step + 1, flush_secs=3600)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Curves by name: `loss/mask`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        """An RGB picture of (H, W, 3)."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def flush(self) -> None:
        """Put what was written until now."""
        self._writer.flush()
        for path in Path(self._folder.name).iterdir():
            self._store.put(FOLDER + path.name, path.read_bytes())
