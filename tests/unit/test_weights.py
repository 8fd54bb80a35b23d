"""Weights files: what is written is what is read, and hostile ones are refused without effect."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import condinst
from condinst import weights, weightsfile
from condinst.checkpoint import read_checkpoint
from condinst.config import (
    BackboneConfig,
    FixedScale,
    FpnConfig,
    HeadConfig,
    InputConfig,
    MaskConfig,
    ModelConfig,
)
from condinst.convert import convert
from condinst.weightsfile import MODEL, WeightsError


def small(depth: int = 18, norm: str = "batch") -> condinst.CondInst:
    torch.manual_seed(0)
    return condinst.CondInst(
        ModelConfig(
            classes=("leaf", "tree"),
            backbone=BackboneConfig.model_validate(
                {"depth": depth, "stem_channels": 8, "width": 8, "norm": norm}
            ),
            fpn=FpnConfig(channels=16),
            head=HeadConfig(num_convs=1, groups=4),
            mask=MaskConfig(branch_channels=8, branch_convs=1),
            input=InputConfig(resize=FixedScale()),
        )
    )


@pytest.mark.parametrize("norm", ["batch", "frozen_batch", "group"])
@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_round_trip(tmp_path: Path, depth: int, norm: str) -> None:
    model = small(depth, norm).eval()
    path = tmp_path / "w.safetensors"
    weights.save(model, path, notes={"trained_on": "nothing"})
    loaded = weights.load_for_training(path).eval()
    assert loaded.config == model.config
    assert weightsfile.read_config(path) == model.config
    assert weightsfile.read_notes(path) == {"trained_on": "nothing"}
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.dense(x).mask_features, model.dense(x).mask_features)
        folded = condinst.load(path).dense(x)
    torch.testing.assert_close(folded.mask_features, model.dense(x).mask_features, atol=1e-4, rtol=1e-3)


def test_digest_is_of_the_bytes(tmp_path: Path) -> None:
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    weights.save(small(), a)
    b.write_bytes(a.read_bytes())
    assert weightsfile.digest(a) == weightsfile.digest(b)
    b.write_bytes(a.read_bytes() + b" ")
    assert weightsfile.digest(a) != weightsfile.digest(b)


def metadata() -> dict[str, str]:
    return {"format": MODEL, "config": small().config.model_dump_json()}


def state() -> dict[str, torch.Tensor]:
    return {k: v for k, v in small().state_dict().items() if "num_batches" not in k}


def written(path: Path, tensors: dict[str, torch.Tensor], meta: dict[str, str]) -> Path:
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(path), meta)
    return path


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        condinst.load(tmp_path / "none.safetensors")


def test_wrong_shape_missing_and_extra_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match=r"head\.scales has shape \(4,\), expected \(5,\)"):
        condinst.load(written(path, state() | {"head.scales": torch.ones(4)}, metadata()))
    with pytest.raises(WeightsError, match=r"missing, fpn\.p6\.bias first"):
        condinst.load(written(path, {k: v for k, v in state().items() if k != "fpn.p6.bias"}, metadata()))
    with pytest.raises(WeightsError, match="no place, surprise first"):
        condinst.load(written(path, state() | {"surprise": torch.ones(1)}, metadata()))


def test_foreign_and_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    weights.save(small(), path)
    data = path.read_bytes()
    for broken in (
        b"",
        data[:7],
        data[:300],
        data[:-10],
        struct.pack("<Q", 10 * 2**30) + data[8:],
        b"x" * 4096,
    ):
        path.write_bytes(broken)
        with pytest.raises(WeightsError, match="not a readable safetensors"):
            condinst.load(path)
    with pytest.raises(WeightsError, match="not one of ours"):
        condinst.load(written(path, state(), {"format": "pt"}))
    with pytest.raises(WeightsError, match="not JSON"):
        condinst.load(written(path, state(), {"format": MODEL, "config": "{"}))


def test_ten_claimed_gigabytes_are_refused_before_they_are_allocated(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    header = json.dumps(
        {
            "__metadata__": metadata(),
            "head.scales": {"dtype": "F32", "shape": [2_500_000_000], "data_offsets": [0, 10_000_000_000]},
        }
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(WeightsError):
        condinst.load(path)
    huge = small().config.model_dump()
    huge["backbone"]["width"] = 10**9
    with pytest.raises(WeightsError, match=r"backbone\.width"):
        condinst.load(written(path, state(), {"format": MODEL, "config": json.dumps(huge)}))
    wide = small().config.model_dump()
    wide["backbone"]["width"] = 4096
    with pytest.raises(WeightsError, match="does not fit its own configuration"):
        condinst.load(written(path, state(), {"format": MODEL, "config": json.dumps(wide)}))


class _Attack:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_pickle_that_would_run_code_is_refused_without_effect(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    path = tmp_path / "w.pth"
    torch.save({"model": _Attack(str(target))}, path)
    with pytest.raises(WeightsError, match="without running code"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(_Attack(str(target))))
    with pytest.raises(WeightsError, match="without running code"):
        read_checkpoint(path)
    assert not target.exists()


class _Harmless:
    pass


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        (b"just some notes\n", "it looks like text; name the"),
        (b"\xff\xd8\xff\xe0" + bytes(60), "it looks like a JPEG image; name the"),
        (bytes(60), "it looks like something else; name the"),
        (b"", "it is empty; name the"),
        (b"PK\3\4" + bytes(60), "it looks like one that is damaged, or like another archive"),
        (pickle.dumps(_Harmless()), "it looks like a pickle.*where you trust the file"),
        (_Harmless(), "it holds an object of .*_Harmless; where you trust the file"),
    ],
)
def test_what_is_no_checkpoint_is_told_in_our_words(tmp_path: Path, data: object, looks: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(data) if isinstance(data, bytes) else torch.save({"model": data}, path)
    with pytest.raises(WeightsError, match=looks) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: not a checkpoint of tensors alone")
    assert "weights_only" not in str(caught.value)


def test_half_a_model_is_refused_and_named() -> None:
    with pytest.raises(WeightsError, match=r"surprise\.weight"):
        convert({"surprise.weight": torch.ones(1), "controller.weight": torch.ones(169, 8, 3, 3)})
    with pytest.raises(WeightsError, match="not a whole CondInst"):
        convert({"controller.weight": torch.ones(169, 8, 3, 3)})
    with pytest.raises(WeightsError, match="BiFPN"):
        convert({"backbone.bifpn.0.weight": torch.ones(1)})
    with pytest.raises(WeightsError, match="deformable"):
        convert({"backbone.bottom_up.res3.0.conv2_offset.weight": torch.ones(1)})


def test_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    model = small().eval()
    weights.save(model, tmp_path / "h.safetensors", dtype=torch.float16)
    loaded = condinst.load(tmp_path / "h.safetensors")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    image = np.zeros((40, 50, 3), np.uint8)
    assert len(loaded.predict([image])) == 1


@pytest.mark.parametrize(("precision", "tf32"), [("float32", False), ("bfloat16", True)])
def test_float32_on_a_gpu_is_float32(precision: str, tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(condinst.CondInst, "to", lambda model, *args, **more: model)
    monkeypatch.setattr(condinst.CondInst, "optimize_for_inference", lambda model, precision: model)
    condinst.load("demo", "cuda", precision)  # type: ignore[arg-type]
    assert torch.backends.cudnn.allow_tf32 is tf32
