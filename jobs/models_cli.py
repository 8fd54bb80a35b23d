"""`condinst promote`, `rollback` and `select` as the command line has them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import typer

from jobs.options import Anonymous, Endpoint, Profile, Region

Models = Annotated[
    str, typer.Option(metavar="URI", help="Folder or URI of all models: their versions lie below.")
]


class Why(StrEnum):
    """What makes an image worth labelling."""

    UNCERTAINTY = "uncertainty"
    DENSITY = "density"
    DISAGREEMENT = "disagreement"
    SEAMS = "seams"


ModelName = Annotated[str, typer.Option(help="The model's name.", show_default=False)]


def promote(
    new: Annotated[str, typer.Argument(metavar="NEW", help="The new weights: a file or URI.")],
    on: Annotated[
        str, typer.Option(metavar="COCO.json", help="The truth both are measured on.", show_default=False)
    ],
    images: Annotated[
        str,
        typer.Option(metavar="FOLDER|URI", help="Where the truth's `file_name`s start.", show_default=False),
    ],
    name: ModelName,
    against: Annotated[
        str | None,
        typer.Option(metavar="OLD", help="Weights to beat besides the current ones.", show_default=False),
    ] = None,
    models: Models = "models",
    margin: Annotated[float, typer.Option(min=0, max=1, help="How much better it must be, AP.")] = 0.0,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the interval.")] = 0.95,
    resamples: Annotated[int, typer.Option(min=100, max=1_000_000, help="Of the bootstrap.")] = 2000,
    min_images: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Fewest images with instances to promote on.")
    ] = 10,
    max_dets: Annotated[int, typer.Option(min=1, max=100_000, help="Most detections that count.")] = 100,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the models run.")] = "cpu",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only measure and say.")] = False,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Put a new model in the place of the current one, if it is better.

    Both are measured on the same images; a paired bootstrap over the images says how sure the difference of
    AP is. The new one becomes models/NAME/current.json if the whole interval lies above the margin; else the
    command ends with 10 and changes nothing. With --against it must beat those weights and the current ones.

    Example:

    [cyan]condinst promote work/run/best.safetensors --on val.json --images photos --name mushrooms[/]
    """
    from jobs.promote import Request
    from jobs.promote import promote as run_promotion
    from pipeline.storage import StoreOptions

    options = StoreOptions(endpoint, region, profile, anonymous)
    request = Request(
        new=new,
        truth=on,
        images=images,
        models=models,
        name=name,
        against=against,
        max_dets=max_dets,
        margin=margin,
        confidence=confidence,
        resamples=resamples,
        min_images=min_images,
        dry_run=dry_run,
        device=device,
        store=options,
    )
    raise typer.Exit(run_promotion(request))


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    models: Models = "models",
    to: Annotated[
        int | None, typer.Option(min=1, help="A version. Default: the one before.", show_default=False)
    ] = None,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Go back to the version of a model that was current before; again, to the one before that.

    Example:

    [cyan]condinst rollback mushrooms --models s3://models[/]
    """
    from jobs.promote import rollback as go_back
    from pipeline.storage import StoreOptions

    go_back(models, name, StoreOptions(endpoint, region, profile, anonymous), to)


def select(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="A segment job's output.")],
    to: Annotated[str, typer.Option(metavar="FOLDER|URI", help="Where the selection goes.")] = "selection",
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many images.")] = 100,
    by: Annotated[
        list[Why],
        typer.Option(
            help="What makes an image worth it; may be repeated. Default: uncertainty, and disagreement with "
            "--against.",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    against: Annotated[
        str | None, typer.Option(metavar="OUTPUT", help="A second run of the images.", show_default=False)
    ] = None,
    form: Annotated[Literal["coco", "label-studio"], typer.Option(help="Form of selection.json.")] = "coco",
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Choose the images of a run that are most worth labelling.

    Writes selection.json, with the run's masks to start from, and selection.csv, with the scores; in Label
    Studio's form also selection.xml, the labelling interface. A folder that has a selection already is
    refused: it may have been corrected since.

    Example:

    [cyan]condinst select s3://masks/mushrooms --count 50 --against s3://masks/mushrooms-old[/]
    """
    from jobs.selection import Criterion, select_images
    from pipeline.storage import StoreOptions

    options = StoreOptions(endpoint, region, profile, anonymous)
    usual: list[Criterion] = ["uncertainty", "disagreement"] if against else ["uncertainty"]
    select_images(
        output,
        count,
        [why.value for why in dict.fromkeys(by)] or usual,
        to,
        options,
        against=against,
        label_studio=form == "label-studio",
    )
