"""What a tiled job does that may not be what was meant: said by `plan`, and by a run as it plans."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.plan import Plan
from pipeline.storage import Store
from pipeline.tiled.refused import refused
from pipeline.tiled.settings import Tiling

SHOWN = 3
"""Refused rasters that are named."""


def tiling_notes(tiling: Tiling | None, plans: Sequence[Plan], grown: bool) -> list[str]:
    """A line each; none where all is well. `grown`: the last of `plans` is new, of this run."""
    if tiling is None:
        return []
    notes = []
    cut = any(plan.windows is not None and plan.windows.images > plan.images for plan in plans)
    if tiling.overlap == 0 and cut:
        notes.append(
            "tiling.overlap is 0: windows share no pixels by which parts could be joined, so what a window's "
            "border cuts stays in parts, a row each; an overlap as wide as the larger things joins them"
        )
    if tiling.across_rasters and grown and len(plans) > 1:
        notes.append(
            "deduplicate: across_rasters joins the new rasters with each other, not with those of earlier "
            "runs: what lies in an old one and a new one has a row of each; another output holds all together"
        )
    return notes


def refused_note(store: Store, plan: Plan) -> list[str]:
    """A line on rasters that will have a row and no instances, since their headers do not suit; or none."""
    named, count = [], 0
    for name, raster in refused(store, [plan]):
        count += 1
        if count <= SHOWN:
            named.append(f"{name}: {raster.status}, {raster.reason}")
    if not count:
        return []
    share = f"{count:,} of {plan.images:,} rasters cannot" if count < plan.images else "no raster can"
    return [f"{share} be segmented, such as {'; '.join(named)}"]
