"""The Grafana dashboard asks for metrics that there are, with labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.metrics import RunMetrics
from pipeline.results import ShardResult

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "condinst.json"


class Recorder:
    """Stands for Ray's metrics where no Ray runs: what they are given, as Prometheus would name it."""

    made: dict[str, dict[tuple[tuple[str, str], ...], float]]

    def __init__(self, name: str, words: str, tag_keys: tuple[str, ...]) -> None:
        assert words.endswith(".")
        self.keys, self.defaults, self.name = set(tag_keys), dict[str, str](), f"ray_{name}{self.ending}"
        self.values = Recorder.made.setdefault(self.name, {})

    def set_default_tags(self, tags: dict[str, str]) -> Recorder:
        self.defaults = tags
        return self

    def record(self, value: float, tags: dict[str, str], *, add: bool) -> None:
        given = {**self.defaults, **tags}
        assert set(given) == self.keys
        key = tuple(sorted(given.items()))
        self.values[key] = value + (self.values.get(key, 0.0) if add else 0.0)

    ending = ""


class FakeCounter(Recorder):
    ending = "_total"

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.record(value, tags, add=True)


class FakeGauge(Recorder):
    def set(self, value: float, tags: dict[str, str]) -> None:
        self.record(value, tags, add=False)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a run of four shards, one of them failed, counts."""
    import ray.util.metrics

    Recorder.made = {}
    monkeypatch.setattr(ray.util.metrics, "Counter", FakeCounter)
    monkeypatch.setattr(ray.util.metrics, "Gauge", FakeGauge)
    metrics = RunMetrics("s3://masks/out", ["a", "b", "c", "d"], 2)
    good = {"counts": {"ok": 3, "corrupt": 1}, "classes": {"plant": 9}, "bytes": 100, "instances": 9}
    for shard, worker in (("a", "w1"), ("b", "w2")):
        metrics.add(
            ShardResult(shard, worker=worker, seconds={"decode": 0.5, "model": 2.0}, busy=2.0, **good)
        )
    metrics.add(ShardResult("c", error="gone"))
    return Recorder.made


def test_what_is_counted_is_what_the_results_say(made: dict[str, Any]) -> None:
    def value(name: str, **labels: str) -> float:
        found: float = made[name][tuple(sorted({"output": "s3://masks/out", **labels}.items()))]
        return found

    assert value("ray_condinst_images_total", status="ok") == 6
    assert value("ray_condinst_images_total", status="corrupt") == 2
    assert value("ray_condinst_instances_total", category="plant") == 18
    assert value("ray_condinst_stage_seconds_total", stage="model") == 4.0
    assert value("ray_condinst_model_seconds_total", worker="w2") == 2.0
    states = {state: value("ray_condinst_shards", state=state) for state in ("pending", "done", "failed")}
    assert states == {"pending": 1, "done": 2, "failed": 1}


def test_the_dashboard_asks_for_what_there_is(made: dict[str, Any]) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for text in expressions for name in re.findall(r"ray_condinst_\w+", text)}
    assert asked == set(made), "all that is counted is shown, and nothing else of ours is asked for"
    for text in expressions:
        for name, labels in re.findall(r"(ray_condinst_\w+)\{([^}]*)\}", text):
            known = {key for series in made[name] for key, _ in series}
            assert set(re.findall(r"(\w+)[=!]", labels)) <= known, text
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    spaces = [
        (panel["gridPos"]["x"] + dx, panel["gridPos"]["y"] + dy)
        for panel in dashboard["panels"]
        for dx in range(panel["gridPos"]["w"])
        for dy in range(panel["gridPos"]["h"])
    ]
    assert len(spaces) == len(set(spaces)), "no panel lies on another"
