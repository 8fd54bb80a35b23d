"""`condinst diff` and `condinst confusion` as the command line has them."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.export_cli import Classes, MaxArea, MinArea, MinScore
from jobs.given_paths import placed
from jobs.options import Anonymous, Endpoint, Profile, Region
from jobs.upkeep_cli import Output

NewFolder = Annotated[
    str,
    typer.Option(metavar="FOLDER|URI", parser=placed("--to", "folder"), help="Folder to write, a new one."),
]


def diff(
    before: Annotated[
        str, typer.Argument(metavar="RUN_A", help="A job's output, or its spec file.", show_default=False)
    ],
    after: Annotated[
        str, typer.Argument(metavar="RUN_B", help="Another one over the same images.", show_default=False)
    ],
    to: NewFolder = "diff",
    min_score: MinScore = None,
    classes: Classes = [],  # noqa: B006
    min_area: MinArea = None,
    max_area: MaxArea = None,
    match_iou: Annotated[
        float, typer.Option(min=0.01, max=1, help="Masks of this IoU or more may be one instance.")
    ] = 0.5,
    shape_iou: Annotated[
        float, typer.Option(min=0, max=1, help="Below this IoU an instance has another shape.")
    ] = 0.9,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Compare two runs of the same images: instances gained, lost, of another class, of another shape.

    A page with the largest differences drawn, the figures as JSON, each difference in a Parquet table.

    Example:

    [cyan]condinst diff s3://masks/may s3://masks/june --to may-june[/]
    """
    from jobs.diff import Request, diff_runs
    from pipeline.diff import Tolerance
    from pipeline.export.selection import Selection
    from pipeline.storage import StoreOptions

    chosen = Selection(min_score=min_score, classes=tuple(classes), min_area=min_area, max_area=max_area)
    store = StoreOptions(endpoint, region, profile, anonymous)
    diff_runs(Request(before, after, to, chosen, Tolerance(match_iou, shape_iou), store))


def confusion(
    output: Output,
    truth: Annotated[
        str, typer.Option(metavar="COCO.json", help="The truth: a COCO json, or its URI.", show_default=False)
    ],
    to: NewFolder = "confusion",
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Instances of this score or more count as found.")
    ] = 0.5,
    iou: Annotated[
        float, typer.Option(min=0.01, max=1, help="Masks of this IoU or more are one thing.")
    ] = 0.5,
    rename: Annotated[
        list[str],
        typer.Option(
            metavar="CLASS=CATEGORY",
            help="Count a found class as a category of the truth; may be repeated.",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Count what a run takes for what, against a COCO truth, and show examples.

    Example:

    [cyan]condinst confusion s3://masks/mushrooms --truth val.json --min-score 0.4[/]
    """
    from jobs.confusion import Request
    from jobs.confusion import confusion as count
    from pipeline.storage import StoreOptions

    store = StoreOptions(endpoint, region, profile, anonymous)
    count(Request(output, truth, to, min_score, iou, tuple(rename), store))
