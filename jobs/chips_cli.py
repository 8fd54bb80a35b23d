"""`condinst chips` as the command line has it."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.given_paths import placed
from jobs.options import Anonymous, Endpoint, Overrides, Profile, Region, SpecFile


def chips(
    spec: SpecFile,
    labels: Annotated[
        str,
        typer.Argument(
            metavar="LABELS", help="Polygons as GeoJSON or GPKG: a path or a URI.", show_default=False
        ),
    ],
    to: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|URI", parser=placed("TO", "folder"), help="Where to write, a new folder."
        ),
    ] = "chips",
    overrides: Overrides = [],  # noqa: B006
    column: Annotated[
        str | None,
        typer.Option(
            "--class-column",
            metavar="NAME",
            help="Property of a polygon that names its class. Default: all are of --class.",
            show_default=False,
        ),
    ] = None,
    alone: Annotated[
        str, typer.Option("--class", metavar="NAME", help="Class of all polygons, without --class-column.")
    ] = "object",
    least: Annotated[
        float,
        typer.Option(
            "--min-visible", min=0, max=1, help="Share of a label that must be in a window to count there."
        ),
    ] = 0.2,
    empty: Annotated[
        bool, typer.Option("--empty/--no-empty", help="Also windows without a label, to learn what is none.")
    ] = True,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Cut a tiled job's rasters and polygons on the map into images and a truth to train on.

    The images are the windows that the job's model would see: the same bands, values, pixel size, overlap and
    area. What is in a window and not labelled is learned as background: name an `area` that is labelled as a
    whole, or leave windows without labels out.

    Examples:

    [cyan]condinst chips ortho.yaml crowns.gpkg chips --class-column species[/]

    [cyan]condinst chips ortho.yaml roofs.geojson s3://farm/chips --class roof --no-empty[/]
    """
    from jobs.check import load
    from jobs.chips import Request, cut_chips
    from jobs.filling import use_environment
    from jobs.spec import SegmentSpec
    from pipeline.storage import StoreOptions
    from pipeline.tiled.chips import Choice

    checked: SegmentSpec = use_environment(load(spec, overrides))
    options = StoreOptions(endpoint, region, profile, anonymous)
    cut_chips(Request(checked, labels, to, column, alone, Choice(empty, least), options))
