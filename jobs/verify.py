"""`condinst verify`: whether an output is what it says it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jobs.errors import ExitCode, first_of, one_line
from jobs.outputs import stages
from jobs.preview import readable_bytes
from jobs.target import no_job, open_target
from pipeline.findings import Finding
from pipeline.nouns import many
from pipeline.storage import NotFound, StoreOptions
from pipeline.verify import Outcome, Report, ShardHeard, verify

WORST = [ExitCode.DONE, ExitCode.INCOMPLETE, ExitCode.DAMAGED]
SHOWN = 20
"""Problems told one by one; the rest is counted."""
CODES = {
    Outcome.GOOD: ExitCode.DONE,
    Outcome.INCOMPLETE: ExitCode.INCOMPLETE,
    Outcome.DAMAGED: ExitCode.DAMAGED,
}


def verify_output(
    target: str,
    options: StoreOptions,
    *,
    sample: int,
    full: bool,
    as_json: bool,
    console: Console | None = None,
) -> ExitCode:
    """Check an output, or a spec's, and print what came of it; returns how the command ends.

    Raises JobError where no job ever ran, StoreError when the store cannot be reached.
    """
    console = console or Console()
    store = open_target(target, options)
    reports = []
    for stage in stages(store):
        try:
            with _progress(console, hidden=as_json) as heard:
                reports.append(verify(stage, sample, full, heard))
        except NotFound:
            if not reports:
                raise no_job(store) from None  # of windows there are none before the first run
    if as_json:
        windows = {"windows": _record(reports[1])} if len(reports) > 1 else {}
        print(json.dumps({**_record(reports[0]), **windows}, indent=2))
    else:
        for report in reports:
            _print(console, report)
    return max((CODES[report.outcome] for report in reports), key=WORST.index)


@contextmanager
def _progress(console: Console, hidden: bool) -> Iterator[ShardHeard]:
    columns = (TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    disable = hidden or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disable) as progress:
        task = progress.add_task("shards", total=None)
        yield lambda done, known: progress.update(task, completed=done, total=known)


def _record(report: Report) -> dict[str, Any]:
    """The report for programs."""
    left = report.leftovers
    return {
        "output": report.uri,
        "outcome": report.outcome.value,
        "shards": {"planned": report.shards_planned, "committed": report.shards},
        "missing": report.missing,
        "unpublished": report.unpublished,
        "images": {"planned": report.images_planned, "rows": report.images},
        "statuses": dict(sorted(report.statuses.items())),
        "instances": report.instances,
        "masks_decoded": report.masks,
        "bytes": report.bytes,
        "orphans": None if left is None else dict(Counter(o.kind.value for o in left.orphans)),
        "problems": [
            {"fault": f.fault.value, "where": f.where, "what": f.what, "remedy": f.remedy}
            for f in report.findings
        ],
    }


def _print(console: Console, report: Report) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(report):
        table.add_row(name, escape(one_line(value)))
    console.print(table)
    for finding in report.findings[:SHOWN]:
        console.print(_told(finding), style="red", markup=False, highlight=False, soft_wrap=True)
    if (more := len(report.findings) - SHOWN) > 0:
        console.print(f"and {more:,} problems more; --json lists them all", highlight=False)
    console.print(_verdict(report), highlight=False)


def _told(finding: Finding) -> str:
    return one_line(str(finding))


def _rows(report: Report) -> Iterator[tuple[str, str]]:
    yield "output", report.uri
    yield "shards", f"{report.shards:,} of {report.shards_planned:,} committed"
    if report.unpublished:
        yield "", f"{len(report.unpublished):,} not yet under their public names"
    statuses = ", ".join(f"{count:,} {name}" for name, count in sorted(report.statuses.items()) if count)
    yield (
        "images",
        f"{many(report.images, 'row')} of {report.images_planned:,}" + (f" ({statuses})" if statuses else ""),
    )
    yield "instances", f"{many(report.instances, 'row')}, {many(report.masks, 'mask')} decoded"
    yield "tables", readable_bytes(report.bytes)
    if report.leftovers is None:
        yield "orphans", "cannot be told before the problems are solved"
    else:
        for kind, count in Counter(orphan.kind for orphan in report.leftovers.orphans).items():
            yield "orphans", f"{count:,} {kind.value}"


def _verdict(report: Report) -> str:
    match report.outcome:
        case Outcome.GOOD:
            return "good: complete, and everything agrees"
        case Outcome.INCOMPLETE if not report.shards_planned:
            return "incomplete: nothing is planned yet; run the job again"
        case Outcome.INCOMPLETE:
            waiting = report.missing or report.unpublished
            return f"incomplete, what there is agrees ({first_of(waiting)}); run the job again to do the rest"
        case Outcome.DAMAGED:
            return f"damaged: {len(report.findings):,} problems"
