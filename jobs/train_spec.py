"""What a training job's YAML may say. As in `jobs.spec`, the descriptions are the reference."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from condinst.augment import AugmentConfig
from condinst.config import (
    BackboneConfig,
    DetectConfig,
    FpnConfig,
    HeadConfig,
    InputConfig,
    MaskConfig,
    ModelConfig,
)
from condinst.criterion import LossConfig
from condinst.optimizing import FitConfig
from jobs.conventions import JobSpec, ResourcesSection
from jobs.spec import Name, Section, StoreSection, Texts, Uri, listed, one_or_list


class SourceSection(StoreSection):
    """Labelled images: a folder of them, and their labels in a COCO json or in a segment job's tables."""

    uri: Uri = Field(
        description="Folder or URI of the images: the json's `file_name`s start here. A job's images are "
        "those of its `uri`s that lie below here; of others the `image_id` starts here."
    )
    annotations: str | None = Field(
        default=None, min_length=1, description="The COCO json: polygons, RLE or boxes; a path or a URI."
    )
    run: str | None = Field(
        default=None,
        min_length=1,
        description="Instead of a json: the output of a segment job, whose instances are the labels.",
    )
    min_score: float = Field(
        default=0, ge=0, le=1, description="Of a job's instances, those of lower score are left out."
    )
    boxes_only: bool = Field(
        default=False, description="Use the boxes alone, whatever masks there are; for `loss.mask: boxinst`."
    )
    weight: float = Field(
        default=1,
        gt=0,
        le=1000,
        description="How often each of its images is learned from in an epoch: 2 is twice, 0.5 every second "
        "time.",
    )
    replaces: bool = Field(
        default=False,
        description="Its images take the place of the same images (of the same full URI) in the sources "
        "before it: of corrected labels. Without it an image of several sources is learned from with the "
        "labels of each.",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.annotations is None) == (self.run is None):
            raise ValueError("give annotations (a COCO json) or run (a segment job's output), one of them")
        if self.min_score and self.run is None:
            raise ValueError("min_score belongs to run")
        return self

    @property
    def labels(self) -> str:
        """Where the labels are."""
        return self.annotations or self.run or ""


class ExamSection(StoreSection):
    """Labelled images to measure on: a folder of them, and their labels in a COCO json."""

    uri: Uri = Field(description="Folder or URI of the images; the json's `file_name`s start here.")
    annotations: str = Field(
        min_length=1, description="The COCO json: polygons, RLE or boxes; a path or a URI."
    )


Sources = Annotated[
    tuple[SourceSection, ...],
    BeforeValidator(listed),
    Field(strict=False, min_length=1, json_schema_extra=one_or_list),
]


class DataSection(Section):
    """What is learned from, and what the model is measured on."""

    train: Sources = Field(description="Labelled images to learn from: one source, or a list of them.")
    val: ExamSection | None = Field(
        default=None, description="Labelled images to measure on; none of them is learned from."
    )
    held_out: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Instead of `val`: the share of the images of `train` to measure on, chosen by the hash "
        "of their names, so that an image stays where it is when others come.",
    )
    max_bad: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="The share of the images that may be missing, broken or of another size than their "
        "labels say, of those learned from and of those measured on: they are left out. At least one may, "
        "unless it is 0. More end the run.",
    )
    classes: Texts | None = Field(
        default=None,
        min_length=1,
        description="Classes of the model, by name. Default: the categories of all sources.",
    )

    @model_validator(mode="after")
    def _one_exam(self) -> Self:
        if (self.val is None) == (self.held_out is None):
            raise ValueError("give val or held_out, one of them: what the model is measured on")
        if self.train[0].replaces:
            raise ValueError("replaces: true on the first source of train: there is none before it")
        return self


class TrainModelSection(Section):
    """The network: described here, or taken over from weights."""

    weights: str | None = Field(
        default=None,
        min_length=1,
        description="Start from these weights (`demo`, a safetensors file or its URI): the network is "
        "theirs, and classes are matched by name. A bucket is reached with the environment's endpoint and "
        "credentials. Default: from scratch.",
    )
    backbone_weights: str | None = Field(
        default=None,
        min_length=1,
        description="Weights of a backbone alone (`condinst weights convert`), for a network described here. "
        "A bucket is reached as for `weights`.",
    )
    freeze: int = Field(
        default=0,
        ge=0,
        le=5,
        description="Parts of the backbone that stay as they are: 1 is the stem, 2 adds the first stage.",
    )
    backbone: BackboneConfig | None = Field(default=None, description="The backbone.")
    fpn: FpnConfig | None = Field(default=None, description="The feature pyramid.")
    head: HeadConfig | None = Field(default=None, description="The FCOS head.")
    mask: MaskConfig | None = Field(default=None, description="The mask branch and the conditional head.")
    input: InputConfig | None = Field(default=None, description="How an image becomes the network's input.")
    detect: DetectConfig | None = Field(default=None, description="How detections are chosen.")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        own = [part for part in ("backbone", "fpn", "head", "mask") if getattr(self, part) is not None]
        if self.weights is not None and own:
            raise ValueError(f"{', '.join(own)} cannot be chosen: the network is that of `weights`")
        if self.weights is not None and self.backbone_weights is not None:
            raise ValueError("give weights or backbone_weights, not both")
        return self

    def stated(self) -> dict[str, object]:
        """The parts of the configuration that the spec states."""
        parts = ("backbone", "fpn", "head", "mask", "input", "detect")
        return {part: getattr(self, part) for part in parts if getattr(self, part) is not None}

    def config(self, classes: tuple[str, ...]) -> ModelConfig:
        """The configuration of a network that starts from scratch. Raises ValueError."""
        return ModelConfig.model_validate({"classes": classes, **self.stated()})


class TrainWorkersSection(Section):
    """Who trains, on Ray: so many processes, which share each step's batch. They change no result."""

    count: int = Field(ge=1, le=1024, description="Workers.")
    least: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Go on with so many when the cluster has no room for all. Default: `count`.",
    )
    cpus: int = Field(
        default=1, ge=1, le=256, description="Processor cores of each worker; also its threads."
    )
    gpus: float = Field(default=0, ge=0, le=1, description="GPUs of each worker; with `device: cuda`, 1.")
    max_failures: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="How often the workers are started again, from the last checkpoint, when one dies.",
    )


class TrainSpec(JobSpec):
    """A training job: labelled images in, a weights file and its measurements out."""

    kind: Literal["train"] = Field(description="What the job does.")
    name: Name = Field(description="The job's name: letters, digits, dots, dashes, underscores.")
    data: DataSection = Field(description="The labelled images.")
    model: TrainModelSection = Field(default=TrainModelSection(), description="The network.")
    loss: LossConfig = Field(default=LossConfig(), description="What is minimised.")
    augment: AugmentConfig = Field(default=AugmentConfig(), description="How views are made of images.")
    training: FitConfig = Field(default=FitConfig(), description="How the network learns.")
    batch: int = Field(default=8, ge=1, le=1024, description="Views in a step.")
    seed: int = Field(
        default=0, ge=0, le=2**63 - 1, description="Of the first weights, the order and the views."
    )
    threads: int = Field(default=1, ge=1, le=256, description="Threads of a training without `workers`.")
    decoders: int = Field(
        default=2, ge=1, le=256, description="Threads of each process that fetch, decode and augment images."
    )
    workers: TrainWorkersSection | None = Field(
        default=None,
        description="Train on Ray with several processes. Default: in this process, without Ray.",
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where training runs.")
    resources: ResourcesSection = Field(
        default=ResourcesSection(),
        description="What a cluster reserves for a training without `workers`, which is one process. With "
        "`device: cuda` that is one GPU at least. With `workers`, what it says of memory, accelerator and "
        "nodes holds for each worker.",
    )
    max_dets: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="Most detections of a class in an image that count when the model is measured.",
    )
    samples: int = Field(
        default=4, ge=0, le=64, description="Images, of those measured on, that are drawn each time."
    )
    output: StoreSection = Field(description="Where the weights and measurements go.")
    max_gpu_hours: float | None = Field(
        default=None,
        gt=0,
        le=10_000_000,
        description="Most GPU hours that one run may take, with `device: cuda`: its time by the GPUs of its "
        "workers. What earlier runs took is not counted. The run then ends, and what was measured stays; the "
        "next run goes on from the last checkpoint.",
    )

    @model_validator(mode="after")
    def _workers_fit(self) -> Self:
        own = self.workers
        processes = own.count if own else 1
        if self.batch < processes * self.training.accumulate:
            raise ValueError(
                f"a batch of {self.batch} cannot be shared by {processes} workers in "
                f"{self.training.accumulate} parts: raise batch, lower workers.count or training.accumulate"
            )
        if own and (own.least or 0) > own.count:
            raise ValueError("workers.least is more than workers.count")
        if own and (self.device == "cuda") != (own.gpus > 0):
            raise ValueError("device: cuda and workers.gpus go together")
        if own and own.gpus not in (0, 1):
            raise ValueError(
                f"workers.gpus: {own.gpus:g} was given, and nccl takes no two workers on one GPU: give 1"
            )
        if self.device == "cpu" and self.training.precision == "float16":
            raise ValueError(
                "training.precision: float16 is for device: cuda; on processors give bfloat16 or float32"
            )
        if own and self.threads != 1:
            raise ValueError("threads is for a training without workers; give workers.cpus instead")
        return self

    @model_validator(mode="after")
    def _losses_fit(self) -> Self:
        alone = [s.labels for s in self.data.train if s.boxes_only]
        if self.augment.copy_paste and self.loss.mask == "boxinst":
            raise ValueError("augment.copy_paste needs masks, and loss.mask: boxinst has none")
        if alone and self.loss.mask != "boxinst":
            raise ValueError(f"{alone[0]} gives boxes only: loss.mask must be boxinst")
        if self.loss.semantic and self.loss.mask == "boxinst":
            raise ValueError("loss.semantic learns from masks, and loss.mask: boxinst has none")
        own = self.model.mask or MaskConfig()
        if self.loss.semantic and self.model.weights is None and not own.semantic:
            raise ValueError("loss.semantic needs model.mask.semantic: true")
        return self
