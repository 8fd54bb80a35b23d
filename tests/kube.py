"""Holds Kubernetes objects against the schemas that a cluster holds them against, unknown fields refused."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from tests.vendor.kuberay.reduce import original, vendored

CRDS = Path("/work/shared/kuberay-crds")
KUBERNETES = "1.33"
OBJECT_META = {"name", "generateName", "namespace", "labels", "annotations", "ownerReferences", "finalizers"}
INTEGERS = {"int32": 2**31, "int64": 2**63}
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)

Json = dict[str, Any]


def crds() -> Path | None:
    """Folder of KubeRay's CRDs as KubeRay has them; None where only those in tests/vendor are."""
    folders = (CRDS, Path(__file__).parents[2] / "shared" / "kuberay-crds")
    return next((folder for folder in folders if folder.is_dir()), None)


def refused(manifest: Json) -> list[str]:
    """What a cluster with KubeRay would refuse in an object."""
    if not manifest["apiVersion"].startswith("ray.io/"):
        return [*_core(manifest), *_metadata(manifest["metadata"], "metadata")]
    schema = structural_schema(manifest["kind"], manifest["apiVersion"].split("/")[1])
    validator = jsonschema.Draft202012Validator(schema)
    found = [
        f"{'.'.join(map(str, error.path))}: {error.message[:200]}"
        for error in validator.iter_errors(manifest)
    ]
    found += _metadata(manifest["metadata"], "metadata")
    body = {key: value for key, value in manifest.items() if key != "metadata"}
    return [*found, *_unknown(body, schema, "")]


@functools.cache
def structural_schema(kind: str, version: str) -> Json:
    """The structural schema of a KubeRay kind."""
    folder = crds()
    definition = vendored(kind) if folder is None else original(folder, kind)
    assert definition["spec"]["names"]["kind"] == kind
    found: Json = next(v for v in definition["spec"]["versions"] if v["name"] == version)
    assert found["served"]
    schema: Json = found["schema"]["openAPIV3Schema"]
    return schema


def _core(manifest: Json) -> Iterator[str]:
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message[:200]}"


def _metadata(metadata: Json, path: str) -> Iterator[str]:
    yield from (f"{path}.{key}: unknown" for key in metadata.keys() - OBJECT_META)
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", metadata.get("name", "x")):
        yield f"{path}.name: {metadata['name']}"
    for key, value in metadata.get("labels", {}).items():
        if not LABEL_KEY.fullmatch(key) or not LABEL.fullmatch(value):
            yield f"{path}.labels: {key}: {value}"


def _unknown(value: object, schema: Json, path: str) -> Iterator[str]:
    """Fields that a structural schema does not know, which a cluster drops; numbers out of range."""
    if isinstance(value, dict):
        yield from _unknown_keys(value, schema, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, schema.get("items", {}), f"{path}[{index}]")
    elif isinstance(value, int) and not isinstance(value, bool):
        limit = INTEGERS.get(schema.get("format", ""))
        if limit is not None and not -limit <= value < limit:
            yield f"{path}: {value} does not fit {schema['format']}"


def _unknown_keys(value: Json, schema: Json, path: str) -> Iterator[str]:
    known, more = schema.get("properties", {}), schema.get("additionalProperties")
    for key, item in value.items():
        if key in known:
            yield from _unknown(item, known[key], f"{path}.{key}")
        elif isinstance(more, dict):
            yield from _unknown(item, more, f"{path}.{key}")
        elif more is not True and not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{path}.{key}: unknown field"
    if path.endswith("emplate.metadata"):
        yield from _metadata(value, path)
