"""The viewer in a real Chromium: filter, look, hover, threshold, map, comparison; masks to the pixel."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image
from rich.console import Console

from jobs.filter import filter_output
from pipeline import tables
from pipeline.export.selection import Selection
from pipeline.storage import StoreOptions
from tests.browser import DESK, PHONE, barriers, chromium, dress, errors, screenshot, until
from tests.viewing import HOSTILE, georeferenced, real_images, segment

pytestmark = pytest.mark.timeout(900)  # a browser on a busy machine
CONDINST = Path(sys.executable).parent / "condinst"
READ = """
const done = arguments[arguments.length - 1];
const pane = viewer.looking.panes[0];
const canvas = pane.element.querySelector("canvas.masks");
const digest = async (x, y, width, height) => {
  const { data } = canvas.getContext("2d").getImageData(x, y, width, height);
  const bits = new Uint8Array(data.length / 4);
  for (let at = 0; at < bits.length; at++) bits[at] = data[4 * at + 3] > 0 ? 1 : 0;
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bits));
  return [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
};
const whole = () => digest(0, 0, canvas.width, canvas.height);
(async () => {
  const settings = pane.settings;
  const found = { size: [canvas.height, canvas.width], ids: pane.instances.map((i) => i.id), each: [] };
  settings.only = false;
  pane.update();
  found.all = await whole();
  settings.only = true;
  for (const instance of pane.instances) {
    pane.select(instance.index);
    const { index, x, y, width, height } = instance;
    found.each.push(index % 10 ? await digest(x, y, width, height) : await whole());
  }
  settings.only = false;
  pane.select(-1);
  pane.update();
  return found;
})().then(done, (error) => done({ error: String(error) }));
"""


@dataclass
class Seen:
    """A viewer that was started as users start it, and a browser that looks at it."""

    url: str
    page: Any

    def open(self, fragment: str = "#/") -> None:
        """Go somewhere and wait until it is shown."""
        self.page.get("about:blank")
        self.page.get(f"{self.url}{fragment}")
        self.wait(lambda: self.script("return document.querySelector('main')?.dataset.shown") == fragment)

    def script(self, text: str, *arguments: Any) -> Any:
        return self.page.execute_script(text, *arguments)

    def wait(self, holds: Callable[[], Any]) -> Any:
        return until(self.page, holds)

    def all(self, selector: str) -> list[Any]:
        return list(self.page.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.page.find_element("css selector", selector)

    def no(self, image_id: str) -> int:
        """Its number, as soon as the index has it."""
        address = f"{self.url}api/runs/0/find?{urlencode({'image_id': image_id})}"
        found: int = self.wait(lambda: [json.load(urllib.request.urlopen(address))["no"]])[0]
        return found


@contextmanager
def served(*outputs: str) -> Iterator[str]:
    """`condinst view` in a process of its own; its address."""
    command = [CONDINST, "view", *outputs, "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if address := re.match(r"http://\S+", line):
                break
        else:
            raise AssertionError("condinst view ended")
        yield address.group()
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> tables.Run:
    folder = tmp_path_factory.mktemp("real")
    return segment(real_images(data_dir, folder / "photographs"), str(folder / "sure"), max_instances=60)


@pytest.fixture(scope="module")
def stricter(real: tables.Run) -> tables.Run:
    surer = str(Path(real.store.uri).parent / "surer")
    filter_output(real.store.uri, surer, Selection(min_score=0.3), StoreOptions(), Console(quiet=True))
    return tables.open(surer)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as page:
        yield page


@pytest.fixture(scope="module")
def address(browser: Any, real: tables.Run, stricter: tables.Run) -> Iterator[str]:
    with served(real.store.uri, stricter.store.uri) as url:
        yield url


@pytest.fixture
def seen(browser: Any, address: str) -> Seen:
    """The viewer of both runs by day, on a desk."""
    dress(browser)
    return Seen(address, browser)


@pytest.fixture(autouse=True)
def no_errors(browser: Any) -> Iterator[None]:
    """After each test the console has been told of no error."""
    yield
    assert errors(browser) == []


def densest(run: tables.Run) -> str:
    rows = run.images(["image_id", "instances"]).sort_by([("instances", "descending")])
    return str(rows["image_id"][0].as_py())


def test_drawn_masks_are_the_tables_rle_pixel_for_pixel_on_real_images(seen: Seen, real: tables.Run) -> None:
    images = real.images(filter=pc.field("status").isin(["ok", "empty"])).to_pylist()
    rows = real.instances().to_pylist()
    assert len(images) == 20
    compared = 0
    for image in images:
        seen.open(f"#/image/0/{seen.no(image['image_id'])}")
        drawn = seen.page.execute_async_script(READ)
        assert "error" not in drawn, drawn
        assert drawn["size"] == [image["height"], image["width"]]
        own = [row for row in rows if row["image_id"] == image["image_id"]]
        assert drawn["ids"] == [row["instance_id"] for row in own]
        union = np.zeros(drawn["size"], np.uint8)
        for number, (row, digest) in enumerate(zip(own, drawn["each"], strict=True)):
            frame = np.zeros_like(union)
            mask, crop = row["mask"], tables.crop(row)
            frame[mask["y"] : mask["y"] + mask["height"], mask["x"] : mask["x"] + mask["width"]] = crop
            union |= frame
            # Every tenth is compared over the whole canvas, the others over their crop.
            expected = crop.astype(np.uint8) if number % 10 else frame
            assert digest == hashlib.sha256(expected.tobytes()).hexdigest(), (image["image_id"], row)
            compared += 1
        assert drawn["all"] == hashlib.sha256(union.tobytes()).hexdigest()
    assert compared == len(rows) > 200


def test_the_grid_is_filtered_sorted_and_opened(seen: Seen, real: tables.Run) -> None:
    seen.open()
    assert len(seen.all(".card")) == 21
    seen.wait(
        lambda: seen.script("return [...document.querySelectorAll('.face img')].every(i => i.complete)")
    )
    seen.one("input[name=text]").send_keys("NUCLEI")
    seen.wait(lambda: len(seen.all(".card")) == 5)
    assert all("nuclei" in card.text for card in seen.all(".card"))
    seen.one("button[type=reset]").click()
    seen.wait(lambda: len(seen.all(".card")) == 21)
    seen.one("input[name=status][value=corrupt]").click()
    seen.wait(lambda: len(seen.all(".card")) == 1)
    assert HOSTILE in seen.one(".card").text
    seen.one("input[name=status][value=corrupt]").click()
    seen.one("input[name=score_min]").send_keys("0.5")
    counts = real.instances(filter=pc.field("score") >= np.float32(0.5))["image_id"].value_counts()
    seen.wait(lambda: len(seen.all(".card")) == len(counts))
    seen.one("option[value=count]").click()
    seen.one("input[name=falling]").click()
    most = max(entry["counts"] for entry in counts.to_pylist())
    seen.wait(lambda: seen.one(".said").text.startswith(f"{most:,} found"))
    first = seen.one(".card .name").text
    seen.one(".card").click()
    seen.wait(lambda: seen.one(".title").text == first)
    seen.wait(lambda: seen.script("return viewer.looking.panes[0]?.instances.length"))
    seen.one(".steps button:last-of-type, .steps button:nth-of-type(2)").click()
    seen.wait(lambda: seen.one(".title").text != first)


def test_hover_threshold_toggle_and_zoom(seen: Seen, real: tables.Run) -> None:
    from selenium.webdriver import ActionChains

    name = densest(real)
    seen.open(f"#/image/0/{seen.no(name)}")
    rows = real.instances(filter=pc.field("image_id") == name).to_pylist()
    best = seen.script(
        """const pane = viewer.looking.panes[0], { x, y, scale } = pane.gaze, { width, height } = pane.row;
        const around = [[0, 0], [4, 0], [-4, 0], [0, 4], [0, -4]];
        for (let row = 0; row < height; row++) for (let column = 0; column < width; column++)
          if (around.every(([right, down]) => pane.base.at(column + right, row + down) === 0))
            return [(column + .5 - x) * scale, (row + .5 - y) * scale];"""
    )
    pane = seen.one(".pane")
    middle = pane.size["width"] / 2, pane.size["height"] / 2
    ActionChains(seen.page).move_to_element_with_offset(
        pane, round(best[0] - middle[0]), round(best[1] - middle[1])
    ).perform()
    said = f"{rows[0]['category']} {rows[0]['score']:.3f}"
    seen.wait(lambda: seen.one(".tip").text == said)
    assert seen.all(".outline")
    seen.script(
        "const s = document.querySelector('#threshold'); s.value = 0.5; s.dispatchEvent(new Event('input'))"
    )
    sure = sum(row["score"] >= 0.5 for row in rows)
    assert 0 < sure < len(rows)
    seen.wait(lambda: f"{sure:,} of {len(rows):,} instances shown" in seen.one("figcaption").text)
    assert len(seen.all(".listing li")) == min(200, sure)
    seen.one("#masks").click()
    seen.wait(lambda: seen.script("return getComputedStyle(document.querySelector('.masks')).opacity") == "0")
    seen.one("#masks").click()
    pane.send_keys("1")
    assert seen.script("return viewer.looking.gaze.scale") == pytest.approx(1)
    for _ in range(12):
        pane.send_keys("+")
    assert seen.script("return viewer.looking.gaze.scale") == pytest.approx(64)
    assert (
        seen.script("return getComputedStyle(document.querySelector('.picture')).imageRendering")
        == "pixelated"
    )
    pane.send_keys("0")
    row = real.images(filter=pc.field("image_id") == name).to_pylist()[0]
    wide, high = seen.script(
        "const pane = viewer.looking.panes[0].element; return [pane.clientWidth, pane.clientHeight]"
    )
    scale = min(wide / row["width"], high / row["height"])
    assert seen.script("return viewer.looking.gaze.scale") == pytest.approx(scale)
    seen.one(".listing button").click()
    assert seen.one(".listing button").get_attribute("aria-pressed") == "true"
    seen.script(
        "const s = document.querySelector('#threshold'); s.value = 0; s.dispatchEvent(new Event('input'))"
    )


def test_the_picture_on_the_canvas_has_the_file_s_pixels(seen: Seen, real: tables.Run) -> None:
    name = next(i for i in real.images(["image_id"])["image_id"].to_pylist() if i.startswith("mushroom"))
    seen.open(f"#/image/0/{seen.no(name)}")
    drawn = seen.script(
        """const c = document.querySelector("canvas.picture");
        return [...c.getContext("2d").getImageData(100, 200, 40, 30).data].filter((_, at) => at % 4 < 3)"""
    )
    image = np.asarray(Image.open(Path(real.store.uri).parent / "photographs" / name).convert("RGB"))
    away = np.abs(image[200:230, 100:140].reshape(-1).astype(int) - drawn)
    assert away.max() <= 4  # two JPEG decoders
    assert away.mean() < 1


def test_two_runs_side_by_side(seen: Seen, real: tables.Run, stricter: tables.Run) -> None:
    of_each = [
        {row["image_id"]: row["instances"] for row in run.images(["image_id", "instances"]).to_pylist()}
        for run in (real, stricter)
    ]
    name = max(
        of_each[0], key=lambda image: (of_each[1][image] > 0) * (of_each[0][image] - of_each[1][image])
    )
    counts = [of[name] for of in of_each]
    assert counts[0] > counts[1] > 0
    seen.open(f"#/image/0/{seen.no(name)}")
    seen.one("button.both").click()
    seen.wait(lambda: len(seen.all(".pane")) == 2)
    seen.wait(
        lambda: (
            [
                re.search(r"of ([\d,]+) instances", caption.text).group(1)  # type: ignore[union-attr]
                for caption in seen.all("figcaption")
            ]
            == [f"{count:,}" for count in counts]
        )
    )
    seen.all(".pane")[1].send_keys("+")
    one, two = (stage.get_attribute("style") for stage in seen.all(".stage"))
    moved = [re.search(r"transform: (.*?);", style).group(1) for style in (one, two)]  # type: ignore[union-attr]
    assert moved[0] == moved[1]


def test_the_map_shows_and_tells_an_instance(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains

    run, page = georeferenced(tmp_path), browser
    with served(run.store.uri) as url:
        dress(page)
        seen = Seen(url, page)
        seen.open()
        link = [a for a in seen.all("#links a") if a.text == "map"]
        link[0].click()
        total = run.instances(["image_id"]).num_rows
        seen.wait(lambda: f"{total:,} instances in sight" in seen.one(".mapping .live").text)
        seen.wait(
            lambda: seen.script("return viewer.map().map.queryRenderedFeatures({layers: ['areas']}).length")
        )
        seen.wait(lambda: seen.script("return viewer.map().pictures.size === 1 && viewer.map().map.loaded()"))
        spot = seen.script(
            """const { map } = viewer.map(), { clientWidth: width, clientHeight: height } = map.getCanvas();
            for (let y = height / 2; y < height; y += 3) for (let x = 60; x < width - 60; x += 3) {
              const found = map.queryRenderedFeatures([x, y], { layers: ["areas"] });
              if (found.length) return [x - width / 2, y - height / 2, found[0].properties];
            }"""
        )
        plate = seen.one(".maplibregl-canvas")
        ActionChains(page).move_to_element_with_offset(
            plate, round(spot[0]), round(spot[1])
        ).click().perform()
        seen.wait(lambda: seen.all(".pick"))
        said = f"{spot[2]['category']} {spot[2]['score']:.3f}"
        assert said in seen.one(".pick").text
        assert said in seen.one(".mapping .live").text
        assert barriers(page) == []
        screenshot(page, "viewer-map")
        seen.one(".pick a").click()
        seen.wait(lambda: seen.script("return viewer.looking.panes[0]?.instances.length") == total)
        assert errors(page) == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("phone", [False, True])
def test_nobody_is_kept_out(seen: Seen, real: tables.Run, phone: bool, dark: bool) -> None:
    """axe-core has no serious finding on the grid, an image and two, by day and night, on a phone too."""
    name = f"viewer-{'phone-' if phone else ''}{'dark-' if dark else ''}"
    dress(seen.page, PHONE if phone else DESK, dark)
    no = seen.no(densest(real))
    for fragment, said in (
        ("#/", "grid"),
        (f"#/image/0/{no}", "image"),
        (f"#/compare/0/{no}", "compare"),
    ):
        seen.open(fragment)
        if said != "grid":
            seen.wait(lambda: seen.script("return viewer.looking.panes.every(p => p.instances.length)"))
        else:
            seen.wait(
                lambda: seen.script(
                    "return [...document.querySelectorAll('.face img')].some(i => i.naturalWidth)"
                )
            )
        assert barriers(seen.page) == []
        wide = seen.script("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, said
        screenshot(seen.page, f"{name}{said}")


def test_a_hostile_name_stays_text(seen: Seen) -> None:
    seen.open()
    assert not seen.script("return document.querySelector('img[src=x]')")
    seen.open(f"#/image/0/{seen.no(HOSTILE)}")
    assert seen.one(".title").text == HOSTILE
    assert "corrupt" in seen.one(".note").text
    assert seen.one(".note").is_displayed()
