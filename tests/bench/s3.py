"""An S3 server for benches: moto's, in a process of its own, spoken to over HTTP."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import boto3

from tests.motoserver import moto_server

BUCKET = "bench"


@contextmanager
def s3_server(log: IO[bytes] | None = None) -> Iterator[str]:
    """A server with one bucket, whose URI this yields; the environment points every client at it.

    `log` gets a line for each request.
    """
    with moto_server(subprocess.DEVNULL if log is None else log) as url:
        point_clients_at(url)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"


def point_clients_at(url: str) -> None:
    """Have the environment send every S3 client of this process, and of those it starts, to a server."""
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def put_folder(folder: Path, prefix: str = "") -> None:
    """Put a folder's files into the bucket, by their paths in it."""
    client = boto3.client("s3")
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), BUCKET, f"{prefix}{path.relative_to(folder)}")
