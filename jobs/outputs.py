"""The outputs that an output is made of: its own and, of a tiled job, that of its windows."""

from __future__ import annotations

from pipeline.plan import PlanError, load_plans, window_plans
from pipeline.storage import Store
from pipeline.tiled.planning import open_windows


def stages(store: Store) -> list[Store]:
    """The stores of a job's stages, the last one first; a plan that cannot be read tells of none but that."""
    try:
        tiled = bool(window_plans(load_plans(store)))
    except PlanError:
        tiled = False
    return [store, open_windows(store)] if tiled else [store]
