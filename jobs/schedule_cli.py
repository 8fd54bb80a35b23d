"""`condinst schedule` as the command line has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.given_paths import local

State = Annotated[
    Path,
    typer.Option(
        metavar="FILE", parser=local("--state"), help="Where the scheduler keeps what it remembers."
    ),
]
STATE = Path("condinst-schedule.sqlite")

app = typer.Typer(
    help="Run specs at their times, without Kubernetes.\n\nExample:\n\n[cyan]condinst schedule list[/]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def serve(
    specs: Annotated[
        list[Path],
        typer.Argument(
            metavar="SPEC...", parser=local("SPEC"), help="Specs with a schedule.", show_default=False
        ),
    ],
    state: State = STATE,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Submit the runs to this cluster's job server. Default: run them on this machine.",
            show_default=False,
        ),
    ] = None,
    catch_up: Annotated[
        str,
        typer.Option(metavar="AGE", help="How late a missed run may still begin: 90s, 30m, 6h, 2d."),
    ] = "1d",
) -> None:
    """Start each spec's runs when their time comes, until stopped.

    Of the times that were missed while nothing served, the last is made up for. Killed at any point, it loses
    no run and doubles none. Changed files are taken over as it runs.

    Example:

    [cyan]condinst schedule serve specs/*.yaml --state /var/lib/condinst/schedule.sqlite[/]
    """
    from datetime import timedelta

    from jobs.errors import JobError
    from jobs.quantities import seconds
    from jobs.schedule_serve import serve as serve_specs

    try:
        late = timedelta(seconds=0 if catch_up == "0s" else seconds(catch_up))
    except ValueError as error:
        raise JobError(f"--catch-up {catch_up}: {error}, or 0s") from None
    serve_specs(specs, state, address, late)


@app.command("list")
def list_(
    state: State = STATE,
    runs: Annotated[int, typer.Option(min=0, help="Past runs of each schedule.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Each schedule's next time and its last runs; the scheduler need not be running.

    Example:

    [cyan]condinst schedule list --runs 20[/]
    """
    from jobs.schedule_serve import list_schedules

    list_schedules(state, runs=runs, as_json=as_json)
