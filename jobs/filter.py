"""`condinst filter`: a run's tables with fewer instances, as an output of its own."""

from __future__ import annotations

import json

from rich.console import Console
from rich.markup import escape

from jobs.errors import JobError
from jobs.report import SUMMARY_KEY
from jobs.run_report.page import put_report
from jobs.segment import account
from jobs.target import no_job, open_target
from pipeline.export.selection import Selection, SelectionError
from pipeline.filtering import conditions, filter_run
from pipeline.nouns import many
from pipeline.storage import NotFound, Store, StoreOptions
from pipeline.tables import Run


def filter_output(
    output: str, to: str, selection: Selection, options: StoreOptions, console: Console | None = None
) -> None:
    """Write the instances for which `selection` holds to the output `to`, and say how many.

    Raises JobError for a selection of everything or of a class that is not there, FingerprintMismatch where
    `to` holds other rows, StoreError.
    """
    console = console or Console()
    source, target = open_target(output, options), Store.open(to, options)
    if source.uri == target.uri:
        raise JobError(f"{to} is the output itself: its rows stay as the job made them; name another place")
    if not conditions(selection):
        raise JobError("no condition: give --min-score, --max-score, --class, --min-area or --max-area")
    try:
        run = Run(source)
        selection.check(run)
    except NotFound:
        raise no_job(source) from None
    except SelectionError as error:
        raise JobError(str(error)) from None

    def line(text: str, style: str | None = None) -> None:
        console.print(escape(text), style=style, highlight=False, soft_wrap=True)

    ledger = filter_run(run, target, selection)
    filtered = Run(target)
    before, after = (sum(commit.instances for commit in r.commits) for r in (run, filtered))
    line(f"{after:,} of {many(before, 'instance')} in {target.uri}")
    if filtered.complete:
        accounts = account(ledger, filtered.plans, filtered.job, {"images": 0})
        target.put(SUMMARY_KEY, json.dumps(accounts, indent=2).encode())
        put_report(target, console)
    else:
        line("note: the run is not complete; filter again when it is, and the rest follows", "yellow")
