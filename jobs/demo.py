"""`condinst demo`: the main job on generated fields, from a spec to tables, overlays and its AP."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import yaml
from PIL import Image
from pycocotools.coco import COCO
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from condinst.evaluate import Metrics, evaluate, load_truth
from condinst.weightsfile import demo_path, read_config
from jobs.check import load
from jobs.from_tables import coco_results, instances_of
from jobs.overlay import draw
from jobs.scenes import write_dataset, write_mosaic
from jobs.segment import run_job
from pipeline import tables

SEEDS = range(100_000, 100_024)
"""Scenes that training never saw (it takes its seeds from below 100,000)."""
MOSAIC_SEED = 100_100
SCENE_PIXELS = 512
MOSAIC_PIXELS = 1536
MAX_DETS = 1000
"""The mosaic alone shows more than 300 things."""


def main(output: Path | None = None, console: Console | None = None) -> int:
    """Generate scenes, run a job over them, draw some, measure it; says where everything is. Returns 0."""
    console = console or Console()
    began = time.monotonic()
    folder = (output or Path("demo-output")).resolve()
    truth = _scenes(folder, console)
    spec_file = _spec(folder)
    console.print(f"running [bold]condinst run {escape(str(spec_file))}[/]", highlight=False, soft_wrap=True)
    run_job(load(spec_file, []), console=console)
    run = tables.open(str(folder / "masks"))
    drawn = _draw(run, folder, truth)
    metrics = [evaluate(truth, list(coco_results(run, truth)), kind, MAX_DETS) for kind in ("segm", "bbox")]
    (folder / "metrics.json").write_text(json.dumps([m.summary() for m in metrics], indent=2))
    _report(console, folder, metrics, drawn, time.monotonic() - began)
    return 0


def _scenes(folder: Path, console: Console) -> COCO:
    """The input and its truth; generated once, the same on every machine."""
    data, mosaic = folder / "fields", folder / "mosaic" / "mosaic.tif"
    joint = folder / "truth.json"
    if not joint.exists():
        console.print(f"generating {len(SEEDS)} scenes and a mosaic in {escape(str(folder))}", soft_wrap=True)
        mosaic.parent.mkdir(parents=True, exist_ok=True)
        parts = [
            write_dataset(data, SEEDS, SCENE_PIXELS),
            write_mosaic(mosaic, MOSAIC_SEED, MOSAIC_PIXELS, MOSAIC_PIXELS),
        ]
        joint.write_text(json.dumps(_joined([json.loads(part.read_text()) for part in parts])))
    return load_truth(json.loads(joint.read_text()))


def _joined(parts: list[dict[str, list[dict[str, object]]]]) -> dict[str, list[dict[str, object]]]:
    """COCO sets of one list of categories as one set; annotations are numbered anew."""
    annotations = [annotation for part in parts for annotation in part["annotations"]]
    return {
        "images": [image for part in parts for image in part["images"]],
        "annotations": [{**a, "id": number} for number, a in enumerate(annotations, start=1)],
        "categories": parts[0]["categories"],
    }


def _spec(folder: Path) -> Path:
    """The job as a file, for the user to read and to change."""
    spec = {
        "kind": "segment",
        "name": "demo",
        "input": [
            {"uri": str(folder / "fields" / "images"), "include": ["*.jpg"]},
            {"uri": str(folder / "mosaic"), "include": ["*.tif"]},
        ],
        "model": {"weights": "demo", "score_threshold": 0.05, "max_instances": MAX_DETS},
        "output": {"uri": str(folder / "masks")},
        "shards": {"images": 8},
        "workers": {"count": 1, "gpus": 0, "cpus": 1},
    }
    path = folder / "demo.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def _draw(run: tables.Run, folder: Path, truth: COCO, shown_score: float = 0.4) -> list[Path]:
    """Overlays of every sixth scene and of the mosaic, of the instances that are fairly sure."""
    classes = read_config(demo_path()).classes
    overlays = folder / "overlays"
    overlays.mkdir(exist_ok=True)
    rows = run.images(["image_id", "uri", "status"], filter=pc.field("status") == "ok").to_pylist()
    paths = []
    for row in [*rows[:-1:6], rows[-1]]:
        wanted = (pc.field("image_id") == row["image_id"]) & (pc.field("score") > shown_score)
        found = instances_of(run.instances(filter=wanted), classes)
        image = np.asarray(Image.open(row["uri"]).convert("RGB"))
        path = overlays / f"{Path(row['image_id']).stem}.jpg"
        Image.fromarray(draw(image, found, classes)).save(path, quality=92)
        paths.append(path)
    return paths


def _report(
    console: Console, folder: Path, metrics: list[Metrics], drawn: list[Path], seconds: float
) -> None:
    table = Table(title="against the scenes' exact truth (COCO AP, unseen seeds)", title_justify="left")
    for heading in ("", "AP", "AP50", "AP75", *metrics[0].ap_by_class):
        table.add_column(heading, justify="right")
    for m in metrics:
        name = {"segm": "masks", "bbox": "boxes"}[m.kind]
        figures = (m.ap, m.ap50, m.ap75, *m.ap_by_class.values())
        table.add_row(name, *(f"{figure:.3f}" for figure in figures))
    console.print(table)
    for name, path in (
        ("tables", folder / "masks"),
        ("overlays", drawn[0].parent),
        ("metrics", folder / "metrics.json"),
        ("the job", folder / "demo.yaml"),
    ):
        console.print(f"  {name:9} {escape(str(path))}", highlight=False, soft_wrap=True)
    console.print(f"done in {seconds:.0f} s; the same command again continues where this one stopped")
