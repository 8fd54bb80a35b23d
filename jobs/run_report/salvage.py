"""Pictures of inputs that were not segmented, for a report: each decoded in another process, within limits.

Such a file may be what ended a worker. It is given little time and memory, and whatever it does there costs
the report one picture.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from jobs.overlay import canvas_scale
from jobs.viewer.pixels import Pictures
from pipeline.children import ChildError, Children, DeadlyImage
from pipeline.decode import DecodeLimits
from pipeline.pixels import Rgb
from pipeline.plan import PlanError
from pipeline.records import InputRejected
from pipeline.storage import StoreError

PIXELS, BYTES, SECONDS = 30_000_000, 100_000_000, 10.0
"""What one input may cost at most, where the run's own limits are not lower."""
EDGE = 480
"""Longest edge of a picture."""


class NoPicture(Exception):
    """An input that nothing can be shown of, and why."""


class Salvage:
    """Reads what can be read of a run's inputs that were not segmented, one at a time; close it."""

    def __init__(self, pictures: Pictures, until: float) -> None:
        """`until`, by the monotonic clock, no more are begun."""
        own = pictures.limits
        self._pictures, self._until = pictures, until
        self._limits = DecodeLimits(min(own.pixels, PIXELS), min(own.bytes, BYTES), min(own.seconds, SECONDS))
        self._children = Children(self._limits, "jobs.run_report.childsalvage")
        self._broken = ""

    def picture(self, row: Mapping[str, Any]) -> Rgb:
        """What can be seen of an input, in the size of a tile. Raises NoPicture."""
        if self._broken:
            raise NoPicture(self._broken)
        if time.monotonic() > self._until:
            raise NoPicture("no time was left for its picture")
        try:
            rgb = self._children.decode(self._pictures.file(row, self._limits.bytes))
        except InputRejected as error:
            same = error.status == row["status"] and error.reason == row["error"]
            raise NoPicture("nothing of it can be read" if same else str(error)) from None
        except ChildError as error:
            self._broken = str(error)  # nor will there be one for the next
            raise NoPicture(self._broken) from None
        except (DeadlyImage, StoreError, PlanError) as error:
            raise NoPicture(str(error)) from None
        return _tile(rgb)

    def close(self) -> None:
        """End the process that decodes."""
        self._children.close()


def _tile(rgb: Rgb) -> Rgb:
    height, width = rgb.shape[:2]
    scale = canvas_scale(height, width, EDGE, EDGE)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))
