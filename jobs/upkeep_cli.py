"""`condinst verify`, `vacuum`, `retry` and `cancel` as the command line has them."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.options import Anonymous, Endpoint, Profile, Region

Output = Annotated[
    str, typer.Argument(metavar="OUTPUT", help="A job's output, or its spec file.", show_default=False)
]


def verify(
    output: Output,
    sample: Annotated[int, typer.Option(min=0, help="Masks decoded, spread over the shards.")] = 200,
    full: Annotated[bool, typer.Option("--full", help="Decode every mask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Check an output against itself; changes nothing.

    Recomputes digests, counts and accounts of plans, commits and tables, and decodes a sample of the masks.
    Ends with 0 when all agrees, 4 when shards are missing, 6 when something contradicts something.

    Examples:

    [cyan]condinst verify s3://masks/mushrooms[/]

    [cyan]condinst verify job.yaml --full --json[/]
    """
    from jobs.verify import verify_output
    from pipeline.storage import StoreOptions

    options = StoreOptions(endpoint, region, profile, anonymous)
    raise typer.Exit(verify_output(output, options, sample=sample, full=full, as_json=as_json))


def vacuum(
    output: Output,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it they are only listed.")] = False,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="How old what may be in use must be: 90s, 30m, 1h, 2d.")
    ] = "1d",
    public: Annotated[
        bool, typer.Option("--public", help="Remove public files without a commit, too.")
    ] = False,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Take what belongs to nobody out of an output.

    Files of attempts that came second or died, plans that were not taken, probes, signs of dead workers.
    Safe beside a run: what could be in use stays until it is older than the age.

    Examples:

    [cyan]condinst vacuum s3://masks/mushrooms[/]

    [cyan]condinst vacuum s3://masks/mushrooms --yes --older-than 6h[/]
    """
    from jobs.vacuum import vacuum_output
    from pipeline.storage import StoreOptions

    options = StoreOptions(endpoint, region, profile, anonymous)
    raise typer.Exit(vacuum_output(output, options, yes=yes, public=public, older_than=older_than))


def retry(
    output: Output,
    status: Annotated[
        str,
        typer.Option(
            metavar="STATUS,...",
            help="Which inputs: those that ended corrupt, failed, missing, too_large, unsupported.",
            show_default=False,
        ),
    ],
    poison: Annotated[
        bool, typer.Option("--poison", help="Also the images that killed their worker; their records go.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be retried.")] = False,
    local: Annotated[
        bool, typer.Option("--local", help="In this process, without Ray: for debugging.")
    ] = False,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Do inputs that ended badly again; all other rows stay.

    An input is taken as it lies there now, mended or not. Each shard gets its new rows as a whole: until then
    the old ones stand. Interrupted, the same command goes on.

    Examples:

    [cyan]condinst retry s3://masks/mushrooms --status missing,failed --dry-run[/]

    [cyan]condinst retry job.yaml --status corrupt,failed[/]
    """
    from jobs.retry import parse_statuses, retry_output
    from jobs.retrying import Wanted
    from pipeline.storage import StoreOptions

    wanted = Wanted(parse_statuses(status), poison, dry_run, local)
    retry_output(output, StoreOptions(endpoint, region, profile, anonymous), wanted)


def top(
    output: Output,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Look once; so it does where no terminal is.")] = False,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """A job as it runs: each worker's rate, stages, stragglers, errors so far.

    Reads what the workers write, from any machine; ends when the job is complete. Of a training it shows what
    `condinst status` does.

    Example:

    [cyan]condinst top s3://masks/mushrooms[/]
    """
    from jobs.top import show_top
    from pipeline.storage import StoreOptions

    show_top(output, StoreOptions(endpoint, region, profile, anonymous), every=every, once=once)


def cancel(
    output: Output,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Stop a job or a training that is at work, from any machine.

    Shards in work are committed within 25 s or dropped; a training keeps its state after the step that it is
    at. The run ends with exit code 8. Run it again to continue it.

    Example:

    [cyan]condinst cancel s3://masks/mushrooms[/]
    """
    from jobs.cancel import cancel_job
    from pipeline.storage import StoreOptions

    cancel_job(output, StoreOptions(endpoint, region, profile, anonymous))
