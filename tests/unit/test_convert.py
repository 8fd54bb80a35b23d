"""`condinst weights convert` and `show`: what is said, what is written, what is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from parity import FOLDER, sets
from rich.console import Console
from safetensors.torch import save_file

import condinst
from condinst import weights, weightsfile
from condinst.checkpoint import read_checkpoint
from condinst.coco_classes import COCO_CLASSES
from condinst.config import ModelConfig
from condinst.convert import convert
from condinst.weightsfile import WeightsError
from jobs.class_names import read_class_names
from jobs.convert_weights import convert_file
from jobs.errors import JobError
from jobs.show_weights import describe
from tests.tiny import tiny_weights


def said(source: Path, target: Path, *arguments) -> str:
    console = Console(file=io.StringIO(), width=300)
    convert_file(source, target, *arguments, console=console)
    return console.file.getvalue()


def zeros(layout: Path) -> dict[str, torch.Tensor]:
    """A checkpoint of a published layout, filled with zeros."""
    return {k: torch.zeros(shape) for k, (shape, _) in json.loads(layout.read_text()).items()}


@pytest.fixture(scope="module", params=sets("*tiny*.pth"))
def checkpoint(request) -> Path:
    return request.param


def test_what_is_written_is_the_model_and_what_was_found_is_said(tmp_path: Path, checkpoint: Path) -> None:
    target = tmp_path / "out.safetensors"
    text = said(checkpoint, target)
    direct = convert(read_checkpoint(checkpoint).tensors).model.eval()
    loaded = weights.load_for_training(target).eval()
    assert loaded.config == direct.config
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.dense(x).mask_features, direct.dense(x).mask_features)
    assert ("mmdetection" if "mmdet" in checkpoint.name else "AdelaiDet") in text
    assert "ResNet-50" in text
    assert f"{len(direct.config.classes)} classes" in text
    assert f"sha256 {weightsfile.digest(target)}" in text
    assert ("with a semantic head" in text) == direct.config.mask.semantic
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path, checkpoint: Path) -> None:
    digests = set()
    for number in range(4):
        said(checkpoint, tmp_path / f"{number}.safetensors")
        digests.add(weightsfile.digest(tmp_path / f"{number}.safetensors"))
    assert len(digests) == 1


@pytest.mark.parametrize("layout", sets("*_keys_[Cc]ond*.json"))
def test_a_published_layout_has_cocos_names_and_parameters(tmp_path: Path, layout: Path) -> None:
    converted = convert(zeros(layout))
    assert converted.model.config.classes == COCO_CLASSES
    plain = "R_101" not in layout.name and not converted.model.config.mask.semantic
    if plain and converted.flavour == "adelaidet":
        assert weights.num_parameters(converted.model.config) == 34_111_179
        weights.save(converted.model, tmp_path / "w.safetensors")
        assert describe(str(tmp_path / "w.safetensors"))["parameters"] == 34_111_179


def test_parameters_are_the_models_without_frozen_norms() -> None:
    config = ModelConfig(classes=COCO_CLASSES)
    assert weights.num_parameters(config) == 34_111_179
    trainable = config.model_copy(update={"backbone": config.backbone.model_copy(update={"norm": "batch"})})
    assert weights.num_parameters(trainable) == 34_111_179 + 2 * 26_560


def test_class_names_come_from_the_user_or_from_the_checkpoint(tmp_path: Path) -> None:
    source = FOLDER / "mmdet_tiny_dev.pth"
    if not source.is_file():
        pytest.skip(f"no {source.name} in {FOLDER} (set PARITY_DIR)")
    tensors = read_checkpoint(source).tensors
    count = len(convert(tensors).model.config.classes)
    own = tuple(f"own {n}" for n in range(count))
    names = tmp_path / "names.txt"
    names.write_text("\n".join(own) + "\n\n")
    said(source, tmp_path / "a.safetensors", names)
    assert weightsfile.read_config(tmp_path / "a.safetensors").classes == own
    meta = {"dataset_meta": {"classes": tuple(f"theirs {n}" for n in range(count))}}
    torch.save({"meta": meta, "state_dict": tensors}, tmp_path / "with-names.pth")
    assert "as the checkpoint names them" in said(tmp_path / "with-names.pth", tmp_path / "b.safetensors")
    assert weightsfile.read_config(tmp_path / "b.safetensors").classes[0] == "theirs 0"
    names.write_text("one\ntwo\n")
    with pytest.raises(WeightsError, match=rf"with-names\.pth: 2 class names .* of {count} classes"):
        said(tmp_path / "with-names.pth", tmp_path / "c.safetensors", names)
    assert not (tmp_path / "c.safetensors").exists()


def test_names_of_a_coco_json_are_in_the_order_of_their_ids(tmp_path: Path) -> None:
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"categories": [{"id": 7, "name": "b"}, {"id": 2, "name": "a"}]}))
    assert read_class_names(file) == ("a", "b")
    for text, message in (
        ('{"images": []}', "no `categories`"),
        ("\n \n", "holds no names"),
        ("a\nb\na\n", "names 'a' twice"),
    ):
        file.write_text(text)
        with pytest.raises(JobError, match=message):
            read_class_names(file)
    with pytest.raises(JobError, match="cannot be read"):
        read_class_names(tmp_path / "none.txt")


def test_a_constant_among_the_weights_is_taken_over() -> None:
    if not (source := FOLDER / "tiny_dev.pth").is_file():
        pytest.skip(f"no {source.name} in {FOLDER} (set PARITY_DIR)")
    tensors = read_checkpoint(source).tensors
    sizes = torch.tensor([32, 64, 128, 256, 512])
    mask = convert({**tensors, "mask_head.sizes_of_interest": sizes}).model.config.mask
    assert mask.sizes_of_interest == (32, 64, 128, 256, 512)
    del tensors["mask_head.sizes_of_interest"]
    assert convert(tensors).model.config.mask.sizes_of_interest == (64, 128, 256, 512, 1024)


def test_backbones_are_told_from_models(tmp_path: Path) -> None:
    if not (source := FOLDER / "mmdet_tiny_dev.pth").is_file():
        pytest.skip(f"no {source.name} in {FOLDER} (set PARITY_DIR)")
    tensors = read_checkpoint(source).tensors
    bare = {k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")}
    torch.save(bare, tmp_path / "resnet.pth")
    save_file({k: v.contiguous() for k, v in bare.items()}, tmp_path / "resnet.safetensors")
    outputs = [tmp_path / f"{n}.out" for n in range(3)]
    text = said(tmp_path / "resnet.pth", outputs[0])
    said(tmp_path / "resnet.safetensors", outputs[1])
    said(source, outputs[2], None, "backbone")
    assert "ResNet-50 (stride in the 3x3) in torchvision's naming" in text
    states = [torch.cat([v.flatten() for v in _tensors(path).values()]) for path in outputs]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])
    described = describe(str(outputs[0]))
    assert described["kind"] == "backbone"
    assert described["config"]["input"]["channel_order"] == "rgb"
    with pytest.raises(JobError, match="a backbone, which has no classes"):
        said(tmp_path / "resnet.pth", outputs[0], tmp_path / "names.txt")
    with pytest.raises(JobError, match="--recipe"):
        said(source, outputs[0], None, None, "caffe")
    with pytest.raises(JobError, match="holds a backbone alone"):
        said(tmp_path / "resnet.pth", outputs[0], None, "model")


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(sorted(load_file(path).items()))


class _Attack:
    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_hostile_checkpoints_are_refused_without_effect(tmp_path: Path) -> None:
    ran, out = tmp_path / "ran", tmp_path / "out.safetensors"
    pickled = tmp_path / "R-50.pkl"
    pickled.write_bytes(pickle.dumps({"model": _Attack(ran)}))
    evil = tmp_path / "evil.pth"
    torch.save({"model": {"controller.weight": torch.ones(3)}, "hook": _Attack(ran)}, evil)
    wide = tmp_path / "wide.pth"
    torch.save({"controller.weight": torch.ones(1).expand(50_000, 50_000)}, wide)
    claims = tmp_path / "claims.safetensors"
    header = b'{"a":{"dtype":"F32","shape":[2500000000],"data_offsets":[0,10000000000]}}'
    claims.write_bytes(len(header).to_bytes(8, "little") + header)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(evil.read_bytes()[:-100])
    for path, message in (
        (pickled, "a pickle, which runs code"),
        (evil, "without running code from it"),
        (wide, "not a plain tensor"),
        (claims, "not a readable safetensors"),
        (cut, "without running code from it"),
    ):
        with pytest.raises(WeightsError, match=message):
            said(path, out)
    assert not ran.exists()
    assert not out.exists()


@pytest.mark.parametrize("layout", sets("adet_keys_CondInst_MS_R_50_1x.json"))
def test_sizes_that_no_model_has_are_refused_before_they_are_allocated(layout: Path) -> None:
    shapes = {k: tuple(v.shape) for k, v in zeros(layout).items()}
    huge = {k: torch.empty([s * 16 for s in shape], device="meta") for k, shape in shapes.items()}
    with pytest.raises(WeightsError, match=r"no network of 3 layers|supported size|another shape"):
        convert(huge)
    none = {k: torch.zeros([0] * len(shape)) for k, shape in shapes.items()}
    with pytest.raises(WeightsError, match="supported size"):
        convert(none)
    crowd = zeros(layout)
    crowd["proposal_generator.fcos_head.cls_logits.weight"] = torch.zeros(10**9, 0, 3, 3)
    with pytest.raises(WeightsError, match="1000000000 classes"):
        convert(crowd)


def test_arguments_that_cannot_work_are_told(tmp_path: Path) -> None:
    ours = tiny_weights(tmp_path)
    with pytest.raises(JobError, match="of this project already"):
        said(ours, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="no such checkpoint"):
        said(tmp_path / "none.pth", tmp_path / "x.safetensors")
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(JobError, match="there is no folder"):
        said(tmp_path / "a.pth", tmp_path / "nowhere" / "x.safetensors")
    with pytest.raises(JobError, match="is the checkpoint itself"):
        said(tmp_path / "a.pth", tmp_path / "a.pth")


def test_show_says_everything(tmp_path: Path) -> None:
    path = tiny_weights(tmp_path)
    model = condinst.weights.load_for_training(path)
    weights.save(model, tmp_path / "half.safetensors", dtype=torch.float16, notes={"trained_on": "fields"})
    described = describe(str(tmp_path / "half.safetensors"))
    assert ModelConfig.model_validate(described["config"]) == model.config
    assert described["sha256"] == weightsfile.digest(tmp_path / "half.safetensors")
    assert described["notes"] == {"trained_on": "fields"}
    assert described["dtype"] == {"F16": described["tensors"]}
    assert json.loads(json.dumps(described)) == described
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="condinst weights convert"):
        describe(str(tmp_path / "other.safetensors"))
