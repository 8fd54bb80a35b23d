"""From a checked spec to what the pipeline runs on: stores, inputs, the model's identity, settings."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from condinst.config import DetectConfig, ModelConfig
from condinst.weights import DEMO, digest, read_config
from jobs.errors import JobError
from jobs.spec import InputSection, SegmentSpec, StoreSection
from pipeline.decode import DecodeLimits
from pipeline.keys import locate
from pipeline.ledger import FingerprintMismatch, Ledger
from pipeline.manifest import InputSource
from pipeline.models import resolved as resolved_weights
from pipeline.settings import SegmentSettings, difference
from pipeline.storage import NotFound, Store, StoreOptions
from pipeline.weights import fetch_weights


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


def standing_job(ledger: Ledger) -> dict[str, object] | None:
    """The output's `job.json`; None where no job ever ran."""
    try:
        return ledger.job()
    except NotFound:
        return None


def refuse_other_settings(store: Store, standing: Mapping[str, object], settings: SegmentSettings) -> None:
    """Raise FingerprintMismatch, as a run would, when the output's job ran with other settings."""
    if standing["fingerprint"] != settings.fingerprint():
        before = standing.get("settings")
        known = before if isinstance(before, Mapping) else {}
        raise FingerprintMismatch(store.uri, difference(known, settings.row_settings()))


def settings_of(spec: SegmentSpec, standing: Mapping[str, object] | None = None) -> SegmentSettings:
    """The settings of a spec's workers: absolute places, the weights' digest, no `auto`.

    `standing` is the output's job, whose decision on `auto` stays. Raises WeightsError or StoreError when the
    weights cannot be had, JobError for a class that they do not have.
    """
    # A version of its own, so that a promotion meanwhile changes no job at work.
    weights = spec.model.weights
    weights = DEMO if weights == DEMO else resolved_weights(absolute(weights), StoreOptions())
    model_digest, config = identify(weights)
    own = config.detect.model_dump()
    stated = spec.model.detect_overrides()
    try:
        DetectConfig.model_validate({**own, **stated}).thresholds(config.classes)
    except ValueError as error:
        raise JobError(f"model: {error}") from None
    return SegmentSettings(
        output=locate(spec.output.uri).uri,
        output_options=options_of(spec.output, spec.workers.count),
        sources=tuple(source_of(section, spec.workers.count) for section in spec.input),
        weights=weights,
        model_digest=model_digest,
        precision=_precision(spec, standing),
        # What only repeats the weights' own setting changes no row, so it is no reason to refuse a rerun.
        detect={key: value for key, value in stated.items() if value != own[key]},
        batch_images=spec.batch.images,
        limits=DecodeLimits(spec.limits.pixels, spec.limits.bytes, spec.limits.seconds),
        cpus=spec.workers.cpus,
        gpus=spec.workers.gpus,
    )


def resolved(spec: SegmentSpec) -> SegmentSpec:
    """The spec with absolute places: it means the same in any folder of this machine."""
    weights = spec.model.weights if spec.model.weights == DEMO else absolute(spec.model.weights)
    return spec.model_copy(
        update={
            "input": tuple(part.model_copy(update={"uri": absolute(part.uri)}) for part in spec.input),
            "model": spec.model.model_copy(update={"weights": weights}),
            "output": spec.output.model_copy(update={"uri": locate(spec.output.uri).uri}),
        }
    )


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
        name=section.name,
    )


def identify(weights: str) -> tuple[str, ModelConfig]:
    """sha256 and configuration of the weights that a path, `demo` or a URI names.

    Raises WeightsError for a file that is none of ours, JobError or StoreError when it cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
        try:
            path = fetch_weights(weights, StoreOptions(), Path(folder))
        except NotFound as error:
            raise JobError(f"model.weights: {error}") from None
        return digest(path), read_config(path)


def absolute(uri: str) -> str:
    """A URI as it is; a path made absolute, since workers run in other folders."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def _precision(spec: SegmentSpec, standing: Mapping[str, object] | None) -> str:
    if spec.precision != "auto":
        return spec.precision
    settings = (standing or {}).get("settings")
    if isinstance(settings, Mapping) and "precision" in settings:
        return str(settings["precision"])
    return "bfloat16" if spec.workers.gpus > 0 else "float32"
