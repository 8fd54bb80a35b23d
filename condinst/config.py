"""The typed configuration of a model: every choice that changes what it computes, one class a part.

A `ModelConfig` travels inside the safetensors file (see `weights`), so a file alone says how to run it.
Bounds on sizes are there because a weights file is input from outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

Channels = Annotated[int, Field(ge=1, le=4096)]
Precision = Literal["float32", "bfloat16", "float16"]

DEMO = "demo"
"""Names the weights shipped with the package, wherever weights are asked for."""
STRIDES = (8, 16, 32, 64, 128)
"""Pixels of network input between neighbouring locations, P3 to P7."""
SIZE_DIVISOR = 32
"""Pixels of network input that its edges are multiples of: the stride of P5, whence all finer maps come."""


class Part(BaseModel):
    """Base of every configuration class: frozen, and strict about unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )


class BackboneConfig(Part):
    """ResNet (He et al., CVPR 2016)."""

    depth: Literal[18, 34, 50, 101] = 50
    """Number of layers; 18 and 34 use basic blocks, 50 and 101 bottlenecks."""
    stem_channels: Channels = 64
    """Output channels of the 7x7 stem."""
    width: Channels = 64
    """Inner channels of the first stage; each later stage doubles them."""
    stride_in_1x1: bool = True
    """Put a bottleneck's stride in its first 1x1 ("caffe" layout) rather than in the 3x3 ("pytorch")."""
    norm: Literal["frozen_batch", "batch", "group"] = "frozen_batch"
    """Normalisation; `frozen_batch` never updates, `group` suits batches too small for statistics."""

    @property
    def expansion(self) -> int:
        """Output channels of a block over its inner channels."""
        return 1 if self.depth < 50 else 4

    @property
    def out_channels(self) -> tuple[int, int, int, int]:
        """Channels of C2 to C5."""
        base = self.width * self.expansion
        return base, 2 * base, 4 * base, 8 * base


class FpnConfig(Part):
    """Feature pyramid (Lin et al., CVPR 2017) with P6 and P7 from P5."""

    channels: Channels = 256
    """Channels of every level."""


class HeadConfig(Part):
    """FCOS head (Tian et al., ICCV 2019) and the controller."""

    num_convs: Annotated[int, Field(ge=1, le=8)] = 4
    """3x3 convolutions in each tower."""
    groups: Channels = 32
    """Groups of the towers' GroupNorm; divides the pyramid's channels."""


class MaskConfig(Part):
    """Mask branch and conditional mask head (Tian et al., ECCV 2020)."""

    branch_channels: Channels = 128
    """Channels inside the mask branch."""
    branch_convs: Annotated[int, Field(ge=1, le=8)] = 4
    """3x3 convolutions after the levels are summed."""
    features: Annotated[int, Field(ge=1, le=64)] = 8
    """Mask feature channels the branch gives to every instance's network (16 in BoxInst)."""
    head_channels: Annotated[int, Field(ge=1, le=64)] = 8
    """Width of an instance's own network."""
    head_layers: Annotated[int, Field(ge=2, le=6)] = 3
    """1x1 convolutions of an instance's own network."""
    sizes_of_interest: tuple[int, int, int, int, int] = (64, 128, 256, 512, 1024)
    """What the relative coordinates are divided by, a value a level; pixels."""
    semantic: bool = False
    """Whether the weights carry the semantic head that training may use."""

    @property
    def layer_shapes(self) -> list[tuple[int, int]]:
        """(out, in) channels of each 1x1 convolution of an instance's network."""
        inner = [(self.head_channels, self.head_channels)] * (self.head_layers - 2)
        return [(self.head_channels, self.features + 2), *inner, (1, self.head_channels)]

    @property
    def num_parameters(self) -> int:
        """Numbers the controller generates for one instance: 169 by default, 233 in BoxInst."""
        return sum(out * inp + out for out, inp in self.layer_shapes)


class ShortestEdge(Part):
    """Resize so that the shortest edge is `size`, unless the longest would exceed `longest`; pixels."""

    rule: Literal["shortest_edge"] = "shortest_edge"
    """Which rule."""
    size: Annotated[int, Field(ge=32, le=8192)] = 800
    """Of the shortest edge, pixels."""
    longest: Annotated[int, Field(ge=32, le=16384)] = 1333
    """Most pixels of the longest edge."""


class FixedScale(Part):
    """Multiply both edges by `scale`, whatever the image's size."""

    rule: Literal["fixed_scale"] = "fixed_scale"
    """Which rule."""
    scale: Annotated[float, Field(gt=0, le=16)] = 1.0
    """Network input pixels an image pixel."""


class InputConfig(Part):
    """How an image becomes the network's input."""

    channel_order: Literal["bgr", "rgb"] = "bgr"
    """Order of the network's three input channels."""
    mean: tuple[float, float, float] = (103.53, 116.28, 123.675)
    """Subtracted from 0..255 values, in `channel_order`."""
    std: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
    ] = (1.0, 1.0, 1.0)
    """Divided by after the mean, in `channel_order`."""
    resize: Annotated[ShortestEdge | FixedScale, Field(discriminator="rule")] = ShortestEdge()
    """Rule that gives the network input's size before padding to a multiple of 32."""


def _pairs(value: object) -> object:
    return tuple(value.items()) if isinstance(value, Mapping) else value


def _by_name(pairs: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(dict(pairs).items()))


ClassThresholds = Annotated[
    tuple[tuple[str, Annotated[float, Field(ge=0, le=1)]], ...],
    BeforeValidator(_pairs),
    AfterValidator(_by_name),
    PlainSerializer(dict, return_type=dict[str, float]),
    WithJsonSchema(
        {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}}
    ),
]
"""Threshold by class name; given and written as a mapping, kept as pairs, which nothing can change."""


class DetectConfig(Part):
    """From head outputs to an image's instances."""

    candidate_threshold: Annotated[float, Field(ge=0, le=1)] = 0.05
    """The papers' threshold: what `threshold_on` names must exceed it."""
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """An instance's score must exceed it, on top of `candidate_threshold`."""
    class_thresholds: ClassThresholds = ()
    """Takes the place of `score_threshold` for the classes it names; a mapping of name to threshold."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The only classes looked for: candidates of others take no place in any limit below. None is all."""
    threshold_on: Literal["product", "class"] = "product"
    """What is compared with `candidate_threshold`: cls * ctr, or cls alone."""
    rank_on: Literal["product", "class"] = "product"
    """What the best `pre_nms_top_k` are chosen by."""
    score: Literal["sqrt_product", "product"] = "sqrt_product"
    """An instance's score: sqrt(cls * ctr) (AdelaiDet) or cls * ctr (mmdetection)."""
    clip_before_nms: bool = False
    """Clip boxes to the image before NMS (mmdetection) rather than after."""
    pre_nms_top_k: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Candidates kept a level."""
    nms_iou: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Boxes of a class that overlap a better one by more are dropped."""
    max_instances: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Instances kept an image."""
    mask_threshold: Annotated[float, Field(ge=0.001, le=0.999)] = 0.5
    """A pixel belongs to the mask if its probability exceeds it."""

    def highest_threshold(self, names: Sequence[str]) -> float:
        """The most that a score must exceed, of any class that is looked for. Raises as `thresholds`."""
        own = self.thresholds(names)
        highest = self.score_threshold if own is None else max((t for t in own if t <= 1), default=0.0)
        if self.threshold_on != "product":
            return highest
        least = self.candidate_threshold
        return max(highest, least**0.5 if self.score == "sqrt_product" else least)

    def thresholds(self, names: Sequence[str]) -> tuple[float, ...] | None:
        """What scores of each class must exceed, `names` being the model's; None where all are alike.

        Infinity for a class that is not looked for. Raises ValueError for one that the model does not have.
        """
        own = dict(self.class_thresholds)
        unknown = [name for name in (*own, *(self.classes or ())) if name not in names]
        if unknown:
            raise ValueError(
                f"the model has no class {', '.join(map(repr, unknown))}; it has {', '.join(names) or 'none'}"
            )
        if not own and self.classes is None:
            return None
        wanted = set(names if self.classes is None else self.classes)
        return tuple(own.get(n, self.score_threshold) if n in wanted else float("inf") for n in names)


class ModelConfig(Part):
    """A whole model."""

    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=10_000)]
    """Category names; a class's index is its position."""
    backbone: BackboneConfig = BackboneConfig()
    fpn: FpnConfig = FpnConfig()
    head: HeadConfig = HeadConfig()
    mask: MaskConfig = MaskConfig()
    input: InputConfig = InputConfig()
    detect: DetectConfig = DetectConfig()

    @model_validator(mode="after")
    def _groups_divide(self) -> ModelConfig:
        if self.fpn.channels % self.head.groups:
            raise ValueError(f"head.groups={self.head.groups} must divide fpn.channels={self.fpn.channels}")
        return self

    @model_validator(mode="after")
    def _classes_exist(self) -> ModelConfig:
        self.detect.thresholds(self.classes)
        return self


class BackboneFile(Part):
    """What a file of backbone weights alone says of itself."""

    backbone: BackboneConfig
    """What the weights fit."""
    input: InputConfig
    """The channel order, mean and std they were trained with; `resize` says nothing here."""


def mmdetection_detect() -> DetectConfig:
    """Detection settings of the mmdetection flavour."""
    return DetectConfig(threshold_on="class", rank_on="class", score="product", clip_before_nms=True)


def torchvision_input() -> InputConfig:
    """Input settings of torchvision's ImageNet backbones, and so of the mmdetection flavour."""
    return InputConfig(channel_order="rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
