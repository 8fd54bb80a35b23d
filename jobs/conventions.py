"""What every kind of job may say of where, when and with what it runs. Nothing here changes a row.

The descriptions are the reference, as in `jobs.spec`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from jobs.section import Section
from jobs.values import (
    CronText,
    EnvironmentName,
    EnvironmentNames,
    Image,
    KubernetesName,
    Labels,
    PlainEnvironment,
    Size,
    Time,
    TimeZone,
    Webhook,
)


def _check_one_gpu(gpus: float) -> float:
    if gpus > 1:
        raise ValueError(
            "expected 1 or less: a worker's model is on one GPU; for more GPUs give more workers"
        )
    return gpus


class ResourcesSection(Section):
    """What one process of the job gets."""

    gpus: float = Field(
        default=0,
        ge=0,
        le=16,
        description="GPUs of each worker; 0 for the processor, 0.5 for two workers on one GPU.",
    )
    cpus: int = Field(
        default=1, ge=1, le=256, description="Processor cores of each worker; also its threads."
    )
    memory: Size | None = Field(
        default=None,
        description="Memory of each worker, for example `16Gi`: what Ray reserves. A rendered pod has 1 GiB "
        "more, for Ray. Default: Ray reserves none, a pod has `4Gi` for each worker, "
        "`8Gi` where it has a GPU.",
    )
    accelerator: str | None = Field(
        default=None,
        min_length=1,
        max_length=63,
        description="Type of the GPU as Ray names it, for example `L4` or `A100`. On Kubernetes give the "
        "nodes' label as `node_selector` beside it.",
    )
    node_selector: Labels = Field(
        default={},
        description="Labels of the Kubernetes nodes to run on: "
        "`{cloud.google.com/gke-accelerator: nvidia-l4}`.",
    )
    spot: bool = Field(
        default=False,
        description="Whether workers may, and rather should, run on nodes that the cloud can take back at "
        "any time. The driver never does.",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError("gpus must be a whole number above 1: Ray shares one GPU, never two and a half")
        if self.accelerator is not None and not self.gpus:
            raise ValueError(f"accelerator {self.accelerator} without gpus: give both or neither")
        return self


class WorkersSection(ResourcesSection):
    """Who does the work: so many processes, each holding the model once."""

    gpus: Annotated[float, AfterValidator(_check_one_gpu)] = Field(
        default=0,
        ge=0,
        json_schema_extra={"maximum": 1},
        description="GPUs of each worker, 1 at most; 0 for the processor, 0.5 for two workers on one GPU.",
    )
    count: int = Field(default=1, ge=1, le=10_000, description="Workers.")
    min: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="With `max`, in place of `count`: the fewest workers to begin with.",
    )
    max: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="The most workers. The pool grows from `min` as the cluster has room, or makes room.",
    )

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if (self.min is None) != (self.max is None):
            raise ValueError("min and max come together; for a fixed number give count")
        if self.min is not None and "count" in self.model_fields_set:
            raise ValueError("give count, or min and max, not both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self

    @model_serializer(mode="wrap")
    def _one_number_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is written, in `job.json` for one, can be read again."""
        written: dict[str, Any] = write(self)
        if self.min is not None:
            written.pop("count", None)
        return written

    @property
    def least(self) -> int:
        """Workers that there must be."""
        return self.count if self.min is None else self.min

    @property
    def most(self) -> int:
        """Workers that there may be."""
        return self.count if self.max is None else self.max


class ScheduleSection(Section):
    """When the job runs by itself: under `condinst schedule serve`, or rendered for Kubernetes."""

    cron: CronText = Field(
        description="Minute, hour, day of month, month, day of week: `30 2 * * *` is half past two each "
        "night. Or `@hourly`, `@daily`, `@weekly`, `@monthly`."
    )
    timezone: TimeZone = Field(
        default="UTC",
        description="Time zone of `cron` and of `{{ date }}`, for example `Europe/Tallinn`.",
    )
    overlap: Literal["skip", "queue"] = Field(
        default="skip",
        description="What becomes of a run whose time comes while the one before still runs: left out, or "
        "begun once that has ended. However many are missed, one is begun.",
    )
    suspend: bool = Field(
        default=False, description="Start no run until this is false again; one that is at work goes on."
    )


class NotifySection(Section):
    """Who is told how a run ended: a webhook gets a JSON object by POST."""

    webhook: Webhook | None = Field(default=None, description="Address, when it is no secret.")
    webhook_secret: EnvironmentName | None = Field(
        default=None, description="Or the one of `secrets` that holds the address: of a chat's webhook, say."
    )
    on: Literal["failure", "end"] = Field(
        default="failure", description="Tell only of runs that ended badly, or of each end."
    )

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if (self.webhook is None) == (self.webhook_secret is None):
            raise ValueError("expected webhook or webhook_secret, one of them")
        return self


class KubernetesSection(Section):
    """What `condinst render` needs to know of the Kubernetes cluster beside the job itself."""

    image: Image | None = Field(
        default=None,
        description="Container image, made from `deploy/Dockerfile`. Default: `condinst:VERSION`, with "
        "`-gpu` behind it where workers have GPUs.",
    )
    namespace: KubernetesName | None = Field(
        default=None, description="Namespace. Default: the one that `kubectl` is set to."
    )
    service_account: KubernetesName | None = Field(
        default=None,
        description="Service account of the pods, for workload identity on the buckets. Default: the "
        "namespace's.",
    )
    secret: KubernetesName | None = Field(
        default=None,
        description="The Kubernetes Secret whose keys are the names under `secrets`. Default: the job's name "
        "with `-secrets` behind it.",
    )
    tolerations: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Keys of node taints that the workers put up with, beside those of GPUs and spot nodes.",
    )


def jobs_own_first(schema: dict[str, Any], model: type[Section]) -> None:
    """Order a schema as people read it: what a kind of job is about, then what all kinds may say."""
    common = JobSpec.model_fields.keys() - {"kind", "name"}
    properties = schema["properties"]
    schema["properties"] = {
        **{key: value for key, value in properties.items() if key not in common},
        **{key: value for key, value in properties.items() if key in common},
    }


class JobSpec(Section):
    """What all kinds of job may say."""

    model_config = ConfigDict(json_schema_extra=jobs_own_first)

    kind: str
    name: str
    extends: str | None = Field(
        default=None,
        description="A YAML file, from this one's folder, whose keys hold where this one says nothing. "
        "Mappings are laid over each other, lists and values replaced. It may extend another.",
    )
    timeout: Time | None = Field(
        default=None,
        description="Longest that one run may take, for example `6h`. It then ends in good order; the next "
        "run goes on. Default: no limit.",
    )
    retries: int = Field(
        default=0,
        ge=0,
        le=100,
        description="How often whoever starts the job (Kubernetes, `condinst schedule serve`) starts it "
        "again after a bad end; each time it goes on where it was.",
    )
    schedule: ScheduleSection | None = Field(default=None, description="When the job runs by itself.")
    env: PlainEnvironment = Field(
        default={},
        description="Environment variables of the job's processes: `{AWS_REGION: eu-north-1}`. Of a segment "
        "job, workers without a GPU also get `MALLOC_ARENA_MAX`, `MALLOC_MMAP_THRESHOLD_`, "
        "`MALLOC_TRIM_THRESHOLD_` and `THP_MEM_ALLOC_ENABLE`, which keep memory from batch to batch; what is "
        "named here goes before.",
    )
    secrets: EnvironmentNames = Field(
        default=(),
        strict=False,
        description="Names of environment variables that the job needs and that hold secrets. Here they must "
        "be in the environment; on Kubernetes they come from a Secret. Values never stand in a spec.",
    )
    notify: NotifySection | None = Field(default=None, description="Who is told how a run ended.")
    kubernetes: KubernetesSection = Field(default=KubernetesSection(), description="For `condinst render`.")
    price_per_gpu_hour: float | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="What a GPU costs an hour, for the estimates of `condinst plan`.",
    )
    max_gpu_hours: float | None = Field(
        default=None,
        gt=0,
        le=10_000_000,
        description="Most GPU hours that the job may take in all its runs. The run then stops at a shard's "
        "end; with a higher value the job goes on.",
    )

    def conflicts(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What does not go together, each with the path of the key to change."""
        for at, name in enumerate(self.secrets):
            if name in self.env:
                yield (
                    ("secrets", at),
                    f"{name} stands under env too, where its value is public; leave it out there",
                )
        hook = self.notify.webhook_secret if self.notify else None
        if hook is not None and hook not in self.secrets:
            yield ("notify", "webhook_secret"), f"{hook} is not among secrets; add it there"
