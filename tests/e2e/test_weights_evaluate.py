"""From a checkpoint to figures, as a user does it: convert, show, run, evaluate; each its own process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from condinst import rle
from condinst.weightsfile import digest
from tests.command import condinst
from tests.tiny import CLASSES, picture, tiny_model, tiny_weights


def run(*arguments: object, cwd: Path) -> tuple[int, str, str]:
    done = condinst(*arguments, cwd=cwd, env={"OMP_NUM_THREADS": "1"}, timeout=580)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, five images and their truth: the surest of what the model finds, shrunk a bit."""
    folder = tmp_path_factory.mktemp("work")
    tiny_weights(folder).rename(folder / "tiny.safetensors")
    (folder / "images").mkdir()
    model = tiny_model()
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)]
    truth: dict = {"images": [], "annotations": [], "categories": categories}
    for number in range(5):
        image = picture(number)
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        truth["images"].append({"id": number, "file_name": f"{number}.png", "height": 96, "width": 128})
        found = model.predict([image])[0]
        for n in range(min(len(found), 10)):
            mask = np.zeros((96, 128), np.uint8, order="F")
            m = found.masks
            y, x, h, w = (int(v[n]) for v in (m.y, m.x, m.height, m.width))
            mask[y : y + h, x : x + w - 1] = rle.decode(m.counts[n], h, w)[:, :-1]
            encoded = coco_mask.encode(mask)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]),
                    "image_id": number,
                    "category_id": int(found.classes[n]) + 1,
                    "segmentation": {"size": [96, 128], "counts": encoded["counts"].decode()},
                }
            )
    (folder / "truth.json").write_text(json.dumps(truth))
    job = {
        "kind": "segment",
        "name": "tiny",
        "input": {"uri": "images"},
        "model": {"weights": "tiny.safetensors", "max_instances": 100},
        "output": {"uri": "masks"},
        "shards": {"images": 2},
        "batch": {"images": 1},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    return folder


def test_weights_and_the_tables_of_their_job_have_the_same_figures(work: Path) -> None:
    code, out, err = run(
        "evaluate", "--weights", "tiny.safetensors", "--images", "images", "--truth", "truth.json",
        "--json", "weights.json", "--plots", "plots", cwd=work,
    )  # fmt: skip
    assert code == 0, err
    assert "masks" in out
    assert len(list((work / "plots").glob("*.png"))) == 6
    assert run("run", "job.yaml", "--local", cwd=work)[0] == 0
    code, _, err = run("evaluate", "masks", "--truth", "truth.json", "--json", "tables.json", cwd=work)
    assert code == 0, err
    of_weights, of_tables = (json.loads((work / f"{n}.json").read_text()) for n in ("weights", "tables"))
    assert of_weights["sha256"] == of_tables["sha256"] == digest(work / "tiny.safetensors")
    assert 0.1 < of_weights["masks"]["ap"] < 1
    for kind in ("masks", "boxes"):
        for figure in ("ap", "ap50", "ar"):
            assert of_tables[kind][figure] == pytest.approx(of_weights[kind][figure], abs=1e-6)


def test_a_job_of_one_class_holds_that_class_alone(work: Path) -> None:
    arguments = ("--set", "output.uri=one", "--set", f"model.classes=[{CLASSES[1]}]")
    assert run("run", "job.yaml", "--local", *arguments, cwd=work)[0] == 0
    summary = json.loads((work / "one" / "summary.json").read_text())
    assert set(summary["classes"]) == {CLASSES[1]}
    code, _, err = run("run", "job.yaml", "--local", *arguments[:2], cwd=work)
    assert code == 5
    assert "detect.classes" in err
    code, _, err = run("plan", "job.yaml", "--set", "model.classes=[fern]", cwd=work)
    assert code == 2
    assert "the model has no class 'fern'; it has plant, stone, roof" in err


def test_a_backbone_is_converted_and_shown(work: Path) -> None:
    theirs = {}
    for name, value in tiny_model().backbone.state_dict().items():
        name = name.replace("stem.conv.", "conv1.").replace("stem.norm.", "bn1.")
        name = name.replace("shortcut.conv.", "downsample.0.").replace("shortcut.norm.", "downsample.1.")
        for n in (1, 2):
            name = name.replace(f"conv{n}.conv.", f"conv{n}.").replace(f"conv{n}.norm.", f"bn{n}.")
        if name.startswith("stages."):
            stage, rest = name.removeprefix("stages.").split(".", 1)
            name = f"layer{int(stage) + 1}.{rest}"
        theirs[name] = value
    torch.save(theirs, work / "resnet18.pth")
    code, out, err = run("weights", "convert", "resnet18.pth", "backbone.safetensors", cwd=work)
    assert code == 0, err
    assert "ResNet-18 in torchvision's naming" in out
    code, out, _ = run("weights", "show", "backbone.safetensors", "--json", cwd=work)
    assert code == 0
    assert json.loads(out)["config"]["backbone"]["width"] == 8
    code, out, _ = run("weights", "show", "tiny.safetensors", cwd=work)
    assert code == 0
    assert "3: plant, stone, roof" in out
    assert digest(work / "tiny.safetensors") in out


def test_what_cannot_work_ends_with_a_reason(work: Path) -> None:
    (work / "R-50.pkl").write_bytes(b"\x80\x02}q\x00.")
    for arguments, message in (
        (("weights", "convert", "R-50.pkl", "x.safetensors"), "a pickle, which runs code"),
        (("weights", "convert", "truth.json", "x.safetensors"), "not a checkpoint"),
        (("weights", "show", "truth.json"), "not a readable safetensors file"),
        (("evaluate", "--truth", "truth.json"), "give what to measure"),
        (("evaluate", "images", "--truth", "truth.json"), "holds no job"),
        (("evaluate", "masks", "--truth", "job.yaml"), "no COCO truth"),
    ):
        code, _, err = run(*arguments, cwd=work)
        assert code == 2, err
        assert message in err
    assert not (work / "x.safetensors").exists()
