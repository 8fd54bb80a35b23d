"""Reading the reference sets of `PARITY_DIR`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "parity"
FOLDER = Path(os.environ.get("PARITY_DIR", SHARED))


def sets(pattern: str) -> list:
    """Files of the reference folder as pytest parameters; one that skips where there is none."""
    found = sorted(FOLDER.glob(pattern)) if FOLDER.is_dir() else []
    if not found:
        reason = f"no {pattern} in {FOLDER} (set PARITY_DIR)"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    return [pytest.param(path, id=path.name.removesuffix(".npz")) for path in found]


def unpack(packed: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """`np.packbits(axis=-1)` undone: bool array of `shape`."""
    return np.unpackbits(packed, axis=-1)[..., : int(shape[-1])].astype(bool)
