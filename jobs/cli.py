"""The `condinst` command. What a command needs is imported when it runs, so that help comes at once."""

from __future__ import annotations

import logging
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import schedule_cli, structured, submit_cli, weights_cli
from jobs.chips_cli import chips
from jobs.compare_cli import confusion, diff
from jobs.errors import EXIT_CODES, ExitCode, Refused, SpecError, explain, one_line
from jobs.evaluate_cli import evaluate
from jobs.export_cli import export, filter, import_
from jobs.given_paths import written
from jobs.models_cli import promote, rollback, select
from jobs.options import Anonymous, Endpoint, Overrides, Profile, Region, SpecFile
from jobs.publish_cli import publish
from jobs.render_cli import render
from jobs.upkeep_cli import cancel, retry, top, vacuum, verify
from jobs.view_cli import report, view

if TYPE_CHECKING:
    from jobs.spec import SegmentSpec

HELP = """
Segment images by the million: a YAML job in, tables of instances and masks out.

In this order:

[bold cyan]condinst demo[/]  a whole job on generated fields, in a minute

[bold cyan]condinst predict photo.jpg[/]  one image: an overlay, its instances

[bold cyan]condinst try job.yaml[/]  a job's first look: 20 images, nothing kept

[bold cyan]condinst run job.yaml[/]  the job; the same again continues it

Specs to start from are in examples/, their reference in docs/spec.md.
"""
EPILOG = "Exit codes:\n\n" + "\n\n".join(
    f"{code.value:>3}  {meaning}" for code, meaning in EXIT_CODES.items()
)

app = typer.Typer(
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(weights_cli.app, name="weights")
app.add_typer(submit_cli.app, name="jobs")
app.add_typer(schedule_cli.app, name="schedule")
app.command()(submit_cli.submit)

RequireVersion = Annotated[
    str | None,
    typer.Option(help="Refuse to run with another version of condinst.", show_default=False),
]
JsonLogs = Annotated[
    bool,
    typer.Option(
        "--json-logs", envvar="CONDINST_JSON_LOGS", help="Tell of the run in lines of JSON, on stdout."
    ),
]


def main() -> None:
    """Run the command; tell an error that the user can put right in words, any other with its traceback."""
    try:
        app()
    except SystemExit as end:
        # While Ray starts, its own handler of SIGTERM ends the process with the signal's bare number.
        sys.exit(ExitCode.TERMINATED if end.code == signal.SIGTERM else end.code)
    except Exception as error:
        told = explain(error)
        if told is None:
            raise
        code, message = told
        structured.event("error", logging.ERROR, code=int(code), message=message)
        shown = "\n".join(map(one_line, message.split("\n")))
        print(shown if isinstance(error, SpecError) else f"condinst: {shown}", file=sys.stderr)
        sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"condinst {version('condinst')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _load(spec: Path, overrides: list[str], *, need_secrets: bool = False) -> SegmentSpec:
    """Check the spec before anything heavy is imported, so that a typo is told at once."""
    from jobs.check import load
    from jobs.filling import Surroundings, use_environment

    return use_environment(load(spec, overrides, around=Surroundings(need_secrets=need_secrets)))


def _require(wanted: str | None) -> None:
    """Refuse a job that another version of the project submitted."""
    here = version("condinst")
    if wanted not in (None, here):
        raise Refused(
            f"the job was submitted by condinst {wanted}, and here is {here}: install one version in "
            "both places"
        )


@app.command()
def predict(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Image files, folders of them, or URIs of images."),
    ],
    weights: Annotated[str, typer.Option(help="demo, a safetensors file, or its URI.")] = "demo",
    output: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", parser=written("--output", "folder"), help="Folder for what is found."
        ),
    ] = Path("predictions"),
    score_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lowest score shown. Default: the weights' own.")
    ] = None,
    max_instances: Annotated[
        int | None, typer.Option(min=1, help="Most instances of an image. Default: the weights' own.")
    ] = None,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Segment a few images: overlays, and a table of the instances.

    Writes an overlay an image, and instances.parquet: a row an instance with its mask, as in a job's tables.

    Examples:

    [cyan]condinst predict field.jpg --score-threshold 0.4[/]

    [cyan]condinst predict s3://photos/field.jpg photos/ --output found[/]
    """
    from jobs.predict import predict_files
    from pipeline.storage import StoreOptions

    options = StoreOptions(endpoint, region, profile, anonymous)
    predict_files(images, weights, output, score_threshold, max_instances, options)


@app.command()
def run(
    spec: SpecFile,
    overrides: Overrides = [],  # noqa: B006
    local: Annotated[
        bool, typer.Option("--local", help="In this process, without Ray: for debugging.")
    ] = False,
    require_version: RequireVersion = None,
    json_logs: JsonLogs = False,
) -> None:
    """Run a job, or continue it; what is committed is not done again.

    Examples:

    [cyan]condinst run examples/mushrooms.yaml[/]

    [cyan]condinst run job.yaml --set workers.count=8 --set output.uri=s3://masks/test[/]
    """
    _require(require_version)
    if json_logs:
        structured.log_json()
    checked = _load(spec, overrides, need_secrets=True)
    from jobs.notify import notified

    with notified(checked) as said:
        from jobs.segment import run_job

        said["output"] = checked.output.uri
        said["statuses"] = run_job(checked, local=local)["statuses"]


@app.command()
def train(
    spec: SpecFile,
    overrides: Overrides = [],  # noqa: B006
    require_version: RequireVersion = None,
    json_logs: JsonLogs = False,
) -> None:
    """Train a model on labelled images, and measure it as it grows.

    Examples:

    [cyan]condinst train examples/train-kernels.yaml[/]

    [cyan]condinst train job.yaml --set training.steps=200 --set output.uri=work/quick[/]
    """
    _require(require_version)
    if json_logs:
        structured.log_json()
    from jobs.check import load
    from jobs.filling import Surroundings, use_environment
    from jobs.train_spec import TrainSpec

    checked = use_environment(load(spec, overrides, TrainSpec, Surroundings(need_secrets=True)))
    from jobs.notify import notified

    with notified(checked) as said:
        from jobs.train import train_job

        said["output"] = checked.output.uri
        said["best"] = train_job(checked)


@app.command("try")
def try_(
    spec: SpecFile,
    overrides: Overrides = [],  # noqa: B006
    images: Annotated[int, typer.Option(min=1, max=1000, help="How many images.")] = 20,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=written("--output", "folder"),
            help="Folder for the overlays. Default: try/<name>.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Look before you run: a sample of the input, drawn; no tables.

    The sample is spread evenly over the input and is the same each time. The job's output is not touched; the
    overlays take the place of those that the last try left in the folder.

    Example:

    [cyan]condinst try job.yaml --images 50 --set model.score_threshold=0.5[/]
    """
    checked = _load(spec, overrides)
    from jobs.try_job import try_job

    try_job(checked, images, output or Path("try") / checked.name)


@app.command()
def plan(
    spec: SpecFile,
    overrides: Overrides = [],  # noqa: B006
    like: Annotated[
        str | None,
        typer.Option(
            metavar="OUTPUT",
            help="Estimate by the runs of this output, of the same kind of job. Default: the job's own.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Open the model and ten of the images; of a training the images.")
    ] = False,
) -> None:
    """Say what a run or a training would do and take; changes nothing.

    Counts images, bytes and shards, what would be skipped, and what is done already; of a training its
    images, instances by class, steps and epochs. Once something was run, it estimates hours, GPU hours,
    requests and what they cost.

    Examples:

    [cyan]condinst plan job.yaml --check[/]

    [cyan]condinst plan job.yaml --like s3://masks/last-year[/]
    """
    from jobs.check import load_job
    from jobs.filling import use_environment
    from jobs.spec import SegmentSpec

    checked = use_environment(load_job(spec, overrides))
    if isinstance(checked, SegmentSpec):
        from jobs.preview import preview

        preview(checked, like=like, check=check)
    else:
        from jobs.train_preview import preview_training

        preview_training(checked, like=like, check=check)


@app.command()
def status(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="A job's output, or its spec file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    endpoint: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """How far a job or a training is.

    Shards done, images by status so far, instances, and what each worker last said; of a training its steps,
    losses, measurements so far, and where its weights are.

    Examples:

    [cyan]condinst status s3://masks/mushrooms[/]

    [cyan]condinst status train.yaml --json[/]
    """
    from jobs.status import show_status
    from pipeline.storage import StoreOptions

    show_status(output, StoreOptions(endpoint, region, profile, anonymous), as_json=as_json)


app.command()(report)
app.command()(view)
app.command()(cancel)
app.command()(top)
app.command()(retry)
app.command()(verify)
app.command()(vacuum)
app.command()(evaluate)
app.command()(render)
app.command()(export)
app.command()(filter)
app.command()(publish)
app.command()(diff)
app.command()(confusion)
app.command("import")(import_)
app.command()(chips)
app.command()(promote)
app.command()(rollback)
app.command()(select)


@app.command()
def schema(
    kind: Annotated[str, typer.Option(help="Which kind of job.")] = "segment",
    markdown: Annotated[bool, typer.Option("--markdown", help="As the reference page in docs/.")] = False,
) -> None:
    """Print the JSON Schema of a spec, for editors.

    Example:

    [cyan]condinst schema > segment.schema.json[/]
    """
    from jobs.reference import json_schema, reference_page

    print(reference_page(kind) if markdown else json_schema(kind), end="")


@app.command()
def demo(
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=written("--output", "folder"),
            help="Folder for everything it makes.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Generate fields, segment them, measure the result.

    Example:

    [cyan]condinst demo --output /tmp/demo[/]
    """
    from jobs.demo import main as run_demo

    raise typer.Exit(run_demo(output))


@app.command("demo-model")
def demo_model(
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=written("--output", "file"),
            help="The weights file to write. Default: the one in the package.",
            show_default=False,
        ),
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Scenes to generate.")] = 900,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 4200,
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = 0,
) -> None:
    """Train the weights that ship, on generated fields.

    Example:

    [cyan]condinst demo-model --output demo.safetensors --steps 200[/]
    """
    from condinst.weightsfile import demo_path
    from jobs.demo_model import main as train

    raise typer.Exit(train(output or demo_path(), scenes=scenes, steps=steps, seed=seed))


if __name__ == "__main__":
    main()
