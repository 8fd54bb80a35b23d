"""A training's curves as a picture: the losses by step, and what the model measured."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pipeline.storage import Store

CURVES_KEY = "curves.png"


def write_curves(
    store: Store, steps: Sequence[Mapping[str, float]], measured: Sequence[Mapping[str, float]]
) -> None:
    """Put `curves.png`."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, precision = figure.subplots(1, 2)
    x = np.array([s["step"] for s in steps])
    for name in steps[0]:
        if name not in ("step", "lr", "norm", "skipped", "seconds", "wait"):
            losses.plot(*_smooth(x, np.array([s[name] for s in steps])), label=name, linewidth=1.2)
    losses.set(xlabel="step", title="loss")
    losses.set_yscale("log")
    losses.legend(fontsize=8)
    for name in ("ap", "ap50", "ap75"):
        precision.plot([m["step"] for m in measured], [m[name] for m in measured], "o-", label=name, ms=3)
    precision.set(xlabel="step", title="measured on val", ylim=(0, 1))
    precision.legend(fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    store.put(CURVES_KEY, picture.getvalue())


def _smooth(x: np.ndarray, y: np.ndarray, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbouring steps, so that at most `points` are drawn."""
    size = max(1, len(x) // points)
    whole = len(x) // size * size
    return x[:whole].reshape(-1, size).mean(1), y[:whole].reshape(-1, size).mean(1)
