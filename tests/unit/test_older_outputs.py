"""Outputs that a version made which knew no `images.capped`: what they were, they stay."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from jobs.check import load_text
from jobs.filter import filter_output
from jobs.retry import retry_output
from jobs.retrying import Wanted
from jobs.run_report.page import render
from jobs.segment import run_job
from pipeline import tables
from pipeline.export.selection import Selection
from pipeline.storage import Store, StoreOptions
from tests.made import rewrite
from tests.tiny import encoded, picture, tiny_weights

QUIET = Console(quiet=True)


@pytest.fixture
def older(tmp_path: Path) -> tuple[Store, str]:
    """A complete output without the column, one of whose inputs was bad and is mended since; and its spec."""
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.png").write_bytes(encoded(picture(number)))
    (tmp_path / "photos" / "1.png").write_bytes(b"")
    spec = {
        "kind": "segment",
        "name": "older",
        "input": {"uri": str(tmp_path / "photos")},
        "model": {"weights": str(tiny_weights(tmp_path)), "max_instances": 2},
        "output": {"uri": str(tmp_path / "out")},
    }
    run_job(load_text(json.dumps(spec), "spec"), local=True, console=QUIET)
    store = Store.open(str(tmp_path / "out"))

    def without(table: pa.Table) -> pa.Table:
        return table.drop_columns(["capped"])

    rewrite(store, "0000-000000", "images", without)
    summary = json.loads(store.get("summary.json"))
    del summary["capped"]
    store.put("summary.json", json.dumps(summary).encode())
    (tmp_path / "photos" / "1.png").write_bytes(encoded(picture(1)))
    return store, json.dumps(spec)


def test_it_is_complete_and_reported(older: tuple[Store, str]) -> None:
    store, spec = older
    assert run_job(load_text(spec, "spec"), local=True, console=QUIET)["capped"] == 0
    assert "held as many instances" not in render(tables.open(store.uri))


def test_its_inputs_are_retried(older: tuple[Store, str]) -> None:
    store, _ = older
    retry_output(store.uri, StoreOptions(), Wanted(frozenset({"corrupt"}), local=True), QUIET)
    assert tables.open(store.uri).images()["capped"].to_pylist() == [None, 1, None]


def test_it_is_filtered(older: tuple[Store, str], tmp_path: Path) -> None:
    filter_output(older[0].uri, str(tmp_path / "sure"), Selection(min_score=0.5), StoreOptions(), QUIET)
    assert tables.open(str(tmp_path / "sure")).images()["capped"].to_pylist() == [None] * 3
