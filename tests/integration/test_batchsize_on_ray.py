"""What a worker's GPU decides is asked of a task of its own, in a process of its own, on a real Ray."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import batchsize
from pipeline.settings import SegmentSettings
from tests.job import settings_of


@pytest.mark.usefixtures("ray_cluster")
def test_a_task_on_the_cluster_decides(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(settings: SegmentSettings) -> SegmentSettings:
        assert os.environ["OF_THE_JOB"] == "yes"
        return replace(settings, batch_images=7, batch_pixels=os.getpid())

    monkeypatch.setattr(batchsize, "look", look)
    asked = settings_of("/in", weights, str(tmp_path), batch_images=0, env={"OF_THE_JOB": "yes"})
    found = [batchsize.fitted(asked, local=False) for _ in range(2)]
    assert [one.batch_images for one in found] == [7, 7]
    pids = {one.batch_pixels for one in found}
    assert len(pids) == 2, "a process does one look, and its memory goes with it"
    assert os.getpid() not in pids
