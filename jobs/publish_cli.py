"""`condinst publish` as the command line has it."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.options import Anonymous, Endpoint, Profile, Region
from jobs.upkeep_cli import Output


def publish(
    output: Output,
    delta: Annotated[
        str,
        typer.Option(
            metavar="URI", help="Where the Delta tables images and instances are.", show_default=False
        ),
    ],
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Publish a run as Delta tables, for warehouses; again adds what is new.

    One commit a table with all new shards; a run that has nothing new makes none.

    Example:

    [cyan]condinst publish s3://masks/mushrooms --delta s3://lake/mushrooms[/]
    """
    from jobs.publish import publish_output
    from pipeline.storage import StoreOptions

    publish_output(output, delta, StoreOptions(endpoint, region, profile, anonymous))
