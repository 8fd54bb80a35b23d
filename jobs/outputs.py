"""The outputs that an output is made of: its own and, of a tiled job, that of its windows."""

from __future__ import annotations

from pipeline.manifest import Plan, load_plans
from pipeline.plan import PlanError
from pipeline.storage import Store
from pipeline.tiled.planning import open_windows


def is_tiled(plans: list[Plan]) -> bool:
    """Whether a job's images are cut into windows."""
    return any(plan.windows is not None for plan in plans)


def stages(store: Store) -> list[Store]:
    """The stores of a job's stages, the last one first; a plan that cannot be read tells of none but that."""
    try:
        tiled = is_tiled(load_plans(store))
    except PlanError:
        tiled = False
    return [store, open_windows(store)] if tiled else [store]
