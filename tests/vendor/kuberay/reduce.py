"""Makes the files beside it of KubeRay's CRDs: what says which objects a cluster takes, without the prose.

    python tests/vendor/kuberay/reduce.py FOLDER

FOLDER holds KubeRay's `ray-operator/config/crd/bases/*.yaml`.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]
HERE = Path(__file__).parent
KINDS = ("RayCluster", "RayCronJob", "RayJob")
FIELDS, SCHEMA = ("properties", "patternProperties"), "openAPIV3Schema"
"""Keywords of a schema that hold schemas by name: a field may be called `description`."""


def main(folder: Path) -> None:
    """Write each kind's file anew."""
    for kind in KINDS:
        text = json.dumps(reduced(original(folder, kind)), separators=(",", ":"), sort_keys=True)
        vendored_path(kind).write_bytes(gzip.compress(text.encode(), mtime=0))


def original(folder: Path, kind: str) -> Json:
    """A kind's CRD as KubeRay has it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition: Json = yaml.load((folder / f"ray.io_{kind.lower()}s.yaml").read_text(), loader)
    return definition


def vendored(kind: str) -> Json:
    """A kind's CRD, reduced, from the file here."""
    definition: Json = json.loads(gzip.decompress(vendored_path(kind).read_bytes()))
    return definition


def vendored_path(kind: str) -> Path:
    """Where it lies."""
    return HERE / f"{kind.lower()}s.json.gz"


def reduced(definition: Json) -> Json:
    """A CRD's names, group, scope and versions, with their structural schemas."""
    spec = definition["spec"]
    versions = [
        {name: version[name] for name in ("name", "served", "storage")}
        | {"schema": {SCHEMA: without_prose(version["schema"][SCHEMA])}}
        for version in spec["versions"]
    ]
    kept = {name: spec[name] for name in ("group", "names", "scope")}
    own = {name: definition[name] for name in ("apiVersion", "kind")}
    return {**own, "metadata": definition["metadata"], "spec": {**kept, "versions": versions}}


def without_prose(schema: Any) -> Any:
    """A schema without the descriptions of its own and of those in it."""
    if isinstance(schema, list):
        return [without_prose(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: without_prose(field) for name, field in value.items()}
        if key in FIELDS
        else without_prose(value)
        for key, value in schema.items()
        if key != "description"
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
