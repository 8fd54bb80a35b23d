"""Command line options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Endpoint = Annotated[str | None, typer.Option(help="Address of an S3-compatible server.", show_default=False)]
Region = Annotated[str | None, typer.Option(help="Region of the bucket.", show_default=False)]
Profile = Annotated[str | None, typer.Option(help="Profile in ~/.aws/config.", show_default=False)]
Anonymous = Annotated[bool, typer.Option("--anonymous", help="Read a public bucket without credentials.")]
