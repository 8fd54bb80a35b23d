"""What the scheduler makes of its specs' files: seen when they change, with the bases that they extend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from jobs.extending import files_of
from jobs.schedule import Entry
from jobs.schedule_serve import _Files, read_entries

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
