"""From a checked spec to what the pipeline runs on: stores, inputs, the model's identity, settings."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from condinst.config import DEMO, DetectConfig, FixedScale, ModelConfig
from jobs.errors import JobError, naming
from jobs.quantities import size
from jobs.spec import InputSection, SegmentSpec, StoreSection
from pipeline.decode import DecodeLimits
from pipeline.keys import locate
from pipeline.manifest import InputSource
from pipeline.models import resolved as resolved_weights
from pipeline.settings import ANY_PIXELS, AUTO, BATCH_IMAGES, BATCH_PIXELS, SegmentSettings
from pipeline.storage import Store, StoreOptions
from pipeline.tiled.settings import Tiling


def spec_of(job: Mapping[str, object], store: Store) -> SegmentSpec:
    """The spec that an output's job ran with. Raises JobError when `job.json` does not hold one."""
    try:
        return SegmentSpec.model_validate(job.get("spec"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "spec"
        raise JobError(
            f"{store.join('job.json')}: the spec in it cannot be used ({where}: {first['msg']}); give the "
            "job's spec file instead of its output"
        ) from None


def options_of(section: StoreSection, workers: int = 1) -> StoreOptions:
    """How the section's store is reached by each of so many workers, who share what it may be asked."""
    pace = section.requests_per_second
    return StoreOptions(
        endpoint=section.endpoint,
        region=section.region,
        profile=section.profile,
        anonymous=section.anonymous,
        requester_pays=section.requester_pays,
        requests_per_second=None if pace is None else pace / workers,
    )


def open_output(spec: SegmentSpec) -> Store:
    """The output's store; nothing is asked of it yet. Raises StoreError for a URI that names no place."""
    return Store.open(spec.output.uri, options_of(spec.output))


def require_device(settings: SegmentSettings, remedy: str) -> None:
    """Raise JobError where this process is to run a job's model on a GPU, and there is none."""
    if settings.device == "cuda":
        from jobs.device import require_cuda  # loads torch, which who hands out work needs not

        require_cuda("workers.gpus", remedy)


def settings_of(spec: SegmentSpec, standing: Mapping[str, object] | None = None) -> SegmentSettings:
    """The settings of a spec's workers: absolute places, the weights' digest, no `auto` but a GPU's own.

    `standing` is the output's job, whose decision on `auto` stays. Until it has run, what only a worker's GPU
    can decide is left open (`SegmentSettings.undecided`). Raises WeightsError or StoreError when the
    weights cannot be had, JobError for a class that they do not have.
    """
    # A version of its own, so that a promotion meanwhile changes no job at work.
    weights = spec.model.weights
    weights = DEMO if weights == DEMO else resolved_weights(absolute(weights), StoreOptions())
    model_digest, config = identify(weights)
    own = config.detect.model_dump()
    stated = spec.model.detect_overrides()
    try:
        detect = DetectConfig.model_validate({**own, **stated})
        threshold = detect.highest_threshold(config.classes)
    except ValueError as error:
        raise JobError(f"model: {error}") from None
    images, pixels = _batch(spec, standing)
    return SegmentSettings(
        output=locate(spec.output.uri).uri,
        output_options=options_of(spec.output, spec.workers.most),
        sources=tuple(source_of(section, spec.workers.most) for section in spec.input),
        weights=weights,
        model_digest=model_digest,
        precision=_precision(spec, standing),
        decode=spec.decode,
        compile=spec.compile,
        # What only repeats the weights' own setting changes no row, so it is no reason to refuse a rerun.
        detect={key: value for key, value in stated.items() if value != own[key]},
        score_threshold=threshold,
        batch_images=images,
        batch_pixels=pixels,
        limits=DecodeLimits(spec.limits.pixels, spec.limits.bytes, spec.limits.seconds),
        cpus=spec.workers.cpus,
        gpus=spec.workers.gpus,
        tiling=tiling_of(spec, config),
        memory=size(spec.workers.memory) if spec.workers.memory else 0,
        accelerator=spec.workers.accelerator,
        env=spec.env,
    )


def tiling_of(spec: SegmentSpec, config: ModelConfig) -> Tiling | None:
    """How the spec's rasters are cut. Raises JobError for a CRS that is none."""
    section, resize = spec.tiling, config.input.resize
    if section is None:
        return None
    own = resize.scale if isinstance(resize, FixedScale) else 1.0
    tiling = Tiling(
        size=section.size,
        overlap=section.overlap,
        scale=own if section.scale is None else section.scale,
        resolution=section.resolution,
        bands=section.bands,
        percentiles=section.percentiles,
        stretch=section.stretch,
        across_rasters=section.deduplicate == "across_rasters",
        norms=section.norms,
        crs=None if spec.output.crs is None else _crs(spec.output.crs),
    )
    return tiling.on_grid()


def _crs(given: str) -> str:
    from pipeline.geo.georef import crs_name

    try:
        return crs_name(given)
    except ValueError as error:
        raise JobError(f"output.crs: {error}") from None


def resolved(spec: SegmentSpec) -> SegmentSpec:
    """The spec with absolute places: it means the same in any folder of this machine."""
    weights = spec.model.weights if spec.model.weights == DEMO else absolute(spec.model.weights)
    return spec.model_copy(
        update={
            "input": tuple(_placed(part) for part in spec.input),
            "model": spec.model.model_copy(update={"weights": weights}),
            "output": spec.output.model_copy(update={"uri": locate(spec.output.uri).uri}),
        }
    )


def _placed(section: InputSection) -> InputSection:
    area = None if section.area is None else absolute(section.area)
    return section.model_copy(update={"uri": absolute(section.uri), "area": area})


def source_of(section: InputSection, workers: int = 1) -> InputSource:
    """One input as the manifest and each of so many workers read it, its place absolute."""
    return InputSource(
        uri=absolute(section.uri),
        include=section.include,
        exclude=section.exclude,
        manifest=section.is_manifest,
        uri_column=section.uri_column,
        id_column=section.id_column,
        columns=section.columns,
        options=options_of(section, workers),
        area=None if section.area is None else absolute(section.area),
        name=section.name,
        new=section.mode == "new",
    )


def identify(weights: str) -> tuple[str, ModelConfig]:
    """sha256 and configuration of the weights that a path, `demo` or a URI names.

    Raises WeightsError for a file that is not there or none of ours, ModelsError, StoreError.
    """
    from condinst.weightsfile import digest, read_config
    from pipeline.weights import fetch_weights

    with tempfile.TemporaryDirectory(prefix="condinst-") as folder, naming("model.weights"):
        path = fetch_weights(weights, StoreOptions(), Path(folder))
        return digest(path), read_config(path)


def absolute(uri: str) -> str:
    """A URI as it is; a path made absolute, since workers run in other folders."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def _batch(spec: SegmentSpec, standing: Mapping[str, object] | None) -> tuple[int, int]:
    """Most images and pixels of a batch; of `auto` on a GPU 0 images until the job has run."""
    stated, on_gpu = spec.batch.images, spec.workers.gpus > 0
    settings = (standing or {}).get("settings")
    if isinstance(settings, Mapping) and "batch_images" in settings:
        ran = int(settings["batch_images"]), int(settings["batch_pixels"])
        if stated in ("auto", ran[0]):
            return ran
    if stated != "auto":
        # On a GPU whoever states a number knows what fits it; a CPU's bound would cut large images' batches.
        return stated, ANY_PIXELS if on_gpu else BATCH_PIXELS
    return (0 if on_gpu else BATCH_IMAGES), BATCH_PIXELS


def _precision(spec: SegmentSpec, standing: Mapping[str, object] | None) -> str:
    if spec.precision != "auto":
        return spec.precision
    settings = (standing or {}).get("settings")
    if isinstance(settings, Mapping) and "precision" in settings:
        return str(settings["precision"])
    if spec.workers.gpus > 0 and spec.workers.accelerator is None:
        return AUTO  # this machine may have no GPU, or another one
    from condinst.precision import quickest_precision

    return quickest_precision("cuda" if spec.workers.gpus > 0 else "cpu", spec.workers.accelerator)
