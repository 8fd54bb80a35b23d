"""What a worker needs to know to segment a shard, and the fingerprint of what changes rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.decode import DecodeLimits
from pipeline.keys import under
from pipeline.manifest import InputSource
from pipeline.storage import StoreOptions
from pipeline.tiled.settings import Tiling

RESULTS_VERSION = 1
"""Raised when this project's code changes the rows that equal settings give."""
WINDOWS = "_windows"
"""Folder of a tiled job's output that holds the output of its first stage."""
BATCH_IMAGES, BATCH_PIXELS = 8, 2**25
"""Of a batch where no GPU says how many fit."""
ANY_PIXELS = 2**40
"""Of a batch whose number of images alone is its limit."""
AUTO = "auto"
"""The precision as long as it is to be found: a worker's GPU decides (`pipeline.batchsize`)."""


KEEPS_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""Has glibc keep what a layer's output took for the next one's, and torch take it in large pages.

Otherwise the system gets it back layer by layer and clears it anew, page by page: a quarter of the time that
convolutions take in batches (`tests.bench.keeping`). One arena, because no other gives blocks of over 64 MB.
"""


@dataclass(frozen=True)
class SegmentSettings:
    """One segment job as its workers see it: picklable, resolved, without secrets."""

    output: str
    """URI of the output."""
    sources: tuple[InputSource, ...]
    """The job's inputs, in the order that `ImageRef.source` counts."""
    weights: str
    """`demo`, a local path, or the URI of a safetensors file."""
    model_digest: str
    """sha256 of the weights file; a worker refuses a file with another one."""
    output_options: StoreOptions = field(default_factory=StoreOptions)
    weights_options: StoreOptions = field(default_factory=StoreOptions)
    decode: str = "full"
    """`full`, or `scaled`: JPEGs much larger than the network's input come in half, a quarter, an eighth."""
    precision: str = "float32"
    """As torch names it; `auto` as long as it is to be found (`pipeline.batchsize`)."""
    compile: bool = False
    """Whether the model's convolutions are compiled, a padded size at a time."""
    detect: Mapping[str, object] = field(default_factory=dict)
    """Overrides of the model's `DetectConfig`, by field."""
    score_threshold: float = 0.0
    """The highest that a row's score may have to exceed, by `detect` or else the weights: to compare runs."""
    batch_images: int = BATCH_IMAGES
    """Most images in one batch; 0 as long as it is to be found (`pipeline.batchsize`)."""
    batch_pixels: int = BATCH_PIXELS
    """Most padded pixels in one batch; an image larger than that is a batch of its own."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    cpus: int = 1
    """CPUs of one worker: what Ray reserves for it, and the model's threads when there is no GPU."""
    gpus: float = 0
    """GPUs of one worker; with none the model runs on the CPU."""
    memory: int = 0
    """Bytes of memory that Ray reserves for one worker; 0 for none."""
    accelerator: str | None = None
    """Type of the GPUs, as Ray names it; None for any."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the workers' processes, as stated; no secrets."""
    prefetch_images: int = 32
    """Images of one shard that may be fetched and decoded ahead of the model."""
    prefetch_bytes: int = 256 * 2**20
    """Bytes of one shard that may be held ahead of the model, fetched or prepared."""
    tiling: Tiling | None = None
    """How rasters are cut into windows; None for a job whose inputs are segmented as they are."""
    stitching: bool = False
    """Whether the shards are those of a tiled job's second stage, which stitches."""

    @property
    def device(self) -> str:
        """Where the model runs, as torch names it."""
        return "cuda" if self.gpus > 0 else "cpu"

    @property
    def process_env(self) -> dict[str, str]:
        """Environment variables of a worker's process: what is stated, and with no GPU `KEEPS_MEMORY`."""
        computes = self.device == "cpu" and not self.stitching
        return {**(KEEPS_MEMORY if computes else {}), **self.env}

    @property
    def undecided(self) -> bool:
        """Whether a worker's GPU is still to decide on something here."""
        return not self.batch_images or self.precision == AUTO

    def row_settings(self) -> dict[str, object]:
        """Everything here that changes rows, as plain JSON values.

        A batch's shape and a CPU's thread count move scores by rounding, so they count too.
        """
        tiled = {} if self.tiling is None else {"tiling": self.tiling.row_settings()}
        decode = {} if self.decode == "full" else {"decode": self.decode}
        compiled = {"compile": True} if self.compile else {}
        return {
            "results_version": RESULTS_VERSION,
            "model_digest": self.model_digest,
            "precision": self.precision,
            "detect": dict(self.detect),
            "batch_images": self.batch_images,
            "batch_pixels": self.batch_pixels,
            "limits": {"pixels": self.limits.pixels, "bytes": self.limits.bytes},
            "device": self.device,
            "threads": None if self.gpus > 0 else self.cpus,
            **tiled,
            **decode,
            **compiled,
        }

    def of_windows(self) -> SegmentSettings:
        """Of the first stage of a tiled job: its windows, an output of their own."""
        return replace(self, output=windows_uri(self.output))

    def of_stitching(self) -> SegmentSettings:
        """Of its second stage, which needs no model."""
        return replace(self, stitching=True)

    @property
    def gpus_held(self) -> float:
        """GPUs that Ray reserves for one worker: stitching needs none."""
        return 0 if self.stitching else self.gpus

    def fingerprint(self) -> str:
        """sha256 (hex) over the canonical JSON of `row_settings`."""
        canonical = json.dumps(self.row_settings(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def job_record(self) -> dict[str, object]:
        """This job's part of `job.json`: what later runs into the same output are held against."""
        return {
            "fingerprint": self.fingerprint(),
            "model_digest": self.model_digest,
            "score_threshold": self.score_threshold,
            "settings": self.row_settings(),
        }


def windows_uri(output: str) -> str:
    """Where the windows of a tiled job's output lie."""
    return under(output, WINDOWS)


def difference(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """What differs between two `row_settings`, in words: `["detect.score_threshold: 0.3 -> 0.5"]`."""
    before, after = _flat(old), _flat(new)
    return [
        f"{name}: {_word(before, name)} -> {_word(after, name)}"
        for name in sorted(before.keys() | after.keys())
        if _word(before, name) != _word(after, name)
    ]


def _flat(value: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat.update(_flat(item, f"{prefix}{name}."))
        else:
            flat[prefix + name] = item
    return flat


def _word(flat: Mapping[str, object], name: str) -> str:
    return json.dumps(flat[name], default=str) if name in flat else "the default"
