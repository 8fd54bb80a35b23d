"""What a run says at its end: `summary.json` for programs, a table for people."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.progress import GOOD, duration
from jobs.tally import Tally
from pipeline.manifest import Plan
from pipeline.nouns import many
from pipeline.records import Status

SUMMARY_KEY = "summary.json"
PACKAGES = ("condinst", "torch", "ray", "numpy", "pillow", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that rows depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def summary(
    tally: Tally,
    plans: Sequence[Plan],
    job: dict[str, object],
    run: dict[str, object],
    windows: Tally | None = None,
) -> dict[str, Any]:
    """The whole job's accounts, and what the run that completed it did. Times are seconds.

    `windows` are those of a tiled job, whose workers then are the ones that ran the model.
    """
    worked = tally if windows is None else windows
    return {
        "name": job.get("name"),
        "fingerprint": job["fingerprint"],
        "model_digest": job.get("model_digest"),
        "images": tally.images,
        "bytes": tally.bytes,
        "statuses": {status.value: tally.statuses[status.value] for status in Status},
        "instances": tally.instances,
        "capped": tally.capped,
        "classes": dict(tally.classes.most_common()),
        "shards": tally.shards,
        "splits": worked.splits,
        **({} if windows is None else {"windows": _windows(windows)}),
        "skipped": {name: sum(p.skipped.get(name, 0) for p in plans) for p in plans for name in p.skipped},
        "seconds": {stage: round(spent, 3) for stage, spent in worked.seconds.items()},
        "workers": {
            name: {
                "images": busy.images,
                "first_batch": busy.first,
                "last_batch": busy.last,
                "model_seconds": round(busy.seconds, 3),
                "model_busy": round(busy.share, 4),
            }
            for name, busy in sorted(worked.workers.items())
        },
        "run": run,
        "versions": versions(),
    }


def _windows(tally: Tally) -> dict[str, Any]:
    return {
        "count": tally.images,
        "statuses": dict(sorted(tally.statuses.items())),
        "instances": tally.instances,
        "shards": tally.shards,
    }


def print_report(console: Console, accounts: dict[str, Any], output: str) -> None:
    """Print the counts, where the tables are, and a line of SQL to begin with."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(accounts):
        table.add_row(name, escape(value))
    table.add_row(
        "tables", escape(f"{output.rstrip('/')}/instances/*.parquet, {output.rstrip('/')}/images/*.parquet")
    )
    table.add_row("look", escape(f"{output.rstrip('/')}/report.html, condinst view {output}"))
    console.print(table)
    console.print("\n[bold]ask them[/], for example with DuckDB:", highlight=False)
    for query in queries(output, accounts["statuses"]):
        console.print(f"  {query}", highlight=False, markup=False, soft_wrap=True)


def queries(output: str, statuses: Mapping[str, int]) -> list[str]:
    """What is asked first: what was found, and, where inputs were turned away, why."""
    root = output.rstrip("/").replace("'", "''")
    # Printed for the user to run, never run here.
    found = f"SELECT category, count(*), avg(score) FROM '{root}/instances/*.parquet' GROUP BY ALL"  # noqa: S608
    why = f"SELECT status, error, count(*) FROM '{root}/images/*.parquet' GROUP BY ALL"  # noqa: S608
    return [found, why] if any(count for name, count in statuses.items() if name not in GOOD) else [found]


def _rows(accounts: dict[str, Any]) -> list[tuple[str, str]]:
    run = accounts["run"]
    statuses = ", ".join(f"{count:,} {name}" for name, count in accounts["statuses"].items() if count)
    classes = ", ".join(f"{count:,} {name}" for name, count in list(accounts["classes"].items())[:8])
    rows = [
        ("images", f"{accounts['images']:,}" + (f" ({statuses})" if statuses else "")),
        ("instances", f"{accounts['instances']:,}" + (f" ({classes})" if classes else "")),
    ]
    if windows := accounts.get("windows"):
        ended = ", ".join(f"{count:,} {name}" for name, count in windows["statuses"].items() if count)
        rows.append(("windows", f"{windows['count']:,}" + (f" ({ended})" if ended else "")))
    if accounts.get("splits"):
        rows.append(("split", f"{many(accounts['splits'], 'batch')}, mostly for lack of memory"))
    rows += [("skipped", f"{count:,} {name}") for name, count in accounts["skipped"].items() if count]
    if run.get("images"):
        per_second = run["images_per_second"]
        rate = f", {per_second:.1f} images/s once started" if per_second else ""
        rows.append(("this run", f"{many(run['images'], 'image')} in {duration(run['seconds'])}{rate}"))
    shares = [worker["model_busy"] for worker in accounts["workers"].values()]
    if shares:
        mean, least = f"{sum(shares) / len(shares):.0%}", f"{min(shares):.0%}"
        rows.append(("model busy", f"{mean} of the workers' time" + f", {least} at least" * (least != mean)))
    return rows
