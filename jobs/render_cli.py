"""`condinst render` as the command line has it."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from jobs.options import Overrides, SpecFile


class TargetName(StrEnum):
    """What a spec is rendered for."""

    KUBERAY = "kuberay"
    CRONJOB = "cronjob"


def render(
    spec: SpecFile,
    target: Annotated[
        TargetName,
        typer.Option(
            help="kuberay: a RayJob or, with a schedule, a RayCronJob. cronjob: a plain CronJob that creates "
            "the RayJob."
        ),
    ] = TargetName.KUBERAY,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Print a job as Kubernetes objects; asks no cluster.

    Variables are filled in now, {{ date }} when a run starts.

    Examples:

    [cyan]condinst render job.yaml | kubectl apply -f -[/]

    [cyan]condinst render job.yaml --target cronjob --set kubernetes.image=registry.example.com/condinst:1[/]
    """
    from jobs.render import render as rendered

    found = rendered(spec, overrides, target.value)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    print(found.text, end="")
