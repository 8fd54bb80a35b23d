"""A run told in lines of JSON: nothing else on stdout, and the numbers are those of the summary."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.integration.nodes import BIN
from tests.tiny import pictures, tiny_weights

ROOT = Path(__file__).parents[2]


def test_events_of_a_run(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 10)
    tiny_weights(tmp_path)
    spec = {
        "kind": "segment",
        "name": "told",
        "input": {"uri": "photos"},
        "model": {"weights": "tiny-0.safetensors", "score_threshold": 0.5, "max_instances": 10},
        "output": {"uri": "out"},
        "shards": {"images": 4},
        "max_failed": 5,
    }
    (tmp_path / "job.yaml").write_text(json.dumps(spec))
    command = [BIN / "condinst", "run", "job.yaml", "--local", "--json-logs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def events(*more: str) -> tuple[int, list[dict[str, object]]]:
        done = subprocess.run(
            [*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=580
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    code, told = events()
    assert code == 0
    names = [line["event"] for line in told]
    assert names[0] == "planned"
    assert names[-1] == "complete"
    assert names.count("shard") == 3
    assert all({"time", "level", "event"} <= set(line) for line in told)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told[-1]["statuses"] == summary["statuses"]
    assert told[-1]["instances"] == summary["instances"]
    shards = [line for line in told if line["event"] == "shard"]
    assert sum(int(str(line["instances"])) for line in shards) == summary["instances"]
    # An error is an event too, with the exit code, beside the words on stderr.
    code, told = events("--set", "max_failed=0")
    assert code == 7
    assert (told[-1]["event"], told[-1]["level"], told[-1]["code"]) == ("error", "error", 7)
