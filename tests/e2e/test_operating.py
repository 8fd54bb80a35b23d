"""Operating a job with the installed command: retry, cancel, max_failed, and SIGTERM on a real Ray."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import tables
from pipeline.storage import Store
from tests.command import COMMAND, condinst
from tests.tiny import encoded, picture, pictures, tiny_weights

BAD = 2
IMAGES = 14


def run(*arguments: object, cwd: Path | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `condinst` with these arguments."""
    done = condinst(*arguments, cwd=cwd)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def write_spec(folder: Path, **changes: object) -> Path:
    """A job over the folder's `photos`; its places are relative to the folder. JSON is YAML."""
    spec: dict[str, object] = {
        "kind": "segment",
        "name": "fields",
        "input": {"uri": "photos"},
        "model": {"weights": "tiny-0.safetensors", "score_threshold": 0.5, "max_instances": 10},
        "output": {"uri": "out"},
        "shards": {"images": 4},
        **changes,
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(spec))
    return path


def made_job(folder: Path, images: int) -> Path:
    """A folder with images, weights, a spec, and the output of its job; two more inputs ended as corrupt."""
    pictures(folder / "photos", images)
    tiny_weights(folder)
    code, _, err = run("run", write_spec(folder), "--local", cwd=folder)
    assert code == 0, err
    return folder


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete job, not to be changed."""
    return made_job(tmp_path_factory.mktemp("job"), IMAGES - BAD)


@pytest.fixture
def job(complete: Path, tmp_path: Path) -> Path:
    """The same with an output and weights of its own; its inputs are those of the other."""
    folder = Path(shutil.copytree(complete, tmp_path / "copy"))
    text = (folder / "out" / "job.json").read_text()
    (folder / "out" / "job.json").write_text(text.replace(str(complete), str(folder)))
    return folder


def commits(output: Path) -> dict[str, bytes]:
    """Of records alone: a job at work has files there that are not one yet."""
    return {path.name: path.read_bytes() for path in (output / "commits").glob("*.json")}


def test_retry_of_mended_inputs_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    job = made_job(tmp_path / "job", IMAGES - BAD)
    output = job / "out"
    (job / "photos" / "b" / "nothing.png").write_bytes(encoded(picture(3)))
    before = commits(output)
    code, out, err = run("retry", output, "--status", "corrupt", "--dry-run", cwd=tmp_path)
    assert code == 0, err
    assert "2 inputs in 2 shards ended corrupt" in out
    assert "nothing was changed" in out
    assert commits(output) == before
    code, out, err = run("retry", output, "--status", "corrupt,failed", "--local", cwd=tmp_path)
    assert code == 0, err
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line[:2] in ("co", "ok")}
    assert table == {"corrupt": ["2", "1"], "ok": ["12", "13"]}
    after = commits(output)
    assert {name: after[name] for name in before} == before, "no record changes"
    assert len(after) == len(before) + 2
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["statuses"]["ok"], summary["statuses"]["corrupt"]) == (13, 1)
    assert summary["instances"] == tables.open(str(output)).instances().num_rows
    assert summary["run"]["retry"] == ["corrupt", "failed"]
    assert not list((output / "_retry").glob("*"))
    assert run("verify", output, "--full")[0] == 0
    assert "files of shards just retried" not in run("vacuum", output, "--older-than", "0s")[1]
    code, out, _ = run("retry", job / "job.yaml", "--status", "missing", "--local", cwd=job)
    assert (code, "nothing to retry" in out) == (0, True)


def test_retry_refuses_what_would_be_other_rows(job: Path) -> None:
    before = commits(job / "out")
    code, _, err = run("retry", job / "out", "--status", "corrupt,ok", "--local")
    assert code == 2
    assert "--status: ok cannot be retried; give some of corrupt,failed,missing" in err
    os.replace(tiny_weights(job, seed=1), job / "tiny-0.safetensors")
    code, _, err = run("retry", job / "out", "--status", "corrupt", "--local")
    assert code == 5
    assert "model_digest: " in err
    assert commits(job / "out") == before


def test_a_killed_retry_is_continued(job: Path) -> None:
    """Killed after its first shard's new revision, whose input failed again: that shard is not done again."""
    output = job / "out"
    spec = write_spec(job, shards={"images": 4})
    before = len(commits(output))
    process = subprocess.Popen(
        [COMMAND, "retry", spec, "--status", "corrupt", "--local"], cwd=job, stdout=subprocess.DEVNULL
    )
    until(lambda: len(commits(output)) > before or process.poll() is not None)
    process.kill()
    process.wait()
    done = {name: data for name, data in commits(output).items() if ".r" in name}
    code, out, err = run("retry", spec, "--status", "corrupt", "--local", cwd=job)
    assert code == 0, err
    if len(done) == 1:
        assert "1 shard done by a retry that was cut off" in out
    after = {name: data for name, data in commits(output).items() if ".r" in name}
    assert len(after) >= 2
    assert {name: after[name] for name in done} == done
    assert run("verify", output)[0] == 0


def test_max_failed_stops_says_so_and_goes_on_with_a_higher_value(complete: Path, tmp_path: Path) -> None:
    shutil.copytree(complete / "photos", tmp_path / "photos")
    shutil.copy(complete / "tiny-0.safetensors", tmp_path)
    for number in range(3):
        (tmp_path / "photos" / f"0-{number}.png").write_bytes(b"")
    spec = write_spec(tmp_path, max_failed=2, shards={"images": 1})
    code, out, err = run("run", spec, "--local", cwd=tmp_path)
    assert code == 7, out + err
    assert "3 of 17 planned inputs ended badly (3 corrupt), and max_failed is 2; the job was stopped" in err
    assert "  0-0.png: corrupt, the file is empty" in err
    assert "SELECT status, error, count(*)" in err
    done = commits(tmp_path / "out")
    assert 3 <= len(done) < 17
    assert run("run", spec, "--local", cwd=tmp_path)[0] == 7, "nothing more is done"
    assert commits(tmp_path / "out") == done
    code, out, err = run("run", spec, "--local", "--set", "max_failed=30%", cwd=tmp_path)
    assert code == 0, err
    assert tables.open(str(tmp_path / "out")).complete
    code, out, err = run("run", spec, "--local", "--set", "max_failed=29%", cwd=tmp_path)
    assert (code, "complete already" in out) == (7, True), "29 % of 17 is not 5"
    assert "every input has its row all the same" in err


def until(condition: Callable[[], object], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def copied(complete: Path, folder: Path, copies: int) -> Path:
    """A folder with so many times the good images, and the weights."""
    (folder / "photos").mkdir()
    for copy in range(copies):
        for path in (complete / "photos").rglob("0*.png"):
            (folder / "photos" / f"{copy:03d}-{path.name}").hardlink_to(path)
    shutil.copy(complete / "tiny-0.safetensors", folder)
    return folder


@pytest.fixture
def many(complete: Path, tmp_path: Path) -> Path:
    """So many images that a run takes a while."""
    return copied(complete, tmp_path, 160)


@pytest.fixture
def lots(complete: Path, tmp_path: Path) -> Path:
    """So many that a run takes longer than a request to cancel, which is looked for every five seconds."""
    return copied(complete, tmp_path, 640)


def test_cancel_from_another_process(lots: Path) -> None:
    spec, output = write_spec(lots, shards={"images": 16}), lots / "out"
    assert run("cancel", output)[0] == 2, "no job yet"
    driver = subprocess.Popen(
        [COMMAND, "run", spec, "--local"], cwd=lots, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: any((output / "commits").glob("*.json")))
    code, out, err = run("cancel", spec, cwd=lots)
    assert code == 0, err
    assert "cancel requested" in out
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 8, out + err
    assert "cancelled on request" in err
    assert "run the same command again" in err
    code, out, _ = run("status", output)
    assert "cancel requested" in out
    assert "not complete" in out
    done = len(commits(output))
    again = subprocess.Popen([COMMAND, "run", spec, "--local"], cwd=lots, stdout=subprocess.DEVNULL)
    until(lambda: len(commits(output)) > done)
    assert not (output / "_cancel").exists()
    again.kill()
    again.wait()


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A place for a Ray of this test's own; short, because sockets lie in it."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.usefixtures("ray_folder")
def test_sigterm_on_ray_commits_what_is_in_work(many: Path) -> None:
    spec, output = write_spec(many, shards={"images": 8}), many / "out"
    cores = os.cpu_count() or 1
    driver = subprocess.Popen(
        [COMMAND, "run", spec, "--set", f"workers.cpus={cores + 1}"],
        cwd=many, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: len(list((output / "commits").glob("*.json"))) >= 3)
    driver.send_signal(signal.SIGTERM)
    # Not a glob: it fails where a folder goes while it looks into it.
    begun = {
        info.key.split("/")[1]
        for info in Store.open(str(output)).list("_attempts/")
        if info.key.endswith("/started")
    }
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 143, out + err
    assert "stopped by SIGTERM" in err
    assert f"note: 1 worker of {cores + 1} CPUs on " in out
    assert f"; set workers.cpus={cores}\n" in out
    done = {name.removesuffix(".json") for name in commits(output)}
    assert begun <= done, "a shard in work was dropped"
    assert len(done) < 160 * (IMAGES - BAD) // 8
    assert not list(output.glob("_attempts/*/*/*")), "all is published, nothing was left half done"
    assert not list(output.glob("_stop/*"))
    assert not list(output.glob("_progress/*"))
    assert run("verify", output)[0] == 4
