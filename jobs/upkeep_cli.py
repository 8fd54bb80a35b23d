"""`condinst verify` and `condinst vacuum` as the command line has them."""

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
