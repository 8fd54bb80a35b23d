"""`condinst view` and `condinst report` as the command line has them."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.given_paths import placed
from jobs.options import Anonymous, Endpoint, Profile, Region


def view(
    output: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="A job's output, or its spec file.", show_default=False)
    ],
    other: Annotated[
        str | None,
        typer.Argument(metavar="[OTHER]", help="Another run, to see beside it.", show_default=False),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen. Beyond this machine the address holds a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8765,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Look at a run in the browser: its images, masks, map.

    Nothing is written. Reads the images where the run read them.

    Examples:

    [cyan]condinst view s3://masks/mushrooms[/]

    [cyan]condinst view masks/may masks/june --port 9000[/]
    """
    from jobs.view import view_outputs
    from pipeline.storage import StoreOptions

    options = StoreOptions(endpoint, region, profile, anonymous)
    view_outputs([output, *([other] if other else [])], options, host, port)


def report(
    output: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="A job's output, or its spec file.", show_default=False)
    ],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URI",
            parser=placed("--to", "file"),
            help="Write the page here. Default: report.html in the output.",
            show_default=False,
        ),
    ] = None,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Write a run's report: one page, nothing beside it.

    A run writes it at its end; this does it again, or of a run that is not complete.

    Examples:

    [cyan]condinst report s3://masks/mushrooms[/]

    [cyan]condinst report masks/mushrooms --to /tmp/mushrooms.html[/]
    """
    from jobs.view import write_report
    from pipeline.storage import StoreOptions

    write_report(output, StoreOptions(endpoint, region, profile, anonymous), to)
