"""`condinst submit` and `condinst jobs` as the command line has them."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.options import Overrides, SpecFile

Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The cluster's job server, such as http://head:8265. Default: RAY_API_SERVER_ADDRESS, then "
        "RAY_ADDRESS.",
        show_default=False,
    ),
]
Job = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="A submission's id, or its spec: then its last attempt.", show_default=False
    ),
]
Submitted = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="As the spec was submitted with: another value is another job.",
        show_default=False,
    ),
]

app = typer.Typer(
    help="Look after jobs that were submitted to a cluster.\n\nExample:\n\n[cyan]condinst jobs list[/]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def submit(
    spec: SpecFile,
    address: Address = None,
    overrides: Overrides = [],  # noqa: B006
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the job to end.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Start it though it is done already.")] = False,
) -> None:
    """Run a job on a Ray cluster, from any machine that reaches its job server.

    Submitting twice is one job: at work, its log is followed; done, nothing happens; failed or stopped, it is
    started again and goes on where it stopped. Ends with the job's exit code. Ctrl-C leaves the job running.

    Examples:

    [cyan]condinst submit job.yaml --address http://head:8265[/]

    [cyan]condinst submit job.yaml --detach[/]
    """
    from jobs.check import load_job

    checked = load_job(spec, overrides)
    from jobs.submitting import submit_and_follow

    submit_and_follow(checked, address, detach=detach, again=again)


@app.command("list")
def list_(address: Address = None) -> None:
    """All jobs that a cluster knows.

    Example:

    [cyan]condinst jobs list --address http://head:8265[/]
    """
    from jobs.submitting import list_jobs

    list_jobs(address)


@app.command()
def status(
    job: Job,
    address: Address = None,
    overrides: Submitted = [],  # noqa: B006
) -> None:
    """How a submitted job is, and its attempts before, oldest first.

    Example:

    [cyan]condinst jobs status job.yaml[/]
    """
    from jobs.submitting import show_job

    show_job(job, address, overrides)


@app.command()
def logs(
    job: Job,
    address: Address = None,
    overrides: Submitted = [],  # noqa: B006
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
) -> None:
    """What a submitted job has printed.

    Example:

    [cyan]condinst jobs logs job.yaml --follow[/]
    """
    from jobs.submitting import show_log

    show_log(job, address, overrides, follow_it=follow)


@app.command()
def cancel(
    job: Job,
    address: Address = None,
    overrides: Submitted = [],  # noqa: B006
) -> None:
    """Stop a submitted job: shards in work are committed within 25 s or dropped.

    Example:

    [cyan]condinst jobs cancel job.yaml[/]
    """
    from jobs.submitting import cancel_submitted

    cancel_submitted(job, address, overrides)
