"""`condinst weights convert`: says what it found in a checkpoint, and writes it in our form."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rich.console import Console

from condinst import weights, weightsfile
from condinst.checkpoint import Checkpoint, read_checkpoint
from condinst.coco_classes import COCO_CLASSES
from condinst.config import BackboneConfig
from condinst.convert import Converted, convert
from condinst.convert_backbone import ConvertedBackbone, Recipe, convert_backbone, is_backbone_alone
from condinst.weightsfile import is_ours
from jobs.class_names import read_class_names
from jobs.errors import JobError, naming
from jobs.show_weights import print_rows
from pipeline.nouns import many

_FLAVOURS = {"adelaidet": "AdelaiDet", "mmdetection": "mmdetection"}
_MOST_NAMES = 12


def convert_file(
    source: Path,
    target: Path,
    classes: Path | None = None,
    part: Literal["model", "backbone"] | None = None,
    recipe: Recipe | None = None,
    console: Console | None = None,
) -> None:
    """Convert the checkpoint `source` and write `target`, whole or not at all; prints what was found.

    Without `part`, a file that has neither pyramid nor head is taken as a backbone. Raises WeightsError for a
    checkpoint that does not fit, JobError for arguments that do not.
    """
    _check_paths(source, target)
    checkpoint = read_checkpoint(source)
    alone = is_backbone_alone(checkpoint.tensors)
    part = part or ("backbone" if alone else "model")
    if part == "model" and alone:
        raise JobError(f"--as model: {source} holds a backbone alone, neither pyramid nor head")
    if part == "backbone" and classes is not None:
        raise JobError(f"--classes: {source} is taken as a backbone, which has no classes")
    if part == "model" and recipe is not None:
        raise JobError(f"--recipe: {source} is taken as a whole model, whose keys tell how it was trained")
    with naming(source):
        rows = (
            _backbone(checkpoint, source, target, recipe)
            if part == "backbone"
            else _model(checkpoint, source, target, read_class_names(classes) if classes else None)
        )
    print_rows(rows, console)


def _check_paths(source: Path, target: Path) -> None:
    if os.path.isfile(source) and is_ours(source):
        raise JobError(
            f"{source}: a weights file of this project already; `condinst weights show` tells more"
        )
    if not target.absolute().parent.is_dir():
        raise JobError(f"{target}: there is no folder {target.absolute().parent}")
    if target.exists() and source.exists() and target.samefile(source):
        raise JobError(f"{target}: is the checkpoint itself; name another file to write")


def _model(
    checkpoint: Checkpoint, source: Path, target: Path, names: Sequence[str] | None
) -> list[tuple[str, str]]:
    converted = convert(checkpoint.tensors, names or checkpoint.classes)
    notes = {"converted_from": f"{source.name} ({_FLAVOURS[converted.flavour]})"}
    with replacing(target) as partial:
        weights.save(converted.model, partial, notes=notes)
    config = converted.model.config
    parameters = f"{weights.num_parameters(config):,} parameters"
    return [
        ("found", _found(converted)),
        ("classes", f"{_listed(config.classes)} ({_origin(config.classes, names, checkpoint)})"),
        ("ignored", ignored_words(converted.ignored)),
        ("wrote", f"{target} ({parameters}, sha256 {weightsfile.digest(target)})"),
    ]


def _found(converted: Converted) -> str:
    config = converted.model.config
    semantic = "with a semantic head" if config.mask.semantic else "no semantic head"
    return (
        f"{_FLAVOURS[converted.flavour]} CondInst on {backbone_words(config.backbone)}, "
        f"{many(len(config.classes), 'class')}, {config.mask.num_parameters} mask parameters an instance, "
        f"{semantic}"
    )


def _origin(classes: Sequence[str], names: Sequence[str] | None, checkpoint: Checkpoint) -> str:
    if names is not None:
        return "as given"
    if checkpoint.classes is not None:
        return "as the checkpoint names them"
    return "COCO's names" if tuple(classes) == COCO_CLASSES else "no names known; give them with --classes"


def _backbone(
    checkpoint: Checkpoint, source: Path, target: Path, recipe: Recipe | None
) -> list[tuple[str, str]]:
    converted = convert_backbone(checkpoint.tensors, recipe)
    notes = {"converted_from": f"{source.name} ({converted.naming} keys)"}
    with replacing(target) as partial:
        weights.save_backbone(converted.state, converted.file, partial, notes=notes)
    image = converted.file.input
    return [
        ("found", _found_backbone(converted)),
        ("input", f"{image.channel_order}, mean {image.mean}, std {image.std}"),
        ("ignored", ignored_words(converted.ignored)),
        ("wrote", f"{target} (sha256 {weightsfile.digest(target)})"),
    ]


def _found_backbone(converted: ConvertedBackbone) -> str:
    norms = (
        "; its norms scale and shift only, taken as batch norms whose statistics are folded in"
        if converted.affine_only
        else ""
    )
    return f"{backbone_words(converted.file.backbone)} in {converted.naming}'s naming{norms}"


def backbone_words(config: BackboneConfig) -> str:
    """`ResNet-50 (stride in the first 1x1)`."""
    if config.depth < 50:
        return f"ResNet-{config.depth}"
    return f"ResNet-{config.depth} (stride in the {'first 1x1' if config.stride_in_1x1 else '3x3'})"


def ignored_words(keys: Sequence[str]) -> str:
    """The keys that were left out, in words; batch counters, one a norm, are counted only."""
    named = [key for key in keys if not key.endswith("num_batches_tracked")]
    counters = len(keys) - len(named)
    parts = [f"{many(len(named), 'key')} that the model does not need: {_listed(named)}"] if named else []
    return "; ".join(parts + ([many(counters, "batch counter")] if counters else [])) or "nothing"


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path to write to; it becomes `target` in one step when the block ends well, else it goes."""
    try:
        descriptor, name = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}.")
    except OSError as error:
        raise JobError(f"{target}: cannot be written: {error.strerror}") from None
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
