"""`condinst publish`: a run as Delta tables."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from jobs.errors import JobError
from jobs.target import open_run
from pipeline.delta import Published, PublishError, publish
from pipeline.nouns import many
from pipeline.storage import StoreOptions


def publish_output(
    output: str, uri: str, options: StoreOptions, console: Console | None = None
) -> list[Published]:
    """Bring the Delta tables below `uri` up to date and say what changed.

    Raises JobError for a place that holds other tables, StoreError.
    """
    console = console or Console()
    run = open_run(output, options)
    try:
        tables = publish(run, uri, options)
    except PublishError as error:
        raise JobError(str(error)) from None
    for table in tables:
        changes = [f"{many(table.added, 'shard')} added"] if table.added else []
        changes += [f"{many(table.replaced, 'retried shard')} replaced"] if table.replaced else []
        said = f"{', '.join(changes) or 'nothing new'}; version {table.version}, {table.uri}"
        console.print(escape(said), highlight=False, soft_wrap=True)
    if not run.complete:
        console.print("note: the run is not complete; publish again and the rest follows", style="yellow")
    return tables
