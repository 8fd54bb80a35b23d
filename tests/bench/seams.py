"""Whether tiling changes anything: a generated orthomosaic segmented whole and in windows of several sizes.

`make bench BENCH=seams`, or `python -m tests.bench.seams 2048` for another side in pixels, or with the path
of a raster that is there; a second argument is another `tiling.scale`. From 8192 pixels on the reference is
not the whole raster, which does not fit, but windows of 2048. The figures are those of `condinst evaluate
--seams`; the command is the installed one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rasterio

from jobs.scenes import write_mosaic
from tests.bench import harness

SIDE = 4096
TILINGS = tuple((size, overlap) for overlap in (128, 192, 256) for size in (512, 768, 1024))
COMMAND = Path(sys.executable).with_name("condinst")
SPEC = """
kind: segment
name: seams
input: {{uri: {folder}, include: "*.tif"}}
model: {{weights: demo, score_threshold: 0.3, max_instances: 10000, pre_nms_top_k: 100000}}
output: {{uri: {output}}}
tiling: {{size: {size}, overlap: {overlap}, scale: {scale}}}
batch: {{images: 1}}
shards: {{images: 16}}
workers: {{count: 1, cpus: 2}}
"""


def segment(folder: Path, size: int, overlap: int, scale: str) -> tuple[Path, float]:
    """One tiling of the mosaic, and its seconds."""
    output, spec = folder / f"{size}-{overlap}", folder / f"{size}-{overlap}.yaml"
    where = {"folder": folder / "in", "output": output}
    spec.write_text(SPEC.format(size=size, overlap=overlap, scale=scale, **where))
    start = time.perf_counter()
    subprocess.run([COMMAND, "run", spec, "--local"], check=True, stdout=subprocess.DEVNULL)
    return output, time.perf_counter() - start


def compare(output: Path, reference: Path, folder: Path) -> dict[str, object]:
    figures = folder / "figures.json"
    command = [COMMAND, "evaluate", output, "--seams", reference, "--json", figures]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    said = json.loads(figures.read_text())
    shares = {name: round(said[name], 5) for name in ("matched", "duplicates", "excess", "lack")}
    return {**shares, "instances": said["tiled"]["instances"], "reference": said["reference"]["instances"]}


def prepare(asked: str, folder: Path) -> int:
    """Put the raster that is asked for, by its path or its side, into the folder; its longest side."""
    if asked.isdigit():
        write_mosaic(folder / "ortho.tif", 17, int(asked), int(asked))
        return int(asked)
    folder.mkdir(parents=True)
    shutil.copy(asked, folder / "scene.tif")
    with rasterio.open(asked) as raster:
        return max(raster.width, raster.height)


def main() -> None:
    asked = sys.argv[1] if len(sys.argv) > 1 else str(SIDE)
    scale = sys.argv[2] if len(sys.argv) > 2 else "1.0"
    results = {}
    with tempfile.TemporaryDirectory(prefix="seams-") as scratch:
        folder = Path(scratch)
        side = prepare(asked, folder / "in")
        reference_size = side if side < 8192 else 2048
        reference, seconds = segment(folder, reference_size, 0 if reference_size == side else 256, scale)
        print(f"reference of {reference_size} pixels: {seconds:.0f} s", file=sys.stderr)
        for size, overlap in TILINGS:
            output, seconds = segment(folder, size, overlap, scale)
            found = compare(output, reference, folder)
            results[f"{size}/{overlap}"] = {**found, "seconds": round(seconds, 1)}
            print(f"{size} px, {overlap} shared: {results[f'{size}/{overlap}']}", file=sys.stderr, flush=True)
    harness.report(
        "seams",
        None,
        {
            "raster": Path(asked).name,
            "side": side,
            "scale": float(scale),
            "reference": reference_size,
            "tilings": results,
        },
    )


if __name__ == "__main__":
    main()
