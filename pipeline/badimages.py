"""Images of a training that cannot be used: each costs itself, and only too many of them end the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from pipeline.labels import SampleError
from pipeline.nouns import many

T = TypeVar("T")
_SHOWN = 3
"""Images that the error about too many of them names."""


class TooManyBad(SampleError):
    """More images cannot be used than are allowed to; the message says how many, the first ones and why."""


class BadImages:
    """Which images of a set cannot be used, by number, and why; safe in threads."""

    def __init__(self, name: str, images: int, share: float, tell: Callable[[str], None]) -> None:
        """Of a set of so many images called `name`; `tell` gets a line for each that is found to be bad.

        A `share` of them may be: at least one unless it is 0, and never all.
        """
        self._name, self._images, self._share, self._tell = name, images, share, tell
        self.most = min(max(int(share * images), share > 0), images - 1)
        """So many may be bad."""
        self.reasons: dict[int, str] = {}
        self._lock = threading.Lock()

    def attempt(self, number: int, read: Callable[[int], T]) -> T | None:
        """`read(number)`, or None where it raises SampleError, or did before.

        Raises TooManyBad, and whatever else `read` raises.
        """
        if number in self.reasons:
            return None
        try:
            return read(number)
        except SampleError as error:
            self.add({number: str(error)})
            return None

    def add(self, reasons: Mapping[int, str]) -> None:
        """Take in images that are bad, also those that others found. Raises TooManyBad."""
        with self._lock:
            new = {number: reason for number, reason in reasons.items() if number not in self.reasons}
            self.reasons = {**self.reasons, **new}  # another one: others may be reading it
            count = len(self.reasons)
        for reason in new.values():
            self._tell(f"{self._name}: left out: {reason}")
        if count > self.most:
            raise TooManyBad(self._too_many())

    def _too_many(self) -> str:
        reasons = [reason for _, reason in sorted(self.reasons.items())]
        more = [f"and {len(reasons) - _SHOWN:,} more"] if len(reasons) > _SHOWN else []
        listed = "\n  ".join(["", *reasons[:_SHOWN], *more])
        return (
            f"{self._name}: {len(reasons):,} of {many(self._images, 'image')} cannot be used, and "
            f"data.max_bad ({self._share:g}) allows {self.most:,}:{listed}\n"
            "Put the images right or raise data.max_bad; the same command then goes on"
        )
