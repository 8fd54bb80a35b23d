"""The ground that every section of a spec stands on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Common ground of every section: unknown keys are errors, `"8"` is not 8, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
