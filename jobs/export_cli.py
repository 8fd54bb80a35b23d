"""`condinst export`, `filter` and `import` as the command line has them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.given_paths import written
from jobs.options import Anonymous, Endpoint, Profile, Region
from jobs.upkeep_cli import Output

MinScore = Annotated[
    float | None, typer.Option(min=0, max=1, help="Instances of this score or more.", show_default=False)
]
Classes = Annotated[
    list[str],
    typer.Option(
        "--class", metavar="NAME", help="Instances of this class; may be repeated.", show_default=False
    ),
]
MinArea = Annotated[
    int | None, typer.Option(min=0, help="Masks of so many pixels or more.", show_default=False)
]
MaxArea = Annotated[
    int | None, typer.Option(min=0, help="Masks of so many pixels or fewer.", show_default=False)
]


def export(
    output: Output,
    format: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="coco, yolo-seg, labelstudio, geojson, gpkg, flatgeobuf, geoparquet or png-masks.",
            show_default=False,
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="File or folder to write, a path or URI. Default: named after the job.",
            show_default=False,
        ),
    ] = None,
    min_score: MinScore = None,
    classes: Classes = [],  # noqa: B006
    min_area: MinArea = None,
    max_area: MaxArea = None,
    status: Annotated[
        str, typer.Option(metavar="STATUS,...", help="Images that ended so.")
    ] = "ok,empty,nodata",
    crs: Annotated[
        str | None,
        typer.Option(
            help="Of map formats: the CRS to write in. Default: the output's own, or the first image's.",
            show_default=False,
        ),
    ] = None,
    simplify: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="PIXELS",
            help="Of map formats and yolo-seg: leave out corners of outlines that may then run so far beside "
            "the pixels' edges; 1 takes the stairs away.",
            show_default=False,
        ),
    ] = 0,
    image_prefix: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Of labelstudio: where it finds the images by their ids.", show_default=False
        ),
    ] = None,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Write a run's instances in a form that other programs read, and say what the form cannot hold.

    Examples:

    [cyan]condinst export s3://masks/mushrooms --format coco --min-score 0.5[/]

    [cyan]condinst export work/masks --format gpkg --to fields.gpkg --class plant[/]

    [cyan]condinst export s3://masks/mushrooms --format labelstudio --to s3://labels/mushrooms.json[/]
    """
    from jobs.export import Request, export_output
    from pipeline.export.selection import Selection
    from pipeline.storage import StoreOptions

    statuses = tuple(part.strip() for part in status.split(",") if part.strip())
    selection = Selection(
        min_score=min_score, classes=tuple(classes), statuses=statuses, min_area=min_area, max_area=max_area
    )
    store = StoreOptions(endpoint, region, profile, anonymous)
    export_output(Request(output, format, to, selection, crs, image_prefix, simplify, store))


def filter(
    output: Output,
    to: Annotated[
        str, typer.Argument(metavar="TO", help="The output to write, a path or URI.", show_default=False)
    ],
    min_score: MinScore = None,
    max_score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Instances of a score below this one.", show_default=False),
    ] = None,
    classes: Classes = [],  # noqa: B006
    min_area: MinArea = None,
    max_area: MaxArea = None,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Write a run's tables anew with fewer instances, without running the model.

    The new output is verified, read, exported and resumed as any other; images keep their rows.

    Examples:

    [cyan]condinst filter s3://masks/mushrooms s3://masks/sure --min-score 0.6[/]

    [cyan]condinst filter work/masks work/large-plants --class plant --min-area 400[/]
    """
    from jobs.filter import filter_output
    from pipeline.export.selection import Selection
    from pipeline.storage import StoreOptions

    selection = Selection(
        min_score=min_score,
        max_score=max_score,
        classes=tuple(classes),
        min_area=min_area,
        max_area=max_area,
    )
    filter_output(output, to, selection, StoreOptions(endpoint, region, profile, anonymous))


def import_(
    labels: Annotated[
        str, typer.Argument(metavar="LABELS.json", help="Label Studio's export: JSON.", show_default=False)
    ],
    to: Annotated[
        Path,
        typer.Argument(
            metavar="TRUTH.json",
            parser=written("TRUTH.json", "file"),
            help="The COCO json to write.",
            show_default=False,
        ),
    ],
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Also tasks that nobody annotated: their predictions.")
    ] = False,
) -> None:
    """Make a COCO truth of what people labelled in Label Studio, to train on or to measure against.

    Examples:

    [cyan]condinst import project-1.json truth.json[/]
    """
    from jobs.import_labels import import_labels

    import_labels(labels, to, predictions)
