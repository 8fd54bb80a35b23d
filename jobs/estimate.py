"""What a run will take, from what runs before it took: time, GPU hours, requests, money.

Time is measured in megapixels (`jobs.rates`). Nothing here is assumed of a machine: without a run before
there is no estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from jobs.rates import MEGA, Rate, TiledRate
from pipeline.headers import probe
from pipeline.inputs import Inputs
from pipeline.records import ImageRef, InputRejected

HEADERS = 64
"""Inputs whose headers are read."""
READERS = 16

SHARD_WRITES, SHARD_READS = 8, 6
"""Requests of a shard beside its images: 6 PUTs and copies, 2 listings; flags, checks, its record."""
RUN_WRITES, RUN_READS = 14, 12
"""Requests of a run whatever its size."""
REPORT_READS, REPORT_SHARD_READS = 64, 9
"""Of the report at a run's end: the images that it shows and their rows, and the tables of each shard."""
SIGN_SECONDS, LOOK_SECONDS = 10.0, 5.0
"""Between a worker's signs of life, and between a driver's looks for a request to cancel."""
WINDOW_READS = 2
"""Ranges of a raster that a window needs; its neighbours have left some of them in memory."""
STITCH_READS = 10
"""Requests for what was found in a shard of windows: its record, its inputs, and both of its tables."""
LISTED = 1000
"""Keys in an answer to a listing."""
WRITE_PRICE, READ_PRICE = 0.005 / 1000, 0.0004 / 1000
"""Dollars a request: list price of S3 Standard in us-east-1. Writes are PUT, COPY, POST and LIST."""


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


@dataclass(frozen=True)
class Todo:
    """What there is to do, and by how many."""

    images: int
    """Or windows."""
    shards: int
    workers: int
    size: int = 0
    """Images of a full shard; 0 where they are all alike."""

    @property
    def busiest(self) -> float:
        """Images of the worker that is the last to end: whoever is free takes the next shard."""
        if not self.shards:
            return 0.0
        size, others = float(self.size), self.shards - 1
        if not 0 < self.images - others * size <= size:
            size = self.images / self.shards
        rest = self.images - others * size
        return max(-(-others // self.workers) * size, others // self.workers * size + rest)


def estimate(rate: Rate, headers: Headers, todo: Todo, gpus: float, price: float | None) -> Estimate:
    """What so many images in so many shards take on so many workers."""
    each = rate.seconds_per_image
    if headers.megapixels is not None and rate.seconds_per_megapixel:
        read = 1 - len(headers.refused) / max(1, headers.looked_at)
        each = rate.seconds_per_megapixel * headers.megapixels * read
    seconds = (rate.start if todo.shards else 0.0) + each * todo.busiest
    writes = RUN_WRITES + SHARD_WRITES * todo.shards + todo.images // LISTED
    reads = RUN_READS + SHARD_READS * todo.shards + todo.images
    reads += REPORT_READS + REPORT_SHARD_READS * todo.shards
    requests = _of_time(writes, reads, seconds, todo.workers) if todo.shards else (0, 0)
    return _priced(seconds, seconds, todo.workers, gpus, price, requests)


def estimate_tiled(
    rate: TiledRate, megapixels: float | None, windows: Todo, stitched: Todo, gpus: float, price: float | None
) -> Estimate:
    """What so many windows of so many megapixels take, and so many that are stitched after that.

    Both stages run on as many workers; those of the second hold no GPU.
    """
    each = rate.windows.seconds_per_image
    if megapixels is not None and rate.windows.seconds_per_megapixel:
        each = rate.windows.seconds_per_megapixel * megapixels
    computing = each * windows.busiest + rate.windows.start
    seconds = computing + rate.stitching * stitched.busiest
    shards, reread = windows.shards + stitched.shards, 0
    if windows.size:
        # A shard of windows is read by each shard of rasters that has some of them.
        reread = -(-stitched.images // windows.size) + stitched.shards
    writes = 2 * RUN_WRITES + SHARD_WRITES * shards
    reads = 2 * RUN_READS + SHARD_READS * shards + WINDOW_READS * windows.images + STITCH_READS * reread
    workers = max(windows.workers, stitched.workers)
    requests = _of_time(writes, reads, seconds, workers)
    held = computing if windows.shards else 0.0
    return _priced(seconds, held, workers, gpus, price, requests)


def _of_time(writes: int, reads: int, seconds: float, workers: int) -> tuple[int, int]:
    """Requests, with those that come by the clock."""
    return writes + round(seconds * workers / SIGN_SECONDS), reads + round(seconds / LOOK_SECONDS)


def _priced(
    seconds: float,
    computing: float,
    workers: int,
    gpus: float,
    price: float | None,
    requests: tuple[int, int],
) -> Estimate:
    """`computing`: seconds for which the workers hold their GPUs."""
    gpu_hours, (writes, reads) = computing * workers * gpus / 3600, requests
    return Estimate(
        seconds=seconds,
        worker_hours=seconds * workers / 3600,
        gpu_hours=gpu_hours,
        gpu_cost=None if price is None else gpu_hours * price,
        writes=writes,
        reads=reads,
        request_cost=writes * WRITE_PRICE + reads * READ_PRICE,
    )
