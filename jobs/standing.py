"""What stands in an output, and whether a spec may go on there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from jobs import structured, train_files
from jobs.errors import Refused
from jobs.resolve import resolved
from jobs.spec import SegmentSpec
from pipeline.keys import locate
from pipeline.ledger import FingerprintMismatch, Ledger
from pipeline.manifest import load_plans
from pipeline.plan import Plan, window_plans
from pipeline.settings import SegmentSettings, difference
from pipeline.storage import NotFound, Store
from pipeline.tiled.planning import open_windows

_CHOOSES = ("uri", "include", "exclude", "manifest", "uri_column", "id_column", "columns", "area", "name")
"""What of an input says which images those are; the rest is how they are reached."""


def standing_job(ledger: Ledger) -> dict[str, object] | None:
    """The output's `job.json`; None where no job ever ran."""
    try:
        return ledger.job()
    except NotFound:
        return None


def free_for_segmenting(store: Store) -> None:
    """Raise Refused where a training stands in an output that no segment job has claimed."""
    if train_files.has(store, train_files.JOB_KEY):
        raise Refused(
            f"{store.uri} holds a training ({train_files.JOB_KEY}), and one output belongs to one job; name "
            "another output"
        )


def refuse_other_job(
    store: Store, standing: Mapping[str, Any], spec: SegmentSpec, now: SegmentSettings
) -> None:
    """Raise FingerprintMismatch when the output's job ran with other settings, Refused for another input.

    An input of `mode: new` may be another one: it adds to what is there.
    """
    refuse_other_settings(store, standing, now)
    before = _chosen(standing.get("spec"))
    if not before or any(part.mode == "new" for part in spec.input):
        return
    differing = difference(before, _chosen(resolved(spec).model_dump(mode="json")))
    if differing and len(load_plans(store)) < 2:  # what was added once may be any of the inputs there
        listed = "".join(f"\n  {line}" for line in differing)
        raise Refused(
            f"{store.uri} was planned with another input, and its plan is frozen:{listed}\n"
            "Name another output for this input, or add it to what is there with `mode: new` beside its uri; "
            "to go on with what was planned, go back to what stands on the left." + _begun(store)
        )


def tell_unheeded(
    plans: Sequence[Plan], standing: Mapping[str, object], spec: SegmentSpec, console: Console
) -> None:
    """Say what of a spec, and of its input, frozen plans leave no room for."""
    frozen = (window_plans(plans) or plans)[0].shard_size
    if frozen != spec.shards.images:
        asked = f"{spec.shards.images:,} has no effect any more"
        structured.warn(console, f"shards.images: {asked}; the plan is frozen with {frozen:,}")
    if not any(part.mode == "new" for part in spec.input):
        when = f" at {standing['created']}" if "created" in standing and len(plans) == 1 else ""
        said = f"the input is as it was listed{when}; what came later is added with input.mode: new"
        console.print(said, highlight=False, markup=False, soft_wrap=True)


def refuse_other_settings(store: Store, standing: Mapping[str, object], settings: SegmentSettings) -> None:
    """Raise FingerprintMismatch, as a run would, when the output's job ran with other settings."""
    if standing["fingerprint"] != settings.fingerprint():
        before = standing.get("settings")
        known = before if isinstance(before, Mapping) else {}
        raise FingerprintMismatch(store.uri, difference(known, settings.row_settings()), _begun(store))


def _begun(store: Store) -> str:
    """What more can be done about an output in which nothing is committed yet."""
    if Ledger(store).revisions() or Ledger(open_windows(store)).revisions():
        return ""
    return f" Nothing is committed there yet: without {store.join('job.json')} and plans/ it begins anew."


def _chosen(spec: object) -> dict[str, object]:
    """What decides the images of a spec's inputs; nothing of what is no spec."""
    inputs = spec.get("input") if isinstance(spec, Mapping) else None
    if not isinstance(inputs, list):
        return {}
    return {
        f"input.{number}.{key}": value
        for number, part in enumerate(inputs)
        for key, value in _plainly(part).items()
        if key in _CHOOSES and value not in (None, [])
    }


def _plainly(part: Mapping[str, Any]) -> dict[str, Any]:
    """An input's keys, the same where they mean the same: places in one form, lists in one order."""
    said: dict[str, Any] = {k: sorted(v) if isinstance(v, list) else v for k, v in part.items()}
    for key in ("uri", "area"):
        if said.get(key):
            said[key] = locate(said[key]).uri.rstrip("/")
    if said.get("manifest") == str(said.get("uri")).endswith((".parquet", ".csv")):
        said["manifest"] = None  # it is what it would be taken for
    return said
