"""Overlays in a folder: whose they are, and which go when they are drawn afresh."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from rich.console import Console

from condinst.config import DetectConfig
from jobs.gallery import Gallery
from pipeline.rows import visible
from tests.tiny import CLASSES, picture, tiny_model


def drawn(folder: Path, *names: str, afresh: bool = True) -> str:
    console, image = Console(file=io.StringIO(), width=200), picture(0, 48, 64)
    found = visible(tiny_model().predict([image], DetectConfig())[0])
    gallery = Gallery(folder, CLASSES, console, afresh=afresh)
    for name in names:
        gallery.add(name, image, found, each=False)
    gallery.close()
    return console.file.getvalue()  # type: ignore[attr-defined]


def jpegs(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.jpg")}


def test_what_is_drawn_afresh_takes_the_place_of_the_last_ones_and_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine.jpg").write_bytes(b"a picture of somebody's own")
    drawn(tmp_path, "a.png", "b.png", "c.png", "d.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "c.jpg")
    (tmp_path / "d.jpg").unlink()
    (tmp_path / "d.jpg").symlink_to(tmp_path / "mine.jpg")
    drawn(tmp_path, "b.png")
    assert jpegs(tmp_path) == {"mine.jpg", "b.jpg", "c.jpg", "d.jpg"}, "what is others' now stays"
    drawn(tmp_path, "e.png")
    assert jpegs(tmp_path) == {"mine.jpg", "c.jpg", "d.jpg", "e.jpg"}


def test_a_list_that_somebody_else_wrote_removes_nothing_outside_the_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "try", tmp_path / "outside.jpg"
    drawn(folder, "a.png")
    outside.write_bytes(b"x")
    size = f"{outside.stat().st_size}-{outside.stat().st_mtime_ns}"
    (folder / ".overlays").write_bytes(f"../outside.jpg {size}\n{outside} {size}\n\n".encode() + b"\xff \n")
    drawn(folder, "b.png")
    assert outside.exists()
    assert jpegs(folder) == {"a.jpg", "b.jpg"}


def test_other_galleries_add_to_what_is_there(tmp_path: Path) -> None:
    drawn(tmp_path, "a.png", afresh=False)
    drawn(tmp_path, "b.png", afresh=False)
    assert {path.name for path in tmp_path.iterdir()} == {"a.jpg", "b.jpg"}
