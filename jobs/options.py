"""Command line options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.given_paths import local

Endpoint = Annotated[str | None, typer.Option(help="Address of an S3-compatible server.", show_default=False)]
Region = Annotated[str | None, typer.Option(help="Region of the bucket.", show_default=False)]
Profile = Annotated[str | None, typer.Option(help="Profile in ~/.aws/config.", show_default=False)]
Anonymous = Annotated[bool, typer.Option("--anonymous", help="Read a public bucket without credentials.")]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="Change one setting of the spec, for example [cyan]--set workers.count=4[/]; may be repeated.",
        show_default=False,
    ),
]
SpecFile = Annotated[
    Path,
    typer.Argument(metavar="SPEC", parser=local("SPEC"), help="The job's YAML file.", show_default=False),
]
