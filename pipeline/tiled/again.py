"""Which stitch shards are older than the windows they were made of, since some of those were retried."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pipeline.commit import Commit
from pipeline.ledger import Ledger
from pipeline.plan import Plan
from pipeline.storage import Store
from pipeline.tiled.found import window_shards
from pipeline.tiled.planning import open_windows
from pipeline.tiled.refused import rasters


def retried_windows(output: Store) -> dict[str, int]:
    """Revisions of the window shards of a tiled output, of those that were retried."""
    return {
        shard: revision for shard, revision in Ledger(open_windows(output)).revisions().items() if revision
    }


def outdated(commit: Commit, retried: Mapping[str, int], made_of: Iterable[str]) -> bool:
    """Whether a stitch shard's record knows an earlier revision of a window shard that it is made of."""
    return any(retried.get(shard, 0) > commit.windows.get(shard, 0) for shard in made_of)


def outdated_shards(output: Store, plans: Sequence[Plan]) -> list[str]:
    """Committed stitch shards to be stitched again; none are read where no window was ever retried."""
    retried = retried_windows(output)
    if not retried:
        return []
    made_of = {shard: touched for shard, touched in _made_of(output, plans) if touched & retried.keys()}
    ledger = Ledger(output)
    done = ledger.revisions()
    records = ledger.records({shard: done[shard] for shard in made_of if shard in done})
    return [record.shard for record in records if outdated(record, retried, made_of[record.shard])]


def _made_of(output: Store, plans: Sequence[Plan]) -> Iterator[tuple[str, set[str]]]:
    """Each stitch shard, and the window shards that its rasters' windows lie in."""
    for plan in plans:
        assert plan.windows is not None
        names, windows = plan.shard_ids(), plan.windows.shard_ids()
        touched: list[set[str]] = [set() for _ in names]
        for number, _, raster in rasters(output, plan):
            touched[number] |= {windows[at] for at, _ in window_shards(plan.windows, raster)}
        yield from zip(names, touched, strict=True)
