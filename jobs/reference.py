"""The spec's reference, made from its models: JSON Schema for editors, a page for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jobs.check import expected
from jobs.errors import EXIT_CODES, JobError
from jobs.spec import Section, SegmentSpec

EXAMPLE = """\
kind: segment
name: mushrooms
input:  {uri: s3://farm-photos/mushrooms/, include: ["*.jpg"]}
model:  {weights: demo, score_threshold: 0.3, max_instances: 300}
output: {uri: s3://farm-masks/mushrooms}
shards: {images: 64}
workers: {count: 2, gpus: 0, cpus: 1}
precision: float32
"""

INTRODUCTION = f"""\
# The job spec

This page is made by `condinst schema --markdown` from the models in `jobs/spec.py`; change it there.

A job is one YAML file:

```yaml
{EXAMPLE}```

`condinst run job.yaml` runs it. `condinst schema > segment.schema.json` writes its JSON Schema; with the line
`# yaml-language-server: $schema=segment.schema.json` at the top of a spec, editors complete and check it.

- Unknown keys, wrong types and impossible values are errors, told all at once, each with its line and column.
- Scalars follow YAML 1.2: `true` and `false` are the only booleans, `no` is text, `1e-3` is a number.
- One document, no duplicate keys, no tags. Anchors and aliases work.
- `--set key.path=value` changes a value from the command line, read as YAML: `--set workers.count=8`,
  `--set 'input.include=["*.png"]'`; a number steps into a list: `--set input.0.uri=photos`.
- Relative folders start at the current folder, where the command is run.
- `extends: base.yaml` takes the rest from another file. `${{NAME}}` and `{{{{ date }}}}` are filled in
  in stated places: [deploy.md](deploy.md#shared-settings).
- No secrets: credentials come from the environment, a profile or the machine's role.
"""

TRAIN_INTRODUCTION = """\
# The training spec

This page is made by `condinst schema --kind train --markdown` from `jobs/train_spec.py` and the
configurations in `condinst/`; change it there. [training.md](training.md) tells how to use it,
[spec.md](spec.md) what holds for every spec: how YAML is read, `--set`, where folders start, exit codes.
"""

OPERATION = """\
## What decides the rows

One output holds the rows of one kind of settings. The weights file, `model.*`, `precision`, `limits.pixels`,
`limits.bytes`, `batch.images`, whether there is a GPU, and, without one, `workers.cpus` (a worker's threads)
change rows, if only by rounding: a rerun with others is refused and says what differs. So do `tiling`,
`decode`, `compile` and `output.crs`. All else may change between runs: the other `workers.*`, `timeout`,
`retries`, `max_failed`, `schedule`, `env`, `secrets`, `notify`, `kubernetes`, prices and budgets.

The input is listed once, when the job first runs, and cut into shards then: later runs keep to that list. An
input of `mode: new` is listed by each run, and what is new is appended ([schedule.md](schedule.md)); inputs
may then be added, at the end of the list.

## Exit codes

| code | meaning |
|---|---|
"""


def json_schema(kind: str) -> str:
    """JSON Schema of a kind of spec, as text. Raises JobError for a kind that does not exist."""
    schema = _model(kind).model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2) + "\n"


def reference_page(kind: str) -> str:
    """A kind's reference as Markdown: `docs/spec.md`, `docs/train-spec.md`. Raises JobError."""
    schema = _model(kind).model_json_schema()
    sections = "\n".join(["## Top level\n", *_table(schema, schema), *_sections(schema, schema)])
    if kind == "train":
        return f"{TRAIN_INTRODUCTION}\n{sections}"
    codes = "".join(f"| {code.value} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    return f"{INTRODUCTION}\n{sections}\n{OPERATION}{codes}"


def _model(kind: str) -> type[Section]:
    if kind == "segment":
        return SegmentSpec
    if kind == "train":
        # Here, because it brings torch along.
        from jobs.train_spec import TrainSpec

        return TrainSpec
    raise JobError(f"there is no kind of job named {kind!r}; the kinds are: segment, train")


def _sections(node: Mapping[str, Any], schema: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, field in node["properties"].items():
        section = _section_of(field, schema)
        if section:
            yield f"## {above}{key}\n\n{section['description']}\n"
            yield from _table(section, schema, f"{above}{key}.")
            yield from _sections(section, schema, f"{above}{key}.")


def _table(section: Mapping[str, Any], schema: Mapping[str, Any], above: str = "") -> Iterator[str]:
    yield "| key | value | default | |\n|---|---|---|---|"
    for key, field in section["properties"].items():
        path = above + key
        nested = _section_of(field, schema)
        value = f"see [{path}](#{path.replace('.', '').lower()})" if nested else expected(field, schema)
        yield f"| `{key}` | {value} | {_default(key, field, section)} | {field['description']} |"
    yield ""


def _section_of(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for choice in [field, *field.get("anyOf", [])]:
        if "$ref" in choice:
            section: Mapping[str, Any] = schema["$defs"][choice["$ref"].rsplit("/", 1)[-1]]
            return section
    return None


def _default(key: str, field: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    if key in section.get("required", ()):
        return "**required**"
    default = field.get("default")
    return "" if default in (None, []) or isinstance(default, dict) else f"`{json.dumps(default)}`"
