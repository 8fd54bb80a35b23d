"""The report in a real Chromium: by day and by night, on a phone, on paper; and as the command writes it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from PIL import Image

from jobs.run_report import overlays
from pipeline import tables
from pipeline.storage import Store
from tests.browser import DESK, PHONE, barriers, chromium, dress, errors, screenshot, until
from tests.command import condinst
from tests.viewing import HOSTILE, real_images, segment

pytestmark = pytest.mark.timeout(900)  # a browser on a busy machine


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> tables.Run:
    folder = tmp_path_factory.mktemp("told")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlays, "SECONDS", 600.0)  # a busy machine draws them all, too
        return segment(real_images(data_dir, folder / "photographs", each=3), str(folder / "masks"), shard=4)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as page:
        yield page


@pytest.fixture
def page(browser: Any, run: tables.Run) -> Any:
    """The report by day, on a desk."""
    dress(browser)
    open_report(browser, run)
    return browser


def test_a_run_writes_its_report_and_the_command_writes_it_again(run: tables.Run, tmp_path: Path) -> None:
    written = Store.open(run.store.uri).get("report.html")
    assert len(written) < 5_000_000
    copy = tmp_path / "report.html"
    done = condinst("report", run.store.uri, "--to", copy)
    assert done.returncode == 0, done.stderr
    assert str(copy) in done.stdout
    assert told(copy.read_bytes()) == told(written)


def told(page: bytes) -> str:
    """What a report says. Not when it was written; nor its overlays, which are as many as time allows."""
    text = page.decode().partition("Written ")[0]
    assert "data:image/" in text
    return re.sub(r'<section aria-labelledby="look">.*?</section>', "", text, flags=re.DOTALL)


def open_report(page: Any, run: tables.Run) -> None:
    """Load the page to its end: on a busy machine the browser says that it is there before that."""
    page.get(Path(run.store.join("report.html")).as_uri())
    until(page, lambda: page.execute_script("return document.readyState") == "complete")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [DESK, PHONE])
def test_the_page_is_whole_and_keeps_nobody_out(
    browser: Any, run: tables.Run, size: tuple[int, int], dark: bool
) -> None:
    page = browser
    dress(page, size, dark)
    open_report(page, run)
    pictures: list[dict[str, Any]] = page.execute_script(
        "return [...document.images].map(i => (i.loading = 'eager', {width: i.naturalWidth, alt: i.alt}))"
    )
    assert len(pictures) >= 8
    page.execute_async_script(
        "Promise.all([...document.images].map(i => i.decode())).then(arguments[arguments.length - 1])"
    )
    assert all(picture["alt"] for picture in pictures)
    assert page.execute_script("return [...document.images].every(i => i.naturalWidth > 100)")
    assert page.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
    text = page.execute_script("return document.body.innerText")
    assert HOSTILE in text
    assert f"{run.instances(['image_id']).num_rows:,}" in text
    asked = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith("data:") for name in asked)
    assert barriers(page) == []
    assert errors(page) == []
    name = f"report-{'phone-' if size == PHONE else ''}{'dark' if dark else 'light'}"
    screenshot(page, name)


def test_the_keyboard_reaches_the_sections_and_the_spec(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    body = page.find_element("tag name", "body")
    body.send_keys(Keys.TAB, Keys.ENTER)
    assert page.current_url.endswith("#found")
    summary = page.find_element("css selector", "summary")
    page.execute_script("arguments[0].focus()", summary)
    summary.send_keys(Keys.ENTER)
    assert "kind: segment" in page.find_element("css selector", "details[open] pre").text


def test_it_prints_in_few_pages(page: Any) -> None:
    paper = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert paper.startswith(b"%PDF")
    assert (
        2 <= paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page/") + paper.count(b"/Type/Page/") <= 12
    )


def test_the_overlays_show_their_images(page: Any, run: tables.Run) -> None:
    """The first overlay has the colours of its image where nothing is drawn: it is no placeholder."""
    source, alt = page.execute_script("const i = document.images[0]; return [i.src, i.alt]")
    drawn = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    name = alt.partition(" with its instances")[0]
    row = run.images(filter=pc.field("image_id") == name).to_pylist()[0]
    assert drawn.width / drawn.height == pytest.approx(row["width"] / row["height"], rel=0.02)
    size = (8, 8)
    own = Image.open(row["uri"]).convert("RGB").resize(size, Image.Resampling.BOX)
    pairs = zip(own.tobytes(), drawn.convert("RGB").resize(size, Image.Resampling.BOX).tobytes(), strict=True)
    assert sum(abs(one - other) for one, other in pairs) / (3 * 64) < 60
