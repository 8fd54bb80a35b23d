"""What the scheduler makes of its specs' files: seen when they change, with the bases that they extend."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs import cli, schedule_child, schedule_runners
from jobs.check import load_job
from jobs.conventions import JobSpec
from jobs.extending import files_of
from jobs.filling import DATE_VARIABLE
from jobs.schedule import Entry, Outcome, Scheduler
from jobs.schedule_runners import ClusterRunner
from jobs.schedule_serve import _Files, read_entries
from jobs.schedule_state import Run, ScheduleState
from jobs.spec import SegmentSpec
from jobs.submit import Submission

BASE = """
kind: segment
input: {uri: photos}
output: {uri: masks}
schedule: {cron: "0 2 * * *"}
"""


class Served:
    """Stands for the scheduler: what it was last told to serve, and what people were told."""

    def __init__(self, specs: Sequence[Path]) -> None:
        self.files = _Files(specs)
        self.entries = read_entries(specs)
        self.times = 0
        self.said: list[str] = []

    def look(self) -> None:
        self.files.look(self._serve, self.said.append)

    def _serve(self, entries: Sequence[Entry], _now: datetime) -> None:
        self.entries, self.times = list(entries), self.times + 1


def write(path: Path, text: str) -> None:
    """Write a file that is newer than it was, however soon that is."""
    later = path.stat().st_mtime_ns + 1_000_000 if path.exists() else None
    path.write_text(text)
    if later is not None:
        os.utime(path, ns=(later, later))


@pytest.fixture
def specs(tmp_path: Path) -> list[Path]:
    (tmp_path / "base").mkdir()
    write(tmp_path / "base" / "all.yaml", BASE)
    write(tmp_path / "base" / "night.yaml", "extends: all.yaml\nretries: 1\n")
    write(tmp_path / "a.yaml", "extends: base/night.yaml\nname: a\n")
    write(tmp_path / "b.yaml", BASE + "name: b\n")
    return [tmp_path / "a.yaml", tmp_path / "b.yaml"]


def test_a_base_that_changes_is_seen(specs: list[Path], tmp_path: Path) -> None:
    served = Served(specs)
    served.look()
    assert served.times == 0, "nothing has changed"
    write(tmp_path / "base" / "all.yaml", BASE.replace("0 2", "0 3"))
    served.look()
    assert [entry.cron for entry in served.entries] == ["0 3 * * *", "0 2 * * *"]
    write(tmp_path / "base" / "night.yaml", "extends: other.yaml\nretries: 2\n")
    served.look()
    assert "other.yaml" in served.said[-1]
    assert served.entries[0].retries == 1, "the last good one stays"
    write(tmp_path / "base" / "other.yaml", BASE.replace("0 2", "0 4"))
    served.look()
    assert (served.entries[0].cron, served.entries[0].retries) == ("0 4 * * *", 2), "a base that came since"
    served.look()
    assert served.times == 2


def test_the_files_of_a_spec_are_its_chain_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    assert files_of(tmp_path / "a.yaml") == [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    assert files_of(tmp_path / "a.yaml") == [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    (tmp_path / "b.yaml").write_text("{")
    assert files_of(tmp_path / "a.yaml") == [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    assert files_of(tmp_path / "none.yaml") == [tmp_path / "none.yaml"]


FIRE = datetime(2026, 5, 4, 2, tzinfo=UTC)


@pytest.fixture
def taken_over(specs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScheduleState:
    """A state whose scheduler has taken over a spec, which somebody has broken since."""
    monkeypatch.setenv("PLACE", "here")
    write(tmp_path / "base" / "all.yaml", BASE.replace("uri: masks", 'uri: "s3://masks/${PLACE}/{{ date }}"'))
    state = ScheduleState(tmp_path / "s.sqlite")
    Scheduler(state, Nothing()).serve(read_entries(specs), FIRE)
    write(tmp_path / "base" / "all.yaml", "nonsense: true\n")
    assert "${PLACE}" in (state.spec("a") or ""), "not filled in: it could be secret"
    return state


class Nothing:
    """Runs nothing."""

    def start(self, entry: Entry, run: Run) -> str:
        raise NotImplementedError

    def look(self, run: Run) -> Outcome | None:
        raise NotImplementedError


def test_a_local_run_runs_the_last_good_spec(
    taken_over: ScheduleState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, JobSpec]] = []
    monkeypatch.setattr(cli, "main", lambda: ran.append((sys.argv[1], load_job(Path(sys.argv[2])))))
    monkeypatch.setenv(DATE_VARIABLE, "2026-05-04")
    (tmp_path / "s.sqlite.runs").mkdir()
    with (tmp_path / "lock").open("w") as lock:
        given = [str(taken_over.path), "a", FIRE.isoformat(), "1", str(lock.fileno())]
        monkeypatch.setattr(sys, "argv", ["child", *given])
        with pytest.raises(SystemExit) as end:
            schedule_child.main()
    assert end.value.code == 0
    [(command, spec)] = ran
    assert isinstance(spec, SegmentSpec)
    assert (command, spec.name, spec.output.uri) == ("run", "a", "s3://masks/here/2026-05-04")


def test_a_cluster_is_sent_the_last_good_spec(
    taken_over: ScheduleState, specs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Submission] = []
    monkeypatch.setattr(schedule_runners, "JobServer", lambda address: None)
    monkeypatch.setattr(schedule_runners, "start", lambda server, submission, _id: sent.append(submission))
    runner = ClusterRunner(taken_over, "http://head:8265")
    known = taken_over.schedule("a")
    assert known is not None
    text = taken_over.spec("a") or ""
    entry = Entry("a", Path(known.path), known.cron, known.timezone, text=text)
    runner.start(entry, Run("a", FIRE, "due"))
    assert [submission.output for submission in sent] == ["s3://masks/here/2026-05-04"]
