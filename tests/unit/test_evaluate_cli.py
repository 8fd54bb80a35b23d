"""`condinst evaluate`: pycocotools' numbers, from weights and from tables, and errors that say what to do."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from condinst import rle
from condinst.config import DetectConfig
from condinst.evaluate import to_results
from jobs.errors import JobError
from jobs.evaluate import Request, run_evaluation
from jobs.plots import ap_by_class, precision_recall, precision_recall_by_class
from jobs.truth import read_truth
from pipeline.rows import visible
from pipeline.samples import SampleError
from pipeline.storage import StoreOptions
from tests.tiny import CLASSES, picture, tiny_model, tiny_weights

SIZES = [(96, 128), (64, 64), (80, 160), (96, 128)]
IDS = {"plant": 4, "stone": 9, "roof": 11}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, images, and a truth that is what the model finds in them, each instance moved a little."""
    folder = tmp_path_factory.mktemp("evaluate")
    tiny_weights(folder)
    (folder / "images" / "val").mkdir(parents=True)
    model, rng = tiny_model(), np.random.default_rng(0)
    truth: dict = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for name, number in IDS.items()],
    }
    for number, size in enumerate(SIZES):
        image = picture(number, *size)
        name = f"val/{number}.png"
        Image.fromarray(image).save(folder / "images" / name)
        truth["images"].append({"id": 50 + number, "file_name": name, "height": size[0], "width": size[1]})
        found = visible(model.predict([image], DetectConfig())[0])  # more than it finds by itself
        for n in rng.choice(len(found), min(12, len(found)), replace=False):
            crop = np.zeros(size, np.uint8, order="F")
            m = found.masks
            y, x, h, w = (int(v[n]) for v in (m.y, m.x, m.height, m.width))
            crop[y : y + h, x : x + w] = rle.decode(m.counts[n], h, w)
            moved = np.asfortranarray(np.roll(crop, tuple(rng.integers(-2, 3, 2)), (0, 1)))
            encoded = coco_mask.encode(moved)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": 50 + number,
                    "category_id": IDS[CLASSES[int(found.classes[n])]],
                    "segmentation": {"size": list(size), "counts": encoded["counts"].decode()},
                    "bbox": coco_mask.toBbox(encoded).tolist(),
                    "area": float(coco_mask.area(encoded)),
                    "iscrowd": 0,
                }
            )
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder


@pytest.fixture(scope="module")
def request_of(folder: Path) -> Request:
    return Request(
        truth=str(folder / "truth.json"),
        weights=str(folder / "tiny-0.safetensors"),
        images=str(folder / "images"),
    )


def evaluated(request: Request) -> tuple[list, str]:
    console = Console(file=io.StringIO(), width=200)
    return run_evaluation(request, console), console.file.getvalue()


@pytest.fixture(scope="module")
def plain(request_of: Request) -> list:
    """Metrics of the request as it stands: masks, boxes."""
    return evaluated(request_of)[0]


def changed(folder: Path, tmp_path: Path, change) -> str:
    truth = json.loads((folder / "truth.json").read_text())
    change(truth)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(truth))
    return str(path)


def by_pycocotools(folder: Path, kind: str, max_dets: int) -> COCOeval:
    """The model run image by image, measured by pycocotools alone."""
    model = tiny_model().optimize_for_inference()
    detect = model.config.detect.model_copy(update={"max_instances": max_dets})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        results = []
        for image in truth.dataset["images"]:
            pixels = np.asarray(Image.open(folder / "images" / image["file_name"]))
            found = visible(model.predict([pixels], detect)[0])
            results += to_results(image["id"], found, pixels.shape[:2], [IDS[c] for c in CLASSES])
        if kind == "segm":
            results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
        run = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), kind)
        run.params.maxDets = [1, 10, max_dets]
        run.evaluate()
        run.accumulate()
    return run


@pytest.mark.parametrize("max_dets", [100, 150])
def test_the_numbers_are_pycocotools_own(folder: Path, request_of: Request, max_dets: int) -> None:
    metrics, _ = evaluated(replace(request_of, max_dets=max_dets))
    assert [m.kind for m in metrics] == ["segm", "bbox"]
    assert 0.05 < metrics[0].ap < 0.95
    for m in metrics:
        run = by_pycocotools(folder, m.kind, max_dets)
        precision = np.where(run.eval["precision"] > -1, run.eval["precision"], np.nan)
        recall = np.where(run.eval["recall"] > -1, run.eval["recall"], np.nan)
        last = {
            "ap": precision[..., 0, 2],
            "ap50": precision[0, ..., 0, 2],
            "ap75": precision[5, ..., 0, 2],
            "ar": recall[..., 0, 2],
        }
        for name, values in last.items():
            assert getattr(m, name) == pytest.approx(np.nanmean(values), abs=1e-6)
        for n, dets in enumerate((1, 10, max_dets)):
            assert m.ar_by_dets[dets] == pytest.approx(np.nanmean(recall[..., 0, n]), abs=1e-6)
        for n, category in enumerate(sorted(IDS, key=IDS.__getitem__)):
            own = precision[:, :, n, 0, 2]
            assert m.ap_by_class[category] == pytest.approx(own.mean(), abs=1e-6, nan_ok=True)
            assert m.ap50_by_class[category] == pytest.approx(own[0].mean(), abs=1e-6, nan_ok=True)
        np.testing.assert_allclose(m.curves.precision, precision[..., 0, 2], atol=1e-6)
        assert m.curves.ious.tolist() == pytest.approx([0.5 + 0.05 * n for n in range(10)])


def test_terminal_json_and_plots_say_the_same(tmp_path: Path, request_of: Request) -> None:
    out = tmp_path / "figures" / "m.json"
    metrics, text = evaluated(replace(request_of, json_file=out, plots=tmp_path / "plots"))
    said = json.loads(out.read_text())
    assert said["images"] == len(SIZES)
    for m, key in zip(metrics, ("masks", "boxes"), strict=True):
        assert said[key]["ap"] == m.ap
        assert said[key]["ap_by_class"] == m.ap_by_class
        assert f"{m.ap:.3f}" in text
        assert all(f"{value:.3f}" in text for value in m.ap_by_class.values())
    pictures = sorted((tmp_path / "plots").iterdir())
    assert len(pictures) == 6
    for path in pictures:
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 200
        assert pixels.std() > 5


def test_curves_and_bars_are_the_metrics(plain: list) -> None:
    m = plain[0]
    lines = precision_recall(m).axes[0].lines
    assert len(lines) == 10
    np.testing.assert_allclose(lines[0].get_ydata(), np.nanmean(m.curves.precision[0], axis=1))
    assert np.mean([np.mean(line.get_ydata()) for line in lines]) == pytest.approx(m.ap)
    by_class = [np.mean(line.get_ydata()) for line in precision_recall_by_class(m).axes[0].lines]
    assert sorted(by_class) == pytest.approx(sorted(m.ap50_by_class.values()))
    bars = ap_by_class(m).axes[0].patches
    assert sorted(b.get_width() for b in bars) == pytest.approx(
        sorted([*m.ap_by_class.values(), *m.ap50_by_class.values()])
    )


def test_odd_class_names_are_drawn_as_they_are(tmp_path: Path, plain: list) -> None:
    m = plain[0]
    names = dict(zip(m.ap_by_class, ("$x_{", "_under", "Kürbis & Öl"), strict=True))
    odd = replace(
        m,
        ap_by_class={names[k]: v for k, v in m.ap_by_class.items()},
        ap50_by_class={names[k]: v for k, v in m.ap50_by_class.items()},
    )
    figures = {"curves": precision_recall_by_class(odd), "bars": ap_by_class(odd)}
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png")
    shown = [text.get_text() for text in figures["curves"].axes[0].get_legend().get_texts()]
    assert all(any(name in text for text in shown) for name in names.values())


def test_more_classes_than_colours(plain: list) -> None:
    m = plain[0]
    many = {f"class {n}": n / 40 for n in range(40)}
    curves = replace(m.curves, precision=np.random.default_rng(0).random((10, 101, 40)))
    figure = precision_recall_by_class(replace(m, ap_by_class=many, ap50_by_class=many, curves=curves))
    assert len(figure.axes[0].lines) == 40
    assert len(figure.axes[0].get_legend().get_texts()) == 20


def test_a_limit_keeps_the_first_images(folder: Path, tmp_path: Path, request_of: Request) -> None:
    def first_two(truth: dict) -> None:
        truth["images"] = truth["images"][:2]
        kept = {image["id"] for image in truth["images"]}
        truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in kept]

    (limited, _), _ = evaluated(replace(request_of, limit=2))
    (cut, _), _ = evaluated(replace(request_of, truth=changed(folder, tmp_path, first_two)))
    assert limited.summary() == cut.summary()


def test_renamed_and_merged_classes(folder: Path, tmp_path: Path, request_of: Request, plain: list) -> None:
    def other_names(truth: dict) -> None:
        for category in truth["categories"]:
            category["name"] = category["name"].upper()

    upper = replace(request_of, truth=changed(folder, tmp_path, other_names))
    with pytest.raises(JobError, match=r"class 'plant' is not among .* 'PLANT', 'STONE', 'ROOF'; .*--rename"):
        evaluated(upper)
    renames = tuple(f"{name}={name.upper()}" for name in IDS)
    assert evaluated(replace(upper, rename=renames))[0][0].ap == plain[0].ap
    with pytest.raises(JobError, match="the truth has no category 'tree'"):
        evaluated(replace(request_of, rename=("plant=tree",)))
    with pytest.raises(JobError, match="the model has no class 'tree'"):
        evaluated(replace(request_of, rename=("tree=plant",)))
    for bad in ("plant", "=x", "plant=", "a=b=c"):
        with pytest.raises(JobError, match="--rename"):
            evaluated(replace(request_of, rename=(bad,)))
    with pytest.raises(JobError, match="--class-agnostic: the truth has 3 categories"):
        evaluated(replace(request_of, class_agnostic=True))

    def one_category(truth: dict) -> None:
        truth["categories"] = [{"id": 1, "name": "thing"}]
        for annotation in truth["annotations"]:
            annotation["category_id"] = 1

    one = replace(request_of, truth=changed(folder, tmp_path, one_category))
    (agnostic, _), _ = evaluated(replace(one, class_agnostic=True))
    (merged, _), _ = evaluated(replace(one, rename=tuple(f"{name}=thing" for name in IDS)))
    assert agnostic.summary() == merged.summary()
    assert set(agnostic.ap_by_class) == {"thing"}
    assert agnostic.ap > 0.05


def test_a_category_that_the_model_lacks_is_noted(folder: Path, tmp_path: Path, request_of: Request) -> None:
    truth = changed(folder, tmp_path, lambda t: t["categories"].append({"id": 99, "name": "tree"}))
    assert "the model has no class for tree" in evaluated(replace(request_of, truth=truth))[1]


def test_boxes_only(folder: Path, tmp_path: Path, request_of: Request, plain: list) -> None:
    def boxes_only(truth: dict) -> None:
        for annotation in truth["annotations"]:
            annotation["segmentation"] = []

    metrics, text = evaluated(replace(request_of, truth=changed(folder, tmp_path, boxes_only)))
    assert [m.kind for m in metrics] == ["bbox"]
    assert "boxes alone are measured" in text
    assert metrics[0].ap == plain[1].ap


def test_what_max_dets_cannot_reach_is_noted(request_of: Request) -> None:
    assert "--max-dets 1 can find no more" in evaluated(replace(request_of, max_dets=1))[1]
    assert "--max-dets" not in evaluated(request_of)[1]


def test_annotation_number_0_counts(folder: Path, tmp_path: Path, request_of: Request, plain: list) -> None:
    def from_zero(truth: dict) -> None:
        for number, annotation in enumerate(truth["annotations"]):
            annotation["id"] = number

    (zero, _), _ = evaluated(replace(request_of, truth=changed(folder, tmp_path, from_zero)))
    assert zero.summary() == plain[0].summary()


def test_what_is_left_out_of_annotations_is_measured(folder: Path, tmp_path: Path) -> None:
    def sparse(truth: dict) -> None:
        for annotation in truth["annotations"]:
            del annotation["area"], annotation["bbox"], annotation["iscrowd"]

    whole = read_truth(str(folder / "truth.json"), StoreOptions()).dataset["annotations"]
    filled = read_truth(changed(folder, tmp_path, sparse), StoreOptions()).dataset["annotations"]
    for a, b in zip(whole, filled, strict=True):
        assert (a["area"], a["bbox"], a["iscrowd"]) == (b["area"], b["bbox"], b["iscrowd"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("images"), "no COCO truth .*images"),
        (lambda t: t["images"].clear(), "names no images"),
        (lambda t: t["images"][0].pop("height"), "no COCO truth .*height"),
        (lambda t: t["annotations"][3].update(category_id=77), "annotation 4: its category_id 77"),
        (lambda t: t["annotations"][3].update(segmentation=[]), "annotation 4: has no segmentation"),
        (lambda t: t["annotations"][3].update(segmentation=[["a"]]), "annotation 4: "),
        (lambda t: t["annotations"][3].update(bbox=[1, 2]), "annotation 4: "),
        (lambda t: t["images"][0].update(height=90), "annotation 1: .* image's size"),
        (lambda t: t["categories"].append({"id": 5, "name": "plant"}), "category 'plant' twice"),
        (lambda t: t["images"][0].update(file_name="val/none.png"), r"val/none\.png: there is no such image"),
    ],
)
def test_a_truth_that_does_not_hold_is_told_by_place(
    folder: Path, tmp_path: Path, request_of: Request, change, message: str
) -> None:
    with pytest.raises((JobError, SampleError), match=message):
        evaluated(replace(request_of, truth=changed(folder, tmp_path, change)))


def test_images_that_are_others_are_refused(folder: Path, tmp_path: Path, request_of: Request) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in (folder / "images" / "val").iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    assert evaluated(replace(request_of, images=str(images)))[0][0].ap > 0  # found by their base names
    Image.open(images / "0.png").rotate(90, expand=True).save(images / "0.png")
    with pytest.raises(SampleError, match=r"0\.png is 96x128 once upright, but its annotations say 128x96"):
        evaluated(replace(request_of, images=str(images)))
    (images / "0.png").write_bytes(b"")
    with pytest.raises(SampleError, match=r"0\.png: corrupt"):
        evaluated(replace(request_of, images=str(images)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": None}, "belong together|give what to measure"),
        ({"images": None}, "belong together"),
        ({"output": "masks"}, "give what to measure"),
        ({"weights": None, "images": None}, "give what to measure"),
        ({"weights": None, "images": None, "output": "x", "precision": "float32"}, "--precision belongs to"),
        ({"only_run": True}, "--only-run belongs to a job's OUTPUT"),
        ({"device": "tpu"}, "expected cpu or cuda"),
        ({"truth": "/no/such/truth.json"}, "there is no /no/such/truth.json"),
    ],
)
def test_requests_that_cannot_work_are_told(request_of: Request, change: dict, message: str) -> None:
    with pytest.raises(JobError, match=message):
        evaluated(replace(request_of, **change))


def test_precision_and_threshold_reach_the_model(tmp_path: Path, request_of: Request, plain: list) -> None:
    out = tmp_path / "m.json"
    evaluated(replace(request_of, score_threshold=0.6, precision="bfloat16", json_file=out))
    said = json.loads(out.read_text())
    assert said["precision"] == "bfloat16"
    assert said["detect"]["score_threshold"] == 0.6
    assert said["masks"]["ar"] < plain[0].ar
