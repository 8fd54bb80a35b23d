"""What a job's YAML may say: one typed model a section, unknown keys refused.

The descriptions are the reference: `condinst schema` hands them to editors, `docs/spec.md` is made from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from jobs.conventions import JobSpec, WorkersSection
from jobs.section import Section as Section

SCHEMES = ("s3", "gs", "az", "file")


def _check_uri(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    if not uri.strip() or any(ord(character) < 32 for character in uri):
        raise ValueError("expected a folder, or a URI such as s3://bucket/folder")
    if separator and scheme not in SCHEMES:
        raise ValueError(
            f"{scheme}:// cannot be read; use a folder or {', '.join(f'{name}://' for name in SCHEMES)} "
            "(a server that speaks S3: s3://bucket/... with endpoint)"
        )
    if separator and scheme != "file":
        _check_bucket(scheme, rest.split("/")[0])
    return uri


def _check_bucket(scheme: str, bucket: str) -> None:
    if not bucket:
        raise ValueError(f"names no bucket; expected {scheme}://bucket/folder")
    if "@" in bucket:
        raise ValueError(
            "holds credentials; keep them out of the spec: the environment, a profile or the machine's role"
        )


def _check_endpoint(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(
            "expected the server's address, such as https://s3.example.com or http://10.0.0.5:9000"
        )
    if "@" in parts.netloc:
        raise ValueError("holds credentials; keep them out of the spec: the environment or a profile")
    return endpoint


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise ValueError("expected 1 to 63 letters, digits, dots, dashes or underscores")
    return name


def listed(value: object) -> object:
    """One item as a list of one."""
    return [value] if isinstance(value, str | dict) else value


def one_or_list(schema: dict[str, Any]) -> None:
    """Tell editors that one item may stand without its list."""
    items, kind = schema.pop("items"), schema.pop("type")
    schema["anyOf"] = [items, {"type": kind, "items": items}]


Percent = Annotated[float, Field(ge=0, le=100)]
Uri = Annotated[str, AfterValidator(_check_uri)]
Name = Annotated[str, AfterValidator(_check_name)]
Texts = Annotated[
    tuple[str, ...], BeforeValidator(listed), Field(strict=False, json_schema_extra=one_or_list)
]


class StoreSection(Section):
    """Where something lies, and how its store is reached."""

    uri: Uri = Field(
        description="A folder, or `s3://`, `gs://`, `az://` with bucket and prefix. Relative folders start "
        "at the current folder, where the command is run, not at the spec."
    )
    endpoint: Annotated[str, AfterValidator(_check_endpoint)] | None = Field(
        default=None,
        description="Address of an S3-compatible server. Default: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, "
        "or AWS itself.",
    )
    region: str | None = Field(
        default=None, description="Region of an S3 bucket. Default: the environment's."
    )
    profile: str | None = Field(
        default=None,
        description="Name of a profile in `~/.aws/config` that holds the credentials for S3. Default: the "
        "environment's.",
    )
    anonymous: bool = Field(default=False, description="Read a public bucket without credentials.")
    requester_pays: bool = Field(
        default=False, description="Accept that your account is billed for reading from S3."
    )
    requests_per_second: float | None = Field(
        default=None,
        ge=0.1,
        le=1_000_000,
        description="Most requests a second to the bucket, retries too. A segment job's workers share it "
        "evenly; its driver keeps to the whole while it plans, as does each process that trains. Default: no "
        "cap.",
    )


class InputSection(StoreSection):
    """Images to segment: everything below a folder or prefix, or what a manifest lists."""

    include: Texts = Field(
        default=(),
        description="Globs of the images to take, for example `*.jpg`. A pattern without `/` matches the "
        "name in any folder; with `/`, the path below the root, where `**` crosses folders. "
        "Default: everything.",
    )
    exclude: Texts = Field(default=(), description="Globs of what to leave out, after `include`.")
    manifest: bool | None = Field(
        default=None,
        description="Whether `uri` names a Parquet or CSV table of images instead of a folder. Default: "
        "whether it ends in `.parquet` or `.csv`. Relative URIs in it start at its own folder.",
    )
    uri_column: str = Field(
        default="uri", min_length=1, description="Column of the manifest that holds each image's URI."
    )
    id_column: str | None = Field(
        default=None,
        min_length=1,
        description="Column of the manifest that names each image. Default: the path of its URI.",
    )
    columns: Texts = Field(
        default=(), description="Columns of the manifest to carry into the `images` table."
    )
    area: Uri | None = Field(
        default=None,
        description="GeoJSON or GeoPackage file whose polygons limit what is read and what is written. Needs "
        "`tiling`, and images that say where they lie.",
    )
    mode: Literal["all", "new"] = Field(
        default="all",
        description="What a later run into the same output looks for here: `all` keeps to the images that "
        "the first run listed; `new` lists again, and adds those that are not done yet, by URI and etag. An "
        "object that has changed is done again, as another image: `<id>@<digest>`.",
    )
    name: Name | None = Field(
        default=None,
        description="Put before each image's id (`name/path`); needed where two inputs hold images of the "
        "same path.",
    )

    @property
    def is_manifest(self) -> bool:
        """Whether `uri` is a table that lists the images."""
        return self.uri.endswith((".parquet", ".csv")) if self.manifest is None else self.manifest

    @model_validator(mode="after")
    def _manifest_settings(self) -> Self:
        if self.is_manifest:
            return self
        given = [key for key in ("columns", "id_column") if getattr(self, key)]
        if given:
            raise ValueError(
                f"{' and '.join(given)} belong to a manifest, but {self.uri} is read as a folder"
            )
        return self


class ModelSection(Section):
    """The weights, and how their detections are chosen. What is left out is as the weights were made."""

    weights: str = Field(
        default="demo",
        min_length=1,
        description="`demo` (comes with the project), a safetensors file, or its URI. A bucket is reached "
        "with the environment's endpoint and credentials, whatever `input` and `output` say of theirs.",
    )
    score_threshold: float | None = Field(
        default=None, ge=0, le=1, description="Instances whose score does not exceed it are left out."
    )
    class_thresholds: Mapping[str, Annotated[float, Field(ge=0, le=1)]] | None = Field(
        default=None,
        description="Another `score_threshold` for some classes, by name: `{leaf: 0.5, stone: 0.2}`.",
    )
    classes: Texts | None = Field(
        default=None,
        min_length=1,
        description="The only classes to look for, by name; others take no place in the limits below. "
        "Default: all.",
    )
    max_instances: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Most instances kept in one image, with tiling in one window; the best by score. "
        "`images.capped` tells where it was reached.",
    )
    nms_iou: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Of two boxes of a class that overlap by more than this IoU, the better stays.",
    )
    pre_nms_top_k: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Most candidates of each pyramid level that enter non-maximum suppression.",
    )

    def detect_overrides(self) -> dict[str, object]:
        """The detection settings that the spec states."""
        stated: dict[str, object] = self.model_dump(exclude={"weights"}, exclude_none=True)
        if self.classes is not None:
            stated["classes"] = tuple(sorted(set(self.classes)))
        return stated


class OutputSection(StoreSection):
    """Where the tables go. An output belongs to one job: a rerun continues it; other settings are refused,
    and another input without `mode: new`."""

    crs: str | None = Field(
        default=None,
        min_length=1,
        description="Coordinate reference system of the geometries, such as `EPSG:32635`. Needs `tiling`. "
        "Default: that of the rasters; longitude and latitude (`OGC:CRS84`) where they have several.",
    )


class ShardsSection(Section):
    """The unit of work: what is scheduled, retried, committed and resumed as one."""

    images: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Images (with `tiling`: windows) in a shard; frozen when the job first runs.",
    )


class TilingSection(Section):
    """Cuts rasters of any size, and very large photographs, into windows, and stitches what is found."""

    size: int = Field(
        default=1024,
        ge=64,
        le=16_384,
        description="Width and height of a window, in pixels; the next multiple of 32 pixels of the network's"
        " input, to which the network would pad it, is taken.",
    )
    overlap: int = Field(
        default=128,
        ge=0,
        le=8192,
        description="Pixels that neighbouring windows share, at least: all begin on multiples of 32 pixels "
        "of the network's input. Instances up to this size are seen whole by one of them; larger ones are "
        "put together from their parts. With 0 these stay parts, a row each.",
    )
    resolution: float | None = Field(
        default=None,
        gt=0,
        description="Metres on the ground of a pixel that is segmented; overviews are used where they serve. "
        "Default: the raster's own pixels.",
    )
    scale: float | None = Field(
        default=None,
        gt=0,
        le=16,
        description="Pixels of the network's input for each pixel of a window: never by the window's edges, "
        "so that all windows have one scale. The nearest at which 32 of them are whole pixels is taken: "
        "32/46 for 0.7. Default: the scale the weights were trained at, 1 where they state none.",
    )
    bands: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] | None = Field(
        default=None,
        description="The bands that are red, green and blue, or the one that is grey: `[4, 3, 2]`. Default: "
        "those declared so, else the first three, else the first.",
    )
    percentiles: Annotated[tuple[Percent, Percent], Field(strict=False)] = Field(
        default=(2.0, 98.0),
        description="Of the whole raster's samples: what becomes black and what white, where samples have "
        "more than 8 bits.",
    )
    stretch: bool = Field(default=False, description="Stretch 8-bit samples between the percentiles too.")
    deduplicate: Literal["within_rasters", "across_rasters"] = Field(
        default="within_rasters",
        description="`across_rasters` gives what several rasters that overlap on the ground show one row: of "
        "those planned together, so not of a later run's new ones and those of before (`input.mode: new`).",
    )

    norms: Literal["raster", "window"] = Field(
        default="raster",
        description="Whose means and variances the head's group norms take: the whole raster's, so that a "
        "thing is told alike in all windows that show it, or each window's own, as in training.",
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.overlap * 2 > self.size:
            raise ValueError(f"overlap {self.overlap} is more than half of size {self.size}")
        if self.bands is not None and len(self.bands) not in (1, 3):
            raise ValueError(f"bands must name one band or three, not {list(self.bands)}")
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError("percentiles must rise")
        return self


class BatchSection(Section):
    """How many images go through the model at once."""

    images: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto",
        description="Images of one padded shape in a batch, at most. `auto` is 8 without a GPU; with "
        "one it is 64 at most and so many pixels as fit its memory, tried on a worker when the job first "
        "runs and kept from then on. A number that is given for a GPU holds for images of any size.",
    )


class LimitsSection(Section):
    """What an input may be; a larger one ends `too_large`, and the rest goes on."""

    pixels: int = Field(
        default=200_000_000, ge=1, description="Most pixels; checked from the header before decoding."
    )
    bytes: int = Field(default=1_000_000_000, ge=1, description="Largest file; checked before it is fetched.")
    seconds: float = Field(
        default=120,
        ge=1,
        le=86_400,
        description="Longest that decoding one may take. One that takes longer ends its worker's process, "
        "and ends `failed` once it is found out. May change between runs.",
    )


Inputs = Annotated[
    tuple[InputSection, ...],
    BeforeValidator(listed),
    Field(strict=False, min_length=1, json_schema_extra=one_or_list),
]


def _check_max_failed(value: object) -> object:
    if isinstance(value, str):
        share = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%", value)
        if share and float(share[1]) <= 100:
            return value
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError("expected a share of the inputs such as 1% or 0.5%, or a number of inputs such as 100")


MaxFailed = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^[0-9]{1,3}(\.[0-9]{1,6})? ?%$")],
    BeforeValidator(_check_max_failed),
]


class SegmentSpec(JobSpec):
    """A segment job: images in, tables of instances and their masks out."""

    kind: Literal["segment"] = Field(description="What the job does.")
    name: Name = Field(description="The job's name: letters, digits, dots, dashes, underscores.")
    input: Inputs = Field(description="The images: one input, or a list of them.")
    model: ModelSection = Field(default=ModelSection(), description="The model.")
    output: OutputSection = Field(description="Where the tables go.")
    tiling: TilingSection | None = Field(
        default=None,
        description="Cut rasters into windows. Without it each image is segmented as a whole.",
    )
    shards: ShardsSection = Field(default=ShardsSection(), description="How the input is cut.")
    workers: WorkersSection = Field(default=WorkersSection(), description="Who does the work.")
    batch: BatchSection = Field(default=BatchSection(), description="How images are grouped for the model.")
    limits: LimitsSection = Field(default=LimitsSection(), description="What an input may be.")
    max_failed: MaxFailed | None = Field(
        default=None,
        description="How many of the planned inputs may end other than ok, empty or nodata: a share (`1%`) "
        "or a number. The job stops as soon as more have; run again with a higher value it goes on. With "
        "`tiling`, windows that end so count too, each as its share of all windows. Default: any number.",
    )
    decode: Literal["full", "scaled"] = Field(
        default="full",
        description="`scaled` decodes JPEGs that are at least twice as large as the network's input to a "
        "half, a quarter or an eighth of their size: faster, and not quite the same pixels "
        "([figures](benchmarks.md)). Not with `tiling`.",
    )
    precision: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        default="float32",
        description="Numbers the model computes in. `auto` is bfloat16 on GPU workers (float16 before "
        "compute capability 8: T4, V100) and where the processor multiplies it itself (AMX, AVX-512 BF16), "
        "float32 elsewhere; decided once, when the job first runs: by the type of `workers.accelerator`, "
        "else on a worker's GPU, without GPUs by the machine that plans. `float32` is so on GPUs too: TF32 "
        "is off.",
    )
    compile: bool = Field(
        default=False,
        description="Whether workers compile the model's convolutions (`torch.compile`), after some seconds "
        "to a minute for each padded size of images that a worker first meets: for long jobs of few sizes on "
        "GPUs, tiled ones above all; on processors it gains little ([figures](benchmarks.md)). Needs a C++ "
        "compiler where workers run, on GPUs Triton too; a size that does not compile, or compiled comes to "
        "something else, is computed as it is. On a GPU, what is done anew may then differ by rounding.",
    )

    @model_validator(mode="after")
    def _tiling_settings(self) -> Self:
        if self.tiling is not None:
            if self.decode != "full":
                raise ValueError("decode: scaled does not go with `tiling`: windows have one scale")
            return self
        if any(part.area is not None for part in self.input):
            raise ValueError("input.area needs a `tiling` section: it limits which windows are read")
        if self.output.crs is not None:
            raise ValueError("output.crs needs a `tiling` section: without it no geometries are written")
        return self
