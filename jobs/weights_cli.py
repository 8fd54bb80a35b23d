"""`condinst weights`: other projects' checkpoints as ours, and what a weights file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.given_paths import local, written

app = typer.Typer(
    help="""
Take over other projects' weights; look into a file.

Examples:

[cyan]condinst weights convert CondInst_MS_R_50_3x.pth r50.safetensors[/]

[cyan]condinst weights show r50.safetensors[/]
""",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", parser=local("IN"), help="A .pth or .safetensors checkpoint.", show_default=False
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT.safetensors",
            parser=written("OUT.safetensors", "file"),
            help="The file to write.",
            show_default=False,
        ),
    ],
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=local("--classes"),
            help="Category names: a text file, one a line, or a COCO json. Default: what the checkpoint "
            "says, COCO's for 80 classes, else class_0, class_1, ...",
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        Literal["model", "backbone"] | None,
        typer.Option(
            "--as",
            help="Take it as a whole model, or its backbone alone. Default: what it holds.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        Literal["caffe", "torchvision"] | None,
        typer.Option(
            help="How a backbone was trained: `caffe` (BGR, stride in the first 1x1) or `torchvision` (RGB, "
            "stride in the 3x3). Default: what its keys suggest.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a weights file of an AdelaiDet or mmdetection checkpoint, or of an ImageNet backbone.

    Nothing in the checkpoint is run. What has no place is an error that names it.

    Examples:

    [cyan]condinst weights convert CondInst_MS_R_50_3x.pth r50.safetensors[/]

    [cyan]condinst weights convert fields.pth fields.safetensors --classes names.txt[/]

    [cyan]condinst weights convert resnet50.pth backbone.safetensors --as backbone[/]
    """
    from jobs.convert_weights import convert_file

    convert_file(source, target, classes, part, recipe)


@app.command()
def show(
    weights: Annotated[
        str, typer.Argument(metavar="FILE", help="demo, a safetensors file, or its URI.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, everything in it.")] = False,
) -> None:
    """What a weights file holds: configuration, classes, parameters, digest, notes.

    Example:

    [cyan]condinst weights show demo[/]
    """
    from jobs.show_weights import show_weights

    show_weights(weights, as_json=as_json)
