"""Some of a job's inputs, at even distances."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence

from jobs.tiling_notes import refused_note
from pipeline.manifest import Plan, freeze, load_plans, read_shard
from pipeline.plan import window_plans
from pipeline.records import ImageRef
from pipeline.settings import SegmentSettings
from pipeline.storage import Store
from pipeline.tiled.planning import freeze_tiled, open_windows


def sample(
    settings: SegmentSettings, output: Store, count: int, say: Callable[[str], None] = lambda note: None
) -> list[ImageRef]:
    """`count` inputs (windows, of a tiled job) at even distances (all, if fewer), in plan order.

    `say` is told of what a plan that is made here leaves out.
    """
    plans = load_plans(output)
    if plans:
        return picked(output, plans, count)
    with tempfile.TemporaryDirectory(prefix="condinst-try-") as scratch:
        store = Store.open(scratch)
        if settings.tiling is None:
            plan = freeze(settings.sources, store, 1000, 0)
        else:
            plan = freeze_tiled(settings.sources, store, 1000, 0, settings.tiling, settings.limits)
            for note in refused_note(store, plan):
                say(note)
        refs = picked(store, [plan], count)
    own = f"{output.uri}/"
    return [ref for ref in refs if not ref.uri.startswith(own)]


def picked(output: Store, plans: Sequence[Plan], count: int) -> list[ImageRef]:
    """`count` of what the model is given, the plans' images or their windows, as `sample` has them."""
    windows = window_plans(plans)
    store, plans = (open_windows(output), windows) if windows else (output, plans)
    total = sum(plan.images for plan in plans)
    wanted = [number * total // count for number in range(count)] if count < total else list(range(total))
    refs: list[ImageRef] = []
    start = 0
    for plan in plans:
        places = [divmod(n - start, plan.shard_size) for n in wanted if start <= n < start + plan.images]
        for shard in sorted({shard for shard, _ in places}):
            rows = read_shard(store, plan, shard)
            refs += [rows[row] for place, row in places if place == shard]
        start += plan.images
    return refs
