"""The installed `condinst` command, as a user runs it: its own process, real files, a real model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import boto3
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

import condinst
from condinst import weights
from condinst.config import (
    BackboneConfig,
    DetectConfig,
    FpnConfig,
    HeadConfig,
    InputConfig,
    MaskConfig,
    ModelConfig,
    ShortestEdge,
)
from pipeline import tables

COMMAND = Path(sys.executable).with_name("condinst")
GOOD = 30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained model that finds something in most images."""
    torch.manual_seed(3)
    net = condinst.CondInst(
        ModelConfig(
            classes=("plant", "tree", "roof"),
            backbone=BackboneConfig(depth=18, stem_channels=8, width=8),
            fpn=FpnConfig(channels=16),
            head=HeadConfig(num_convs=1, groups=4),
            mask=MaskConfig(branch_channels=8, branch_convs=1),
            input=InputConfig(resize=ShortestEdge(size=128, longest=256)),
            detect=DetectConfig(max_instances=10),
        )
    )
    torch.nn.init.normal_(net.head.logits.weight, std=1.0)
    torch.nn.init.constant_(net.head.logits.bias, -2.0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    weights.save(net, path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good images of three sizes in two folders; a truncated, an empty and an oversized file among them."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    (folder / "more").mkdir()
    for number in range(GOOD):
        size = [(240, 180), (320, 240), (200, 200)][number % 3]
        image = Image.fromarray(rng.integers(90, 130, (size[1], size[0], 3), dtype=np.uint8))
        pen = ImageDraw.Draw(image)
        for _ in range(8):
            x, y, radius = (int(v) for v in rng.integers(10, 170, 3))
            colour = tuple(int(v) for v in rng.integers(0, 255, 3))
            pen.ellipse((x - radius // 6, y - radius // 6, x + radius // 6, y + radius // 6), fill=colour)
        image.save(folder / ("more" if number % 2 else ".") / f"field {number:02d}.jpg", quality=90)
    whole = (folder / "field 00.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    Image.new("L", (3000, 2000)).save(folder / "oversized.png")
    return folder


def run(
    *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `condinst` with these arguments."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=580,
        env={**os.environ, "COLUMNS": "200", **(env or {})},
        cwd=cwd,
    )
    return done.returncode, done.stdout, done.stderr


def write_spec(
    folder: Path, photos: object, output: object, model: object, changes: Mapping[str, object] | None = None
) -> Path:
    """A job spec over the photos; JSON is YAML."""
    spec: dict[str, object] = {
        "kind": "segment",
        "name": "fields",
        "input": {"uri": str(photos)},
        "model": {"weights": str(model), "score_threshold": 0.2},
        "output": {"uri": str(output)},
        "shards": {"images": 4},
        "limits": {"pixels": 1_000_000},
        **(changes or {}),
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(spec))
    return path


def rows(output: object) -> tuple[pa.Table, pa.Table]:
    """The two tables without what may differ between equal runs."""
    opened = tables.open(str(output))
    assert opened.complete
    return tables.canonical(opened.images()), tables.canonical(opened.instances())


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, photos: Path, model: Path) -> Path:
    """The output of an undisturbed run in one process."""
    folder = tmp_path_factory.mktemp("reference")
    spec = write_spec(folder, photos, folder / "out", model)
    code, out, err = run("run", spec, "--local")
    assert code == 0, err
    assert f"{GOOD + 3} images" in out or f"{GOOD + 3}/" in out
    assert "3 of 33 inputs were not segmented, such as " in out
    return folder / "out"


def test_every_input_has_one_row_with_its_status(reference: Path, photos: Path) -> None:
    images, instances = rows(reference)
    by_id = {row["image_id"]: row for row in images.to_pylist()}
    assert sorted(by_id) == sorted(str(p.relative_to(photos)) for p in photos.rglob("*") if p.is_file())
    assert images.num_rows == GOOD + 3
    for name, status, words in (
        ("truncated.jpg", "corrupt", ""),
        ("empty.jpg", "corrupt", "empty"),
        ("oversized.png", "too_large", "3000x2000"),
    ):
        assert by_id[name]["status"] == status
        assert words in by_id[name]["error"]
    good = [row for name, row in by_id.items() if "field" in name]
    assert {row["status"] for row in good} <= {"ok", "empty"}
    assert sum(row["instances"] for row in good) == instances.num_rows > 0


def test_the_summary_adds_up(reference: Path) -> None:
    said = json.loads((reference / "summary.json").read_text())
    assert said["images"] == GOOD + 3 == sum(said["statuses"].values())
    assert said["statuses"]["corrupt"] == 2
    assert said["instances"] == sum(said["classes"].values()) == rows(reference)[1].num_rows
    assert all(0 < worker["model_busy"] <= 1 for worker in said["workers"].values())
    assert said["versions"]["torch"] == torch.__version__
    job = json.loads((reference / "job.json").read_text())
    assert job["fingerprint"] == said["fingerprint"]
    assert job["spec"]["model"]["score_threshold"] == 0.2


def test_the_query_that_a_run_prints_works(
    tmp_path: Path, reference: Path, photos: Path, model: Path
) -> None:
    before = tree(reference)
    code, out, _ = run("run", write_spec(tmp_path, photos, reference, model), "--local")
    assert code == 0
    assert "complete already" in out
    assert tree(reference) == before
    queries = [line.strip() for line in out.splitlines() if line.strip().startswith("SELECT")]
    found, why = (duckdb.sql(query).fetchall() for query in queries)
    assert sum(row[1] for row in found) == rows(reference)[1].num_rows
    assert sum(row[2] for row in why) == GOOD + 3


def test_plan_says_what_is_to_do_and_changes_nothing(tmp_path: Path, photos: Path, model: Path) -> None:
    spec = write_spec(tmp_path, photos, tmp_path / "out", model)
    before = tree(tmp_path)
    code, out, err = run("plan", spec, cwd=tmp_path)
    assert code == 0, err
    assert f"{GOOD + 3} images" in out
    assert "0 done, 9 to do" in out
    assert tree(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_plan_of_a_complete_job(tmp_path: Path, reference: Path, photos: Path, model: Path) -> None:
    before = tree(reference)
    code, out, _ = run("plan", write_spec(tmp_path, photos, reference, model))
    assert code == 0
    assert "9 done, 0 to do" in out
    assert tree(reference) == before


def test_other_settings_are_refused_and_named(
    tmp_path: Path, reference: Path, photos: Path, model: Path
) -> None:
    spec = write_spec(tmp_path, photos, reference, model)
    before = tree(reference)
    for command in (["run", spec, "--local"], ["plan", spec]):
        code, _, err = run(*command, "--set", "model.score_threshold=0.5")
        assert code == 5
        assert "score_threshold: 0.2 -> 0.5" in err
        assert "Traceback" not in err
    assert tree(reference) == before


def test_another_input_for_the_same_output_is_refused(
    tmp_path: Path, reference: Path, photos: Path, model: Path
) -> None:
    before = tree(reference)
    for command in (("run", "--local"), ("plan",)):
        code, _, err = run(command[0], write_spec(tmp_path, photos / "more", reference, model), *command[1:])
        assert code == 5
        assert f'input.0.uri: "{photos}" -> "{photos / "more"}"' in err
        assert "`mode: new`" in err
    assert tree(reference) == before


def test_status_of_a_job(tmp_path: Path, reference: Path, photos: Path, model: Path) -> None:
    for target in (reference, write_spec(tmp_path, photos, reference, model)):
        code, out, _ = run("status", target)
        assert code == 0
        assert "9 of 9" in out
        assert "2 corrupt" in out
    code, _, err = run("status", tmp_path)
    assert code == 2
    assert "holds no job" in err


def test_status_of_a_job_at_work(tmp_path: Path, reference: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(reference, output)
    for commit in sorted((output / "commits").glob("*.json"))[5:]:
        commit.unlink()
    assert "no worker is at work" in run("status", output)[1]
    now = time.time()
    shard = {"since": now - 5, "images": 4, "done": 3}
    sign = {"worker": "w-1", "time": now, "started": now - 10, "images": 20, "shards": {"0000-000005": shard}}
    (output / "_progress").mkdir(exist_ok=True)
    (output / "_progress" / "w-1.json").write_text(json.dumps(sign))
    (output / "_progress" / "w-2.json").write_text("{broken")
    code, out, err = run("status", output)
    assert code == 0, err
    assert "5 of 9" in out
    assert "1 worker at work, 2.0 images/s" in out
    assert "0000-000005 3/4" in out


def test_bad_specs_say_where_and_what(tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(
        "kind: segment\nname: x\nmodel:\n  scoer_threshold: 0.3\noutput: {uri: out}\nworkers: {count: 0}\n"
    )
    for command in ("run", "plan", "try"):
        code, out, err = run(command, spec, "--set", "shards.images=many")
        assert code == 2
        assert out == ""
        lines = err.splitlines()
        assert len(lines) == 4
        assert f"{spec}:4:3: model.scoer_threshold: unknown key; did you mean score_threshold?" in lines
        assert any("input: missing" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": {"uri": "/no/such/folder"}}, "/no/such/folder"),
        ({"input": {"uri": ".", "include": "*.nothing"}}, "no images"),
        ({"model": {"weights": "/no/such.safetensors"}}, "no such weights file"),
    ],
)
def test_what_is_not_there_leaves_no_trace(
    tmp_path: Path, photos: Path, model: Path, changes: dict[str, object], message: str
) -> None:
    spec = write_spec(tmp_path, photos, tmp_path / "out", model, changes)
    code, _, err = run("run", spec, "--local", cwd=tmp_path)
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err
    assert tree(tmp_path).keys() == {"job.yaml"}


def test_an_unreachable_store_has_its_own_exit_code(tmp_path: Path, photos: Path, model: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hush-hush", "AWS_REGION": "us-east-1"}
    output = {"uri": "s3://bucket/out", "endpoint": "http://127.0.0.1:9"}
    spec = write_spec(tmp_path, photos, "", model, {"output": output})
    code, _, err = run("plan", spec, env=keys)
    assert code == 3
    assert "http://127.0.0.1:9" in err
    assert "hush-hush" not in err
    assert "Traceback" not in err


def test_try_draws_a_sample_and_leaves_the_output_alone(tmp_path: Path, photos: Path, model: Path) -> None:
    spec = write_spec(tmp_path, photos, tmp_path / "out", model)
    printed = []
    for folder in ("first", "second"):
        code, out, err = run("try", spec, "--images", 6, "--output", tmp_path / folder)
        assert code == 0, err
        *lines, totals, caution = out.splitlines()
        printed.append([line.split(" → ")[0] for line in lines])
        assert totals.startswith("6 images (")
        assert caution.startswith("5 images held as many instances as model.max_instances allows")
    assert printed[0] == printed[1]
    assert len(printed[0]) == 7
    pictures = sorted((tmp_path / "first").glob("*.jpg"))
    assert pictures
    assert min(max(Image.open(path).size) for path in pictures) >= 900
    assert not (tmp_path / "out").exists()


def test_predict_draws_and_lists(tmp_path: Path, photos: Path, model: Path) -> None:
    code, out, err = run(
        "predict", photos / "field 00.jpg", photos / "truncated.jpg", "--weights", model,
        "--output", tmp_path / "drawn", "--score-threshold", 0.05,
    )  # fmt: skip
    assert code == 0, err
    assert "truncated.jpg corrupt" in out
    assert "score" in out
    assert f"instances in {tmp_path}/drawn/instances.parquet" in out
    found = pq.read_table(tmp_path / "drawn" / "instances.parquet")
    assert set(found["image_id"].to_pylist()) == {str(photos / "field 00.jpg")}
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [
        "field_00.jpg",
        "instances.parquet",
    ]
    assert run("predict", tmp_path / "none.jpg")[0] == 2


def started(spec: Path, output: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A run that has committed something and is not done yet."""
    process = subprocess.Popen(
        [COMMAND, "run", spec, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not any((output / "commits").glob("*.json")):
        time.sleep(0.002)
    assert process.poll() is None
    return process


@pytest.fixture
def many(tmp_path: Path, photos: Path) -> Path:
    """So many images that a run takes a while."""
    folder = tmp_path / "many"
    folder.mkdir()
    for copy in range(8):
        for path in photos.rglob("*.jpg"):
            (folder / f"{copy}-{path.name}").hardlink_to(path)
    return folder


def test_a_killed_driver_is_continued_and_the_rows_are_the_same(
    tmp_path: Path, many: Path, model: Path
) -> None:
    spec = write_spec(tmp_path, many, tmp_path / "out", model)
    process = started(spec, tmp_path / "out", "--local")
    process.kill()
    process.wait()
    done = {path: path.read_bytes() for path in (tmp_path / "out" / "commits").glob("*.json")}
    assert 0 < len(done) < 64
    code, out, _ = run("status", tmp_path / "out")
    assert code == 0
    assert "not complete" in out
    assert run("run", spec, "--local")[0] == 0
    assert {path: path.read_bytes() for path in done} == done
    undisturbed = tmp_path / "undisturbed"
    assert run("run", spec, "--local", "--set", f"output.uri={undisturbed}")[0] == 0
    for mine, theirs in zip(rows(tmp_path / "out"), rows(undisturbed), strict=True):
        assert mine.equals(theirs)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_in_good_order(
    tmp_path: Path, many: Path, model: Path, number: signal.Signals, code: int
) -> None:
    spec = write_spec(tmp_path, many, tmp_path / "out", model)
    process = started(spec, tmp_path / "out", "--local")
    process.send_signal(number)
    assert process.wait(60) == code
    opened = tables.open(str(tmp_path / "out"))
    assert not opened.complete
    assert opened.images().num_rows == sum(sum(commit.counts.values()) for commit in opened.commits)
    assert not any((tmp_path / "out" / "_progress").glob("*"))


def test_two_workers_on_ray_give_the_same_rows(
    tmp_path: Path, reference: Path, photos: Path, model: Path
) -> None:
    spec = write_spec(tmp_path, photos, tmp_path / "out", model, {"workers": {"count": 2}})
    code, _, err = run("run", spec)
    assert code == 0, err
    assert "Traceback" not in err
    said = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert said["run"]["engine"] == "ray"
    for mine, theirs in zip(rows(tmp_path / "out"), rows(reference), strict=True):
        assert mine.equals(theirs)


def test_a_bucket_gives_the_same_rows_as_a_folder(
    tmp_path: Path, reference: Path, photos: Path, model: Path, s3_bucket: str
) -> None:
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    bucket = s3_bucket.removeprefix("s3://")
    for path in photos.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, f"photos/{path.relative_to(photos)}")
    client.upload_file(str(model), bucket, "models/tiny.safetensors")
    spec = write_spec(
        tmp_path, f"{s3_bucket}/photos/", f"{s3_bucket}/masks/fields", f"{s3_bucket}/models/tiny.safetensors"
    )
    code, out, err = run("run", spec, "--local")
    assert code == 0, err
    assert run("status", f"{s3_bucket}/masks/fields")[0] == 0
    for mine, theirs in zip(rows(f"{s3_bucket}/masks/fields"), rows(reference), strict=True):
        assert mine.equals(theirs)
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]]
    for key in (key for key in keys if key.startswith("masks/")):
        assert b"test-secret-value" not in client.get_object(Bucket=bucket, Key=key)["Body"].read()
    assert "test-secret-value" not in out + err
    assert (
        run("run", spec, "--set", "input.uri=s3://no-such-bucket-here/x", "--set", "output.uri=out")[0] == 3
    )
