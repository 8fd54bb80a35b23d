"""What an output says of its training, and whether a spec is the same training."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any, TypeVar

from condinst.config import DEMO, ModelConfig
from condinst.precision import quickest_precision
from jobs.conventions import JobSpec
from jobs.errors import Refused, naming
from jobs.report import versions
from jobs.resolve import absolute
from jobs.train_files import JOB_KEY, LAST_WEIGHTS, has, standing
from jobs.train_spec import ExamSection, SourceSection, TrainSpec
from pipeline.checkpoint_keys import FOLDER as CHECKPOINTS
from pipeline.ledger import JOB_KEY as SEGMENT_KEY
from pipeline.settings import difference
from pipeline.storage import Store

MEASURED_ON = "measured on"
"""Among the digests, that of the truth."""
_ACCESS = ("endpoint", "region", "profile", "anonymous", "requester_pays", "requests_per_second")
"""How a store is reached: may change from run to run."""
_FREE = (
    *("output", "workers", "threads", "decoders", "samples", "resources"),
    *(JobSpec.model_fields.keys() - {"kind", "name"}),
)
"""What says where, when, by whom and for how much, and changes no weight."""
_ONCE_OF_VAL = ("run", "min_score", "boxes_only", "weight")
"""What `data.val` could once say, and what changed nothing."""

AnySource = TypeVar("AnySource", SourceSection, ExamSection)


def placed(spec: TrainSpec) -> TrainSpec:
    """The spec with absolute places: workers run in other folders."""
    data, model = spec.data, spec.model
    val = None if data.val is None else _placed(data.val)
    train = tuple(map(_placed, data.train))
    weights = {
        key: absolute(value)
        for key in ("weights", "backbone_weights")
        if (value := getattr(model, key)) not in (None, DEMO)
    }
    output = spec.output.model_copy(update={"uri": absolute(spec.output.uri)})
    return spec.model_copy(
        update={
            "data": data.model_copy(update={"train": train, "val": val}),
            "model": model.model_copy(update=weights),
            "output": output,
        }
    )


def _placed(section: AnySource) -> AnySource:
    given = {key: getattr(section, key, None) for key in ("uri", "annotations", "run")}
    return section.model_copy(update={k: absolute(v) for k, v in given.items() if v is not None})


def settled(spec: TrainSpec, record: Mapping[str, Any] | None) -> TrainSpec:
    """The spec without `auto`: as the output's training has it, which another machine may go on with.

    `record` is the output's `train.json`, if there is one; otherwise the GPU's type decides where the spec
    says it (`resources.accelerator`), else this machine.
    """
    if spec.training.precision != "auto":
        return spec
    try:
        precision = (record or {})["settings"]["training"]["precision"]
    except (KeyError, TypeError):
        precision = quickest_precision(spec.device, spec.resources.accelerator)
    return spec.model_copy(update={"training": spec.training.model_copy(update={"precision": precision})})


def decisive(spec: TrainSpec, data: Mapping[str, object]) -> dict[str, object]:
    """All that makes a training what it is, as plain JSON values; `data` has digests of what it reads."""
    said: dict[str, Any] = spec.model_dump(mode="json", exclude=set(_FREE))
    sections = [*said["data"]["train"], said["data"]["val"]]
    for section in filter(None, sections):
        for name in _ACCESS:
            section.pop(name, None)
        if section.get("replaces") is False:
            del section["replaces"]  # as versions wrote it that knew no such key
    if said["augment"]["aspect"] == 1:
        del said["augment"]["aspect"]  # likewise
    del said["data"]["max_bad"]  # Raised, it lets the same training go on.
    said["data"]["train"] = {str(number): section for number, section in enumerate(said["data"]["train"])}
    return {**said, "digests": dict(data)}


def fingerprint(what: Mapping[str, object]) -> str:
    """sha256 (hex) over the canonical JSON."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def claim(
    store: Store, spec: TrainSpec, model: ModelConfig, data: Mapping[str, object], more: Mapping[str, object]
) -> bool:
    """Make the output this training's; whether it is new. Raises Refused where it holds another one.

    `data` has digests of what it reads, `more` what else the record is to say.
    """
    settings = decisive(spec, data)
    record = {
        "kind": spec.kind,
        "name": spec.name,
        "fingerprint": fingerprint(settings),
        "settings": settings,
        "spec": spec.model_dump(mode="json"),
        "model": model.model_dump(mode="json"),
        **more,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
    }
    if not standing(store):
        free_for_training(store)
    with naming("output.uri"):
        made = store.create(JOB_KEY, json.dumps(record, indent=2).encode())
    if made:
        return True
    _compare(store, standing(store) or {}, settings)
    return False


def free_for_training(store: Store) -> None:
    """Raise Refused where a segment job stands in an output that no training has claimed."""
    if has(store, SEGMENT_KEY):
        raise Refused(
            f"{store.uri} holds a segment job ({SEGMENT_KEY}), and one output belongs to one job; "
            "name another output"
        )


def refuse_other_training(store: Store, spec: TrainSpec, data: Mapping[str, object]) -> None:
    """Raise Refused, as a training would, when the output holds another one; `data` as for `claim`."""
    _compare(store, standing(store) or {}, decisive(spec, data))


def _compare(store: Store, record: Mapping[str, Any], settings: Mapping[str, object]) -> None:
    if record.get("fingerprint") == fingerprint(settings):
        return
    found = record.get("settings")
    # Of a version that took more for decisive.
    before: dict[str, Any] = (
        {k: v for k, v in found.items() if k not in _FREE} if isinstance(found, Mapping) else {}
    )
    data = before.get("data")
    if isinstance(data, dict) and isinstance(val := data.get("val"), dict):
        before["data"] = {**data, "val": {k: v for k, v in val.items() if k not in _ONCE_OF_VAL}}
    digests, now = before.get("digests"), settings["digests"]
    if isinstance(digests, dict) and isinstance(now, Mapping) and MEASURED_ON in now:
        # Of a version that did not note it.
        before["digests"] = {MEASURED_ON: now[MEASURED_ON], **digests}
    if before == settings:
        return
    differing = difference(before, settings) if before else []
    listed = "".join(f"\n  {line}" for line in differing) or "\n  (its settings are not recorded there)"
    more = ""
    if has(store, LAST_WEIGHTS):
        more = f" What it has learned so far is to start from: model.weights: {store.join(LAST_WEIGHTS)}"
    elif not any(True for _ in store.list(CHECKPOINTS)):
        more = f" It has kept nothing yet: without {store.join(JOB_KEY)} it begins anew."
    raise Refused(
        f"{store.uri} holds a training of another spec, and one output holds one training:{listed}\n"
        "Name another output, or go back to the settings on the left." + more
    )
