"""Backbones of torchvision's and detectron2's naming compute what theirs compute, and fit or are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from condinst import weights, weightsfile
from condinst.backbone import ResNet
from condinst.config import (
    BackboneConfig,
    FpnConfig,
    HeadConfig,
    InputConfig,
    MaskConfig,
    ModelConfig,
    torchvision_input,
)
from condinst.convert_backbone import convert_backbone, is_backbone_alone
from condinst.model import CondInst
from condinst.weightsfile import WeightsError

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
Numbers = dict[str, torch.Tensor]


def resnet(depth: int, width: int = 8, affine_only: bool = False) -> Numbers:
    """A random ResNet in torchvision's naming, written from the paper's table rather than from our code."""
    torch.manual_seed(depth)
    out: Numbers = {}

    def conv(name: str, norm: str, inp: int, channels: int, kernel: int) -> None:
        out[f"{name}.weight"] = torch.randn(channels, inp, kernel, kernel) * (2 / (inp * kernel**2)) ** 0.5
        out[f"{norm}.weight"] = torch.rand(channels) + 0.5
        out[f"{norm}.bias"] = torch.randn(channels) * 0.1
        if not affine_only:
            out[f"{norm}.running_mean"] = torch.randn(channels) * 0.1
            out[f"{norm}.running_var"] = torch.rand(channels) + 0.5
            out[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    conv("conv1", "bn1", 3, width, 7)
    inp = width
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        inner = width * 2 ** (stage - 1)
        end = inner * (4 if depth >= 50 else 1)
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            kernels = (1, 3, 1) if depth >= 50 else (3, 3)
            sizes = [inp, *[inner] * (len(kernels) - 1), end]
            for n, kernel in enumerate(kernels):
                conv(f"{at}.conv{n + 1}", f"{at}.bn{n + 1}", sizes[n], sizes[n + 1], kernel)
            if inp != end or (block == 0 and stage > 1):
                conv(f"{at}.downsample.0", f"{at}.downsample.1", inp, end, 1)
            inp = end
    out["fc.weight"], out["fc.bias"] = torch.randn(10, inp), torch.randn(10)
    return out


def forward(p: Numbers, x: torch.Tensor, depth: int, stride_in_1x1: bool) -> list[torch.Tensor]:
    """C3 to C5 of such a ResNet by plain functions."""
    p = {name: value.double() for name, value in p.items()}

    def conv_norm(x: torch.Tensor, name: str, norm: str, stride: int) -> torch.Tensor:
        weight = p[f"{name}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
        scale, shift = (p[f"{norm}.{end}"][:, None, None] for end in ("weight", "bias"))
        if f"{norm}.running_mean" in p:
            mean, var = (p[f"{norm}.running_{end}"][:, None, None] for end in ("mean", "var"))
            x = (x - mean) / (var + 1e-5).sqrt()
        return x * scale + shift

    x = F.max_pool2d(F.relu(conv_norm(x, "conv1", "bn1", 2)), 3, 2, 1)
    maps = []
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            strides = [1] * (3 if depth >= 50 else 2)
            strides[1 if depth >= 50 and not stride_in_1x1 else 0] = stride
            y = x
            for n, s in enumerate(strides, start=1):
                y = conv_norm(y if n == 1 else F.relu(y), f"{at}.conv{n}", f"{at}.bn{n}", s)
            if f"{at}.downsample.0.weight" in p:
                x = conv_norm(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            x = F.relu(x + y)
        maps.append(x)
    return maps[1:]


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def detectron2_naming(p: Numbers) -> Numbers:
    def name(key: str) -> str:
        parts = key.split(".")
        if parts[0] in ("conv1", "bn1"):
            return "stem.conv1." + ("norm." if parts[0] == "bn1" else "") + parts[1]
        if parts[0] == "fc":
            return f"stem.{key}"
        at = f"res{int(parts[0][5:]) + 1}.{parts[1]}"
        if parts[2] == "downsample":
            return f"{at}.shortcut." + ("norm." if parts[3] == "1" else "") + parts[4]
        return f"{at}.conv{parts[2][-1]}." + ("norm." if parts[2].startswith("bn") else "") + parts[3]

    return {name(k): v for k, v in p.items() if "num_batches" not in k}


def model_of(backbone: BackboneConfig, image: InputConfig) -> CondInst:
    return CondInst(
        ModelConfig(
            classes=("leaf",),
            backbone=backbone,
            fpn=FpnConfig(channels=16),
            head=HeadConfig(num_convs=1, groups=4),
            mask=MaskConfig(branch_channels=8, branch_convs=1),
            input=image,
        )
    ).eval()


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_torchvision_naming(tmp_path: Path, depth: int, prefix: str) -> None:
    theirs = resnet(depth)
    converted = convert_backbone({prefix + k if "fc" not in k else k: v for k, v in theirs.items()})
    assert converted.naming == "torchvision"
    assert converted.file.input == torchvision_input()
    assert {k.removeprefix(prefix) for k in converted.ignored} == {
        k for k in theirs if k.startswith("fc.") or k.endswith("num_batches_tracked")
    }
    path = tmp_path / "b.safetensors"
    weights.save_backbone(converted.state, converted.file, path, notes={"from": "here"})
    stated = weightsfile.read_backbone(path)
    assert stated == converted.file
    assert weightsfile.read_notes(path) == {"from": "here"}
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    for norm in ("frozen_batch", "batch"):
        backbone = stated.backbone.model_copy(update={"norm": norm})
        model = model_of(backbone, stated.input)
        head = model.head.logits.weight.clone()
        weights.load_backbone(model, path)
        for ours, expected in zip(model.backbone.double()(x), forward(theirs, x, depth, False), strict=True):
            close(ours, expected)
        assert torch.equal(model.head.logits.weight, head)


@pytest.mark.parametrize("affine_only", [False, True])
@torch.no_grad()
def test_detectron2_naming(affine_only: bool) -> None:
    theirs = resnet(50, affine_only=affine_only)
    converted = convert_backbone(detectron2_naming(theirs))
    assert converted.naming == "detectron2"
    assert converted.affine_only is affine_only
    assert converted.file.input == InputConfig()
    assert converted.ignored == ["stem.fc.weight", "stem.fc.bias"]
    backbone = ResNet(converted.file.backbone).eval()
    backbone.load_state_dict(converted.state, strict=False)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    for ours, expected in zip(backbone.double()(x), forward(theirs, x, 50, True), strict=True):
        close(ours, expected)


def test_the_recipe_can_be_told_where_the_naming_misleads() -> None:
    caffe = convert_backbone(resnet(50), "caffe")
    assert caffe.file.backbone.stride_in_1x1
    assert caffe.file.input.channel_order == "bgr"
    torchvision = convert_backbone(detectron2_naming(resnet(50)), "torchvision")
    assert not torchvision.file.backbone.stride_in_1x1
    assert torchvision.file.input.channel_order == "rgb"


def test_what_has_no_place_is_named() -> None:
    whole = resnet(18)
    with pytest.raises(WeightsError, match=r"1 keys have no place in the backbone: layer1\.0\.se\.weight"):
        convert_backbone({**whole, "layer1.0.se.weight": torch.ones(1)})
    with pytest.raises(WeightsError, match=r"missing \(in our naming\): stages\.3\.1\.conv2\.conv\.weight"):
        convert_backbone({k: v for k, v in whole.items() if k != "layer4.1.conv2.weight"})
    with pytest.raises(WeightsError, match=r"shape: stages\.0\.0\.conv2\.conv\.weight \(8, 4, 3, 3\)"):
        convert_backbone({**whole, "layer1.0.conv2.weight": torch.ones(8, 4, 3, 3)})
    with pytest.raises(WeightsError, match="deformable"):
        convert_backbone({**detectron2_naming(resnet(50)), "res4.0.conv2_offset.weight": torch.ones(1)})
    with pytest.raises(WeightsError, match="there is no backbone in it"):
        convert_backbone({"features.0.weight": torch.ones(1)})
    with pytest.raises(WeightsError, match="blocks a stage"):
        convert_backbone({k: v for k, v in whole.items() if not k.startswith("layer4.1")})


def test_a_backbone_alone_is_told_from_a_whole_model() -> None:
    bare = resnet(18)
    assert is_backbone_alone(bare)
    assert is_backbone_alone(detectron2_naming(bare))
    assert not is_backbone_alone(
        {f"backbone.{k}": v for k, v in bare.items()} | {"bbox_head.conv_cls.weight": bare["fc.weight"]}
    )
    assert not is_backbone_alone({"features.0.weight": torch.ones(1)})


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    converted = convert_backbone(resnet(50))
    weights.save_backbone(converted.state, converted.file, tmp_path / "b.safetensors")
    return tmp_path / "b.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 101}, "backbone.depth is 50, the model has 101"),
        ({"width": 16}, "backbone.width is 8, the model has 16"),
        ({"stride_in_1x1": True}, "backbone.stride_in_1x1 is False, the model has True"),
        ({"norm": "group"}, "backbone.norm is frozen_batch, the model has group"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(stored: Path, change: dict, message: str) -> None:
    file = weightsfile.read_backbone(stored)
    model = model_of(file.backbone.model_copy(update=change), file.input)
    with pytest.raises(WeightsError, match=message):
        weights.load_backbone(model, stored)


def test_another_normalisation_is_refused(stored: Path) -> None:
    file = weightsfile.read_backbone(stored)
    model = model_of(file.backbone, InputConfig())
    with pytest.raises(WeightsError, match=r"input\.channel_order is rgb, the model has bgr; input\.mean"):
        weights.load_backbone(model, stored)


def test_a_model_and_a_backbone_are_not_mistaken_for_each_other(tmp_path: Path, stored: Path) -> None:
    file = weightsfile.read_backbone(stored)
    model = model_of(file.backbone, file.input)
    weights.save(model, tmp_path / "m.safetensors")
    with pytest.raises(WeightsError, match="holds a whole model; a backbone alone is needed here"):
        weights.load_backbone(model, tmp_path / "m.safetensors")
    with pytest.raises(WeightsError, match="holds a backbone alone; a whole model is needed here"):
        weights.load(stored)
