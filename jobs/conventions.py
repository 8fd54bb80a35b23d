"""What every kind of job may say of where, when and with what it runs. Nothing here changes a row.

The descriptions are the reference, as in `jobs.spec`.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from jobs.cron import parse_cron
from jobs.quantities import SIZE_PATTERN, TIME_PATTERN, seconds, size
from jobs.section import Section

_SECRET = re.compile(r"(?:SECRET(?:_KEY)?|PASSWORD|PASSWD|TOKEN|(?:API|ACCESS|ACCOUNT|PRIVATE)_?KEY)", re.I)


def _read_by(read: Callable[[str], object], wanted: str) -> Callable[[object], object]:
    """A check that text can be read so; what is not text gets the same words."""

    def check(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(f"expected {wanted}")
        read(value)
        return value

    return check


def _timezone(name: str) -> None:
    known = zoneinfo.available_timezones() - {"Factory", "localtime"}
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1) or [
        full for full in sorted(known) if full.rsplit("/", 1)[-1].lower() == name.lower().replace(" ", "_")
    ]
    hint = f"did you mean {close[0]}?" if close else "expected one such as Europe/Tallinn or UTC"
    raise ValueError(f"there is no time zone {name[:60]!r}; {hint}")


def _environment_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
        raise ValueError(f"{name[:60]!r} names no environment variable: letters, digits and _")
    return name


def is_secret_name(name: str) -> bool:
    """Whether a variable of that name holds a secret, as names go."""
    return bool(_SECRET.search(name)) and not name.endswith(("_FILE", "_PATH"))


def _plain_environment(env: Mapping[str, str]) -> Mapping[str, str]:
    for name in env:
        _environment_name(name)
        if is_secret_name(name):
            raise ValueError(f"{name} names a secret: put the name alone under secrets, never a value")
        if name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
            raise ValueError(f"{name} is for whoever runs the cluster to set")
    return env


def _label(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise ValueError("expected a Kubernetes name: at most 63 small letters, digits and dashes")
    return name


def _image(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-zA-Z0-9._:/@-]{0,254}", name):
        raise ValueError("expected a container image such as registry.example.com/condinst:1.0")
    return name


def _webhook(url: str) -> str:
    try:
        parts = urlsplit(url)
        held = parts.username or parts.password or parts.query
    except ValueError:
        raise ValueError("expected an address such as https://hooks.example.com/jobs") from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("expected an address such as https://hooks.example.com/jobs")
    if held:
        raise ValueError(
            "holds credentials; give the name of a secret that holds the address: webhook_secret"
        )
    return url


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]} stands twice")
    return names


Time = Annotated[
    Annotated[str, Field(json_schema_extra={"pattern": TIME_PATTERN})],
    BeforeValidator(_read_by(seconds, "a time such as 90s, 30m, 6h or 1h30m")),
]
Size = Annotated[
    Annotated[str, Field(json_schema_extra={"pattern": SIZE_PATTERN})],
    BeforeValidator(_read_by(size, "a size such as 16Gi or 500Mi")),
]
EnvironmentName = Annotated[str, AfterValidator(_environment_name)]
KubernetesName = Annotated[str, AfterValidator(_label)]
Labels = Mapping[str, str]


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
        "more, for Ray. Default: Ray reserves none, a pod has `4Gi` for each worker.",
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
            raise ValueError("gpus above 1 must be whole")
        if self.accelerator is not None and not self.gpus:
            raise ValueError(f"accelerator {self.accelerator} without gpus: give both or neither")
        return self


class WorkersSection(ResourcesSection):
    """Who does the work: so many processes, each holding the model once."""

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
            raise ValueError("count and min, max exclude each other")
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

    cron: Annotated[str, BeforeValidator(_read_by(parse_cron, 'a cron expression such as "30 2 * * *"'))] = (
        Field(
            description="Minute, hour, day of month, month, day of week: `30 2 * * *` is half past two each "
            "night. Or `@hourly`, `@daily`, `@weekly`, `@monthly`."
        )
    )
    timezone: Annotated[str, BeforeValidator(_read_by(_timezone, "a time zone such as Europe/Tallinn"))] = (
        Field(
            default="UTC",
            description="Time zone of `cron` and of `{{ date }}`, for example `Europe/Tallinn`.",
        )
    )
    overlap: Literal["skip", "queue"] = Field(
        default="skip",
        description="What becomes of a run whose time comes while the one before still runs: left out, or "
        "begun once that has ended. However many are missed, one is begun.",
    )
    suspend: bool = Field(default=False, description="Start no run until this is false again.")


class NotifySection(Section):
    """Who is told how a run ended: a webhook gets a JSON object by POST."""

    webhook: Annotated[str, AfterValidator(_webhook)] | None = Field(
        default=None, description="Address, when it is no secret."
    )
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

    image: Annotated[str, AfterValidator(_image)] | None = Field(
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
    env: Annotated[Mapping[str, str], AfterValidator(_plain_environment)] = Field(
        default={}, description="Environment variables of the job's processes: `{AWS_REGION: eu-north-1}`."
    )
    secrets: Annotated[tuple[EnvironmentName, ...], AfterValidator(_unique)] = Field(
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
                yield ("secrets", at), f"{name} stands under env too, where its value is public"
        hook = self.notify.webhook_secret if self.notify else None
        if hook is not None and hook not in self.secrets:
            yield ("notify", "webhook_secret"), f"{hook} is not among secrets; add it there"
