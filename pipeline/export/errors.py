"""What an export raises of the place that it goes to."""

from __future__ import annotations

from typing import Self

from pipeline.objects import StoreError


class TargetError(StoreError):
    """A place that an export cannot be written to; the message says why."""

    @classmethod
    def taken(cls, place: object) -> Self:
        """Where a new folder was to be, and there is something."""
        return cls(f"{place} holds something already; name a new folder with --to")
