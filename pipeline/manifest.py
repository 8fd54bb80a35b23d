"""Freezes a job's inputs: reads them once, in constant memory, and cuts them into shards."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.entries import Tally
from pipeline.inputrows import InputRows, demand
from pipeline.known import Known
from pipeline.objects import NotFound
from pipeline.plan import (
    Plan,
    PlanError,
    PlanFile,
    load_plan,
    load_plans,
    plan_bytes,
    plan_key,
    read_shard,
    untold,
)
from pipeline.sampling import Sample
from pipeline.shardfiles import ShardFiles
from pipeline.sources import InputError, InputSource
from pipeline.storage import Store

__all__ = [
    "InputError",
    "InputSource",
    "Plan",
    "PlanError",
    "PlanFile",
    "Scan",
    "extend",
    "freeze",
    "load_plan",
    "load_plans",
    "read_shard",
    "scan",
]


@dataclass(frozen=True)
class Scan:
    """What a job would segment."""

    images: int
    bytes: int
    """Of the images whose size is known."""
    skipped: Mapping[str, int]
    """Objects and rows that are no inputs of the job, by reason."""
    known: int = 0
    """Objects that an earlier generation has."""
    changed: int = 0
    """Of the images, those that an earlier generation has with another etag."""


def scan(
    sources: Sequence[InputSource],
    output: Store | None = None,
    known: Known | None = None,
    sample: Sample | None = None,
) -> Scan:
    """Look at all inputs, or at those with new images for what is not known, and write nothing.

    `sample` gets all rows to choose from. Raises what `freeze` does.
    """
    tally = Tally()
    for batch in InputRows(sources, output, known).batches(tally):
        if sample is not None:
            sample.add(batch)
    if known is None:
        demand(tally, sources)
    return Scan(tally.images, tally.bytes, dict(tally.skipped), tally.known, tally.changed)


def freeze(sources: Sequence[InputSource], output: Store, shard_size: int, generation: int) -> Plan:
    """Make the plan of one generation, or adopt the one that is there: the first record created rules.

    Raises InputError when no input matches, an input cannot be read as what it is said to be, or ids collide;
    StoreError when a store fails; PlanError when the standing plan cannot be read.
    """
    if shard_size < 1:
        raise ValueError(f"a shard of {shard_size} images")
    try:
        return load_plan(output, generation)
    except NotFound:
        pass
    tally = Tally()
    plan = _write(InputRows(sources, output), tally, output, shard_size, generation)
    demand(tally, sources)
    return _settle(plan, output)


def extend(
    sources: Sequence[InputSource], output: Store, plans: Sequence[Plan], known: Known
) -> tuple[Plan | None, Scan]:
    """Append a generation of what the inputs marked `new` have and no plan has; None where that is nothing.

    Of drivers at a time one's plan rules, and the others adopt it. `known` holds the rows of `plans`. Raises
    what `freeze` does.
    """
    tally = Tally()
    plan = _write(InputRows(sources, output, known), tally, output, plans[-1].shard_size, len(plans))
    found = Scan(tally.images, tally.bytes, dict(tally.skipped), tally.known, tally.changed)
    if not plan.images:
        return None, found
    return _settle(replace(plan, skipped=untold(plan.skipped, plans)), output), found


def _settle(plan: Plan, output: Store) -> Plan:
    """Put a plan's record, or take the one that was there first."""
    if output.create(plan_key(plan.generation), plan_bytes(plan)):
        return plan
    standing = load_plan(output, plan.generation)
    if standing.id != plan.id:
        output.delete(file.path for file in plan.files)
    return standing


def _write(inputs: InputRows, tally: Tally, output: Store, shard_size: int, generation: int) -> Plan:
    writer = ShardFiles(output, secrets.token_hex(8), inputs.schema, shard_size)
    try:
        for batch in inputs.batches(tally):
            writer.add(batch)
        writer.close()
    except BaseException:
        output.delete(file.path for file in writer.files)
        raise
    return Plan(
        generation=generation,
        id=writer.id,
        files=tuple(writer.files),
        images=tally.images,
        shard_size=shard_size,
        shards=sum(file.row_groups for file in writer.files),
        bytes=tally.bytes,
        skipped=dict(tally.skipped),
        extra_schema=base64.b64encode(inputs.extra.serialize()).decode() if len(inputs.extra) else "",
    )
