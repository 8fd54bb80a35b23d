"""Freezes a job's inputs: reads them once, in constant memory, and cuts them into shards."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.entries import Tally
from pipeline.inputrows import InputRows, demand
from pipeline.objects import NotFound
from pipeline.plan import Plan, PlanError, PlanFile, load_plan, load_plans, plan_bytes, plan_key, read_shard
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


def scan(sources: Sequence[InputSource], output: Store | None = None) -> Scan:
    """Look at all inputs and write nothing. Raises what `freeze` does."""
    tally = Tally()
    for _ in InputRows(sources, output).batches(tally):
        pass
    demand(tally, sources)
    return Scan(tally.images, tally.bytes, dict(tally.skipped))


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
    plan = _write(sources, output, shard_size, generation)
    if output.create(plan_key(generation), plan_bytes(plan)):
        return plan
    standing = load_plan(output, generation)
    if standing.id != plan.id:
        output.delete(file.path for file in plan.files)
    return standing


def _write(sources: Sequence[InputSource], output: Store, shard_size: int, generation: int) -> Plan:
    tally, inputs = Tally(), InputRows(sources, output)
    writer = ShardFiles(output, secrets.token_hex(8), inputs.schema, shard_size)
    try:
        for batch in inputs.batches(tally):
            writer.add(batch)
        writer.close()
        demand(tally, sources)
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
