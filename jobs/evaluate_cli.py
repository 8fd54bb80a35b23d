"""`condinst evaluate` as the command line has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.given_paths import placed, written
from jobs.options import Anonymous, Endpoint, Profile, Region


def evaluate(
    truth: Annotated[
        str | None,
        typer.Option(metavar="COCO.json", help="The truth: a COCO json, or its URI.", show_default=False),
    ] = None,
    output: Annotated[
        str | None,
        typer.Argument(metavar="[OUTPUT]", help="A segment job's output to measure.", show_default=False),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Or: the weights to measure on --images.", show_default=False)
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|URI", help="Where the truth's `file_name`s start.", show_default=False),
    ] = None,
    seams: Annotated[
        str | None,
        typer.Option(
            metavar="OUTPUT",
            help="Instead of a truth: another tiled output of the same rasters, to see what tiling changed.",
            show_default=False,
        ),
    ] = None,
    max_dets: Annotated[
        int, typer.Option(min=1, max=100_000, help="Most detections of a class in an image that count.")
    ] = 100,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the truth's first images.", show_default=False)
    ] = None,
    only_run: Annotated[
        bool, typer.Option("--only-run", help="Only the truth's images that OUTPUT has rows for.")
    ] = False,
    rename: Annotated[
        list[str],
        typer.Option(
            metavar="CLASS=CATEGORY",
            help="Count a predicted class as another category of the truth; may be repeated.",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    class_agnostic: Annotated[
        bool, typer.Option("--class-agnostic", help="Count every class as the truth's only category.")
    ] = False,
    score_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="With --weights. Default: their own.")
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="With --weights: numbers the model computes in. Default: float32."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="With --weights: cpu or cuda. Default: cpu.", show_default=False)
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE|URI",
            parser=placed("--json", "file"),
            help="Write every figure.",
            show_default=False,
        ),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=written("--plots", "folder"),
            help="Draw precision against recall, AP by class.",
            show_default=False,
        ),
    ] = None,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Measure weights, or a job's tables, against a COCO truth; or two tilings against each other.

    Box and mask AP and AR as COCO defines them: by IoU, size and class. With --seams: how many instances of
    another tiled output of the same rasters are here too, how many are here twice, and whether there are
    more or fewer along the windows' borders.

    Examples:

    [cyan]condinst evaluate --weights r50.safetensors --images photos --truth val.json[/]

    [cyan]condinst evaluate s3://masks/mushrooms --truth val.json --max-dets 300 --plots plots[/]

    [cyan]condinst evaluate work/ortho-512 --seams work/ortho-whole[/]
    """
    if (truth is None) == (seams is None):
        raise typer.BadParameter("give either --truth or --seams")
    from pipeline.storage import StoreOptions

    if seams is not None:
        if output is None:
            raise typer.BadParameter("--seams compares an OUTPUT with another")
        from jobs.seams import compare_outputs

        compare_outputs(output, seams, StoreOptions(endpoint, region, profile, anonymous), json_file)
        return
    assert truth is not None
    from jobs.evaluate import Request, run_evaluation

    run_evaluation(
        Request(
            truth=truth,
            output=output,
            weights=weights,
            images=images,
            max_dets=max_dets,
            limit=limit,
            only_run=only_run,
            rename=tuple(rename),
            class_agnostic=class_agnostic,
            score_threshold=score_threshold,
            precision=precision,
            device=device,
            json_file=json_file,
            plots=plots,
            store=StoreOptions(endpoint, region, profile, anonymous),
        )
    )
