"""What a run will take, from what runs before it took: time, GPU hours, requests, money.

Time is measured in megapixels: a worker's seconds from its first batch to its last over the pixels it went
through, of every run that the output's commits tell of. What a run spends before its first batch is the last
run's own figure. Nothing here is assumed of a machine: without a run before there is no estimate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow.compute as pc

from jobs.report import SUMMARY_KEY
from jobs.tally import Tally
from pipeline.commit import Commit
from pipeline.headers import probe
from pipeline.inputs import Inputs
from pipeline.ledger import Ledger
from pipeline.records import ImageRef, InputRejected
from pipeline.retry import committed_images
from pipeline.storage import NotFound, Store

HEADERS = 64
"""Inputs whose headers are read."""
READERS = 16
LOOKED_AT = 40
"""Shards whose rows are read for the pixels of a run."""
MEGA = 1e6

SHARD_WRITES, SHARD_READS = 8, 6
"""Requests of a shard beside its images: 6 PUTs and copies, 2 listings; flags, checks, its record."""
RUN_WRITES, RUN_READS = 14, 12
"""Requests of a run whatever its size."""
SIGN_SECONDS, LOOK_SECONDS = 10.0, 5.0
"""Between a worker's signs of life, and between a driver's looks for a request to cancel."""
LISTED = 1000
"""Keys in an answer to a listing."""
WRITE_PRICE, READ_PRICE = 0.005 / 1000, 0.0004 / 1000
"""Dollars a request: list price of S3 Standard in us-east-1. Writes are PUT, COPY, POST and LIST."""


@dataclass(frozen=True)
class Rate:
    """What one worker needed."""

    seconds_per_megapixel: float
    seconds_per_image: float
    """Of whatever size: for inputs whose size cannot be told."""
    images: int
    """That were measured."""
    start: float
    """Seconds from a run's begin to its first batch, and from its last to its end."""


@dataclass(frozen=True)
class Headers:
    """What a sample of inputs says of itself."""

    looked_at: int
    megapixels: float | None
    """Mean of those that can be read; None when none can."""
    largest: float
    """Megapixels of the largest."""
    refused: tuple[tuple[str, str], ...]
    """Those that will not be segmented, each with why."""


@dataclass(frozen=True)
class Estimate:
    """What a run would take."""

    seconds: float
    worker_hours: float
    gpu_hours: float
    gpu_cost: float | None
    """None where the spec names no price."""
    writes: int
    reads: int
    request_cost: float
    """Dollars, by S3's list price."""


def measured(store: Store) -> Rate | None:
    """The rate of an output's runs; None where none has done anything yet. Raises StoreError, LedgerError."""
    commits = [commit for commit in Ledger(store).records() if commit.work.first is not None]
    tally = Tally.of(commits)
    spans = sum(busy.last - busy.first for busy in tally.workers.values())
    images = sum(busy.images for busy in tally.workers.values())
    if not images or not spans:
        return None
    per_image = spans / images
    pixels = _megapixels_per_image(store, commits)
    return Rate(per_image / pixels if pixels else 0.0, per_image, images, _start(store))


def read_headers(inputs: Inputs, refs: Sequence[ImageRef]) -> Headers:
    """Read the sizes of inputs from their files' beginnings. Raises Unavailable."""

    def look(ref: ImageRef) -> float | tuple[str, str]:
        try:
            header = probe(inputs.beginning(ref))
        except InputRejected as rejected:
            return ref.image_id, f"{rejected.status.value}: {rejected.reason}"
        return header.width * header.height / MEGA

    with ThreadPoolExecutor(READERS) as readers:
        found = list(readers.map(look, refs))
    sizes = [size for size in found if isinstance(size, float)]
    refused = tuple(each for each in found if isinstance(each, tuple))
    mean = sum(sizes) / len(sizes) if sizes else None
    return Headers(len(refs), mean, max(sizes, default=0.0), refused)


def estimate(
    rate: Rate, headers: Headers, images: int, shards: int, workers: int, gpus: float, price: float | None
) -> Estimate:
    """What so many images in so many shards take on so many workers."""
    each = rate.seconds_per_image
    if headers.megapixels is not None and rate.seconds_per_megapixel:
        read = 1 - len(headers.refused) / max(1, headers.looked_at)
        each = rate.seconds_per_megapixel * headers.megapixels * read
    # The worker with the most shards is the last to end.
    share = -(-shards // workers) / shards if shards else 0.0
    seconds = (rate.start if shards else 0.0) + each * images * share
    worker_hours = seconds * workers / 3600
    gpu_hours = worker_hours * gpus
    writes = RUN_WRITES + SHARD_WRITES * shards + round(seconds * workers / SIGN_SECONDS) + images // LISTED
    reads = RUN_READS + SHARD_READS * shards + images + round(seconds / LOOK_SECONDS)
    return Estimate(
        seconds=seconds,
        worker_hours=worker_hours,
        gpu_hours=gpu_hours,
        gpu_cost=None if price is None else gpu_hours * price,
        writes=writes if shards else 0,
        reads=reads if shards else 0,
        request_cost=(writes * WRITE_PRICE + reads * READ_PRICE) if shards else 0.0,
    )


def _megapixels_per_image(store: Store, commits: Sequence[Commit]) -> float | None:
    """Mean over some shards, those without a size counted as nothing: they cost next to nothing."""
    pixels, rows = 0.0, 0
    for commit in _spread(commits, LOOKED_AT):
        table = committed_images(store, commit).select(["width", "height"])
        width, height = (pc.cast(table[name], "float64") for name in ("width", "height"))
        pixels += pc.sum(pc.multiply(width, height), min_count=0).as_py() / MEGA
        rows += table.num_rows
    return pixels / rows if rows and pixels else None


def _spread(commits: Sequence[Commit], count: int) -> Iterable[Commit]:
    step = max(1, len(commits) // count)
    return islice(commits, 0, None, step)


def _start(store: Store) -> float:
    """What the last complete run spent outside its batches; nothing where it is not known."""
    try:
        run: dict[str, Any] = json.loads(store.get(SUMMARY_KEY))["run"]
        rate = float(run["images_per_second"])
        return max(0.0, float(run["seconds"]) - float(run["images"]) / rate) if rate else 0.0
    except (NotFound, ValueError, KeyError, TypeError):
        return 0.0
