"""A frozen plan: which images a generation of a job has, cut into shards, and how a shard is read back."""

from __future__ import annotations

import base64
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.entries import image_refs
from pipeline.objects import NotFound
from pipeline.records import ImageRef
from pipeline.storage import Store

PLANS = "plans/"
PLAN_KEY = re.compile(rf"{PLANS}(\d{{4,}})\.json")


class PlanError(Exception):
    """A plan or a manifest file that is not what this version wrote. The message says which."""


@dataclass(frozen=True)
class PlanFile:
    """One Parquet file of a manifest. Each of its row groups is a shard."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    path: str
    """Key in the output."""
    rows: int
    sha256: str
    row_groups: int
    size: int
    """Bytes of the file."""


@dataclass(frozen=True)
class Plan:
    """One generation of a job's inputs. Never changes once its record is created."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    generation: int
    id: str
    """Random; names the folder of the manifest's files."""
    files: tuple[PlanFile, ...]
    images: int
    shard_size: int
    """Images a shard; the last shard may have fewer. Where `sizes` tells them, the most that one may have."""
    shards: int
    bytes: int
    """Of the images whose size is known."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Objects and rows that are no inputs of the job, by reason."""
    extra_schema: str = ""
    """Arrow schema of the columns passed through from users' manifests: IPC bytes in base64."""
    sizes: tuple[int, ...] = ()
    """Images of each shard, where they differ."""
    crs: str = ""
    """CRS of the geometries of a tiled job; empty where no raster says where it lies."""
    areas: str = ""
    """Key of the areas of interest of a tiled job's inputs."""
    windows: Plan | None = None
    """Of a tiled job: the plan of its first stage, whose files lie in that stage's output."""
    version: Literal[1] = 1

    def rows(self, number: int) -> int:
        """Images of a shard."""
        if self.sizes:
            return self.sizes[number]
        return min(self.shard_size, self.images - number * self.shard_size)

    @property
    def extra(self) -> pa.Schema:
        """Schema of the columns passed through from users' manifests."""
        if not self.extra_schema:
            return pa.schema([])
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.extra_schema)))

    def shard_id(self, number: int) -> str:
        """Id of a shard: `<generation>-<number>`."""
        return f"{self.generation:04d}-{number:06d}"

    def shard_ids(self) -> list[str]:
        """Ids of the plan's shards, in order."""
        return [self.shard_id(number) for number in range(self.shards)]


_PLAN = TypeAdapter(Plan)


def plan_bytes(plan: Plan) -> bytes:
    """Return a plan's record as `load_plan` reads it."""
    return _PLAN.dump_json(plan, indent=1)


def plan_key(generation: int) -> str:
    """Return the key of a generation's record."""
    return f"{PLANS}{generation:04d}.json"


def load_plan(output: Store, generation: int) -> Plan:
    """Read one generation's plan. Raises NotFound when there is none, PlanError when it is no such thing."""
    key = plan_key(generation)
    try:
        plan: Plan = _PLAN.validate_json(output.get(key))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the record"
        raise PlanError(
            f"{output.join(key)} is no plan of this version ({where}: {first['msg']}); "
            "use the version that wrote it, or another output"
        ) from None
    if plan.generation != generation or not _adds_up(plan):
        raise PlanError(
            f"{output.join(key)} contradicts itself: it was changed after it was written; restore it"
        )
    return plan


def load_plans(output: Store, first: int = 0) -> list[Plan]:
    """Read the plans of an output from a generation on, in order; none where no job was planned yet.

    Files of other names are left alone. Raises PlanError as `load_plan`, and for a plan that is gone.
    """
    plans: list[Plan] = []
    found = sum(PLAN_KEY.fullmatch(info.key) is not None for info in output.list(PLANS))
    for generation in range(first, found):
        try:
            plans.append(load_plan(output, generation))
        except NotFound:
            raise PlanError(
                f"{output.join(PLANS)} holds {found} plans but {plan_key(generation)} is gone; restore it"
            ) from None
    return plans


def window_plans(plans: Sequence[Plan]) -> list[Plan]:
    """Of a tiled job's plans those of its first stage, its windows; none of another job."""
    return [plan.windows for plan in plans if plan.windows is not None]


def untold(skipped: Mapping[str, int], earlier: Sequence[Plan]) -> dict[str, int]:
    """What a later generation's listing left out, without what earlier ones have told of.

    Each listing meets all of it again.
    """
    told: Counter[str] = sum((Counter(plan.skipped) for plan in earlier), Counter())
    return dict(Counter(skipped) - told)


def shard_place(shard: str) -> tuple[int, int]:
    """Generation and number of the shard of an id."""
    generation, _, number = shard.partition("-")
    return int(generation), int(number)


class Plans:
    """The plans of an output, read when one is asked for that is not known. Safe in threads."""

    def __init__(self, output: Store) -> None:
        self._output = output
        self._known: dict[int, Plan] = {}
        self._lock = threading.Lock()

    def shard(self, shard: str) -> tuple[Plan, list[ImageRef]]:
        """A shard's plan and its images. Raises PlanError, KeyError where no plan has its generation."""
        generation, number = shard_place(shard)
        with self._lock:
            if generation not in self._known:
                self._known = {plan.generation: plan for plan in load_plans(self._output)}
            plan = self._known[generation]
        return plan, read_shard(self._output, plan, number)


def read_shard(output: Store, plan: Plan, number: int) -> list[ImageRef]:
    """Read the images of one shard: its row group alone, and the file's footer once in a process.

    Raises PlanError when the manifest is not the one that was planned, IndexError for a shard the plan lacks.
    """
    file, group = _place(plan, number)
    try:
        footer = _footer(output, file)
        source = pa.PythonFile(output.reader(file.path, file.size), mode="r")
        table = pq.ParquetFile(
            source, metadata=footer, pre_buffer=True, page_checksum_verification=True
        ).read_row_group(group, use_threads=False)
    except (pa.ArrowException, OSError, NotFound) as error:
        raise _broken(output, file, str(error).partition("\n")[0]) from None
    expected = plan.rows(number)
    if table.num_rows != expected:
        raise _broken(output, file, f"row group {group} has {table.num_rows} rows, not {expected}")
    return image_refs(table)


def _place(plan: Plan, number: int) -> tuple[PlanFile, int]:
    group = number
    for file in plan.files:
        if 0 <= group < file.row_groups:
            return file, group
        group -= file.row_groups
    raise IndexError(f"plan {plan.generation} has {plan.shards} shards; there is no shard {number}")


@lru_cache(maxsize=32)
def _footer(output: Store, file: PlanFile) -> pq.FileMetaData:
    footer = pq.read_metadata(pa.PythonFile(output.reader(file.path, file.size), mode="r"))
    if (footer.num_rows, footer.num_row_groups) != (file.rows, file.row_groups):
        raise _broken(output, file, f"it has {footer.num_rows} rows in {footer.num_row_groups} row groups")
    return footer


def _broken(output: Store, file: PlanFile, cause: str) -> PlanError:
    return PlanError(
        f"{output.join(file.path)} is not the manifest that was planned ({cause}); "
        "restore it, or name another output and plan anew"
    )


def _adds_up(plan: Plan) -> bool:
    return (
        plan.images == sum(file.rows for file in plan.files)
        and plan.shards == sum(file.row_groups for file in plan.files)
        and plan.shard_size > 0
        and _cut_adds_up(plan)
        and (plan.windows is None or _adds_up(plan.windows))
    )


def _cut_adds_up(plan: Plan) -> bool:
    if plan.sizes:
        return len(plan.sizes) == plan.shards and sum(plan.sizes) == plan.images
    return plan.shards == -(-plan.images // plan.shard_size)
