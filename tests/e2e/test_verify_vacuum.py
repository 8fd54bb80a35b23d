"""`condinst verify` and `condinst vacuum` on what `condinst run` made, on disk and in a bucket."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import boto3
import pytest

from pipeline import tables
from tests.command import condinst
from tests.tiny import pictures, tiny_weights


def run(*arguments: object, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `condinst` with these arguments."""
    done = condinst(*arguments, env=env, timeout=580)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that was run to its end."""
    folder = tmp_path_factory.mktemp("job")
    path = folder / "job.yaml"
    path.write_text(
        json.dumps(
            {
                "kind": "segment",
                "name": "fields",
                "input": {"uri": str(pictures(folder / "photos"))},
                "model": {"weights": str(tiny_weights(folder)), "score_threshold": 0.5, "max_instances": 10},
                "output": {"uri": str(folder / "out")},
                "shards": {"images": 4},
            }
        )
    )
    code, _, err = run("run", path, "--local")
    assert code == 0, err
    return path


@pytest.fixture
def output(spec: Path, tmp_path: Path) -> Path:
    """A copy of the job's output, to be damaged."""
    return Path(shutil.copytree(spec.parent / "out", tmp_path / "out"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def old_attempt(output: Path, days: float = 2) -> Path:
    """The trace of an attempt that died so long ago, at the first shard."""
    began = int((time.time() - days * 86_400) * 1000)
    started = output / "_attempts" / "0000-000000" / f"{began:013d}-0123abcd" / "started"
    started.parent.mkdir(parents=True)
    started.write_text("{}")
    return started


def test_a_run_to_its_end_is_good(spec: Path, output: Path) -> None:
    before = files(output)
    for target in (spec, output):
        code, out, err = run("verify", target, "--full")
        assert (code, err) == (0, "")
        assert "4 of 4 committed" in out
        assert "14 rows of 14" in out
        assert "good: complete, and everything agrees" in out
    assert files(output) == before
    instances = tables.open(str(output)).instances().num_rows
    said = json.loads(run("verify", output, "--full", "--json")[1])
    assert said["outcome"] == "good"
    assert said["instances"] == said["masks_decoded"] == instances > 0
    assert said["problems"] == []


def test_missing_shards_are_their_own_outcome_and_a_rerun_brings_them(spec: Path) -> None:
    out = spec.parent / "out"
    (out / "commits" / "0000-000002.json").unlink()
    code, said, _ = run("verify", spec)
    assert code == 4
    assert "0000-000002" in said
    assert "2 public files" not in said
    assert "public files without a commit" in said
    assert run("run", spec, "--local")[0] == 0
    assert run("verify", spec)[0] == 0


def test_damage_is_told_with_where_and_what_to_do_and_that_helps(spec: Path) -> None:
    output = spec.parent / "out"
    damaged = output / "instances" / "0000-000001.parquet"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(bytes(data))
    (output / "images" / "0000-000003.parquet").unlink()
    code, out, err = run("verify", spec)
    assert (code, err) == (6, "")
    problems = [line for line in out.splitlines() if line.startswith(str(output))]
    assert len(problems) == 2
    assert problems[0].startswith(f"{damaged}: other bytes")
    assert "missing" in problems[1]
    said = json.loads(run("verify", spec, "--json")[1])
    assert [problem["fault"] for problem in said["problems"]] == ["file", "file"]
    for shard in ("0000-000001", "0000-000003"):
        assert f"delete commits/{shard}*.json and run the job again" in out
        (output / "commits" / f"{shard}.json").unlink()
    assert run("run", spec, "--local")[0] == 0
    assert run("verify", spec, "--full")[0] == 0


def test_many_problems_are_counted(output: Path) -> None:
    for number in range(30):
        (output / "commits" / f"\x1b[2J{number}.json").write_text("{}")
    code, out, _ = run("verify", output)
    assert code == 6
    assert "and 10 problems more" in out
    assert "\x1b" not in out
    assert len(json.loads(run("verify", output, "--json")[1])["problems"]) == 30


@pytest.mark.parametrize("command", ["verify", "vacuum"])
def test_where_no_job_ran_nothing_is_done(tmp_path: Path, command: str) -> None:
    (tmp_path / "_attempts").mkdir()
    code, _, err = run(command, tmp_path)
    assert code == 2
    assert "holds no job" in err
    code, _, err = run(command, "s3://bucket/out", "--endpoint", "http://127.0.0.1:9", "--anonymous")
    assert code == 3
    assert "http://127.0.0.1:9" in err


def test_vacuum_lists_first_and_removes_on_demand(output: Path) -> None:
    started = old_attempt(output)
    young = old_attempt(output, -1 / 24)
    before = files(output)
    code, out, err = run("vacuum", output)
    assert (code, err) == (0, "")
    assert "attempts that came second" in out
    assert "--yes" in out
    assert files(output) == before
    code, out, _ = run("vacuum", output, "--yes")
    assert code == 0
    assert "removed 1 object, 2 B" in out
    assert not started.exists()
    assert young.exists()
    assert "no orphans" in run("vacuum", output)[1]
    assert run("verify", output)[0] == 0


def test_public_files_without_a_commit_need_a_word_of_their_own(output: Path) -> None:
    (output / "commits" / "0000-000001.json").unlink()
    public = [output / table / "0000-000001.parquet" for table in ("instances", "images")]
    assert "--public removes them too" in run("vacuum", output, "--yes")[1]
    assert all(path.exists() for path in public)
    assert run("vacuum", output, "--yes", "--public")[0] == 0
    assert not any(path.exists() for path in public)


def test_an_age_that_is_none_is_told(output: Path) -> None:
    code, _, err = run("vacuum", output, "--older-than", "soon")
    assert code == 2
    assert "90s, 30m, 1h or 2d" in err


def test_a_bucket_is_checked_like_a_folder(output: Path, s3_bucket: str) -> None:
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    bucket = s3_bucket.removeprefix("s3://")
    old_attempt(output)
    for path in output.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, f"masks/{path.relative_to(output)}")
    uri = f"{s3_bucket}/masks"
    code, out, err = run("verify", uri, "--full")
    assert (code, err) == (0, ""), out
    assert "1 attempts that came second" in out
    assert "removed 1 object," in run("vacuum", uri, "--yes")[1]
    assert "no orphans" in run("vacuum", uri)[1]
    client.put_object(Bucket=bucket, Key="masks/images/0000-000000.parquet", Body=b"other")
    code, out, _ = run("verify", uri)
    assert code == 6
    assert f"{uri}/images/0000-000000.parquet: 5 bytes" in out
    client.delete_object(Bucket=bucket, Key="masks/images/0000-000000.parquet")
    assert run("verify", uri)[0] == 6
