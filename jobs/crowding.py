"""Told by `plan`, and by a run before it starts Ray: that its workers do not fit this machine's cores."""

from __future__ import annotations

from jobs.conventions import WorkersSection
from pipeline.cluster import crowding


def crowding_note(workers: WorkersSection, shards: int) -> str | None:
    """A line on the workers that such a spec starts for so many shards; None where all is well."""
    key = "workers.count" if workers.min is None else "workers.min"
    return crowding(min(workers.least, shards), workers.cpus, key=key)
