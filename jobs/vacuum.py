"""`condinst vacuum`: takes what belongs to nobody out of an output."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from jobs.errors import ExitCode, JobError, one_line
from jobs.outputs import stages
from jobs.preview import readable_bytes
from jobs.progress import duration
from jobs.standing import standing_job
from jobs.target import no_job, open_target
from pipeline.ledger import Ledger
from pipeline.nouns import many
from pipeline.storage import Store, StoreOptions
from pipeline.vacuum import Kind, Leftovers, Orphan, find, remove

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def age(text: str) -> float:
    """Seconds of `90s`, `30m`, `1h`, `2d`. Raises JobError for anything else."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None:
        raise JobError(f"--older-than {text}: an age is a number and a unit, such as 90s, 30m, 1h or 2d")
    return float(int(found[1]) * _UNITS[found[2]])


def vacuum_output(
    target: str,
    options: StoreOptions,
    *,
    yes: bool,
    public: bool,
    older_than: str,
    console: Console | None = None,
) -> ExitCode:
    """Say what lies in an output for nobody and, with `yes`, remove it; returns how the command ends.

    Raises JobError where no job ever ran and for an age that is none, LedgerError or PlanError when a record
    cannot be read, StoreError when the store cannot be reached.
    """
    console = console or Console()
    seconds = age(older_than)
    store = open_target(target, options)
    if standing_job(Ledger(store)) is None:
        raise no_job(store)
    codes = [_vacuum(stage, seconds, yes, public, console) for stage in stages(store)]
    return ExitCode.DAMAGED if ExitCode.DAMAGED in codes else ExitCode.DONE


def _vacuum(store: Store, seconds: float, yes: bool, public: bool, console: Console) -> ExitCode:
    console.print(store.uri, style="bold", markup=False, highlight=False)
    found = find(store, seconds)
    _print_found(console, found, seconds)
    if not yes:
        _print_offer(console, found)
        return ExitCode.DONE
    removed = remove(store, found, public=public)
    if removed.published:
        console.print(f"published {many(len(removed.published), 'committed shard')}", highlight=False)
    for reason in removed.stuck:
        console.print(one_line(reason), style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(f"removed {_sum(removed.orphans)}", highlight=False)
    if not public and any(orphan.kind is Kind.PUBLIC for orphan in found.orphans):
        console.print("public files without a commit stay; --public removes them too", highlight=False)
    return ExitCode.DAMAGED if removed.stuck else ExitCode.DONE


def _print_found(console: Console, found: Leftovers, seconds: float) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("orphans", "count", "objects", "bytes"):
        table.add_column(heading)
    for kind in Kind:
        of_kind = [orphan for orphan in found.orphans if orphan.kind is kind]
        if of_kind:
            objects = sum(len(orphan.keys) for orphan in of_kind)
            size = readable_bytes(sum(orphan.bytes for orphan in of_kind))
            table.add_row(kind.value, f"{len(of_kind):,}", f"{objects:,}", size)
    if table.row_count:
        console.print(table)
    else:
        console.print("no orphans")
    if found.waiting:
        what = f"{len(found.waiting):,} others may be in use: at work, or not known for {duration(seconds)}"
        console.print(what, highlight=False)
    if found.unpublished:
        what = f"{many(len(found.unpublished), 'committed shard')} not all under public names yet"
        console.print(what, highlight=False)


def _print_offer(console: Console, found: Leftovers) -> None:
    if any(orphan.kind is not Kind.PUBLIC for orphan in found.orphans):
        console.print("nothing was removed; --yes removes them", highlight=False)
    elif found.unpublished or found.waiting:
        console.print("nothing was changed; --yes publishes, and notes what it saw", highlight=False)
    if any(orphan.kind is Kind.PUBLIC for orphan in found.orphans):
        console.print("--yes --public removes the public files without a commit too", highlight=False)


def _sum(orphans: Iterable[Orphan]) -> str:
    orphans = list(orphans)
    objects = sum(len(orphan.keys) for orphan in orphans)
    return f"{many(objects, 'object')}, {readable_bytes(sum(orphan.bytes for orphan in orphans))}"
