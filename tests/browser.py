"""A headless Chromium for tests: driven by selenium, watched for errors, scanned by axe-core."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
DOCS = Path(__file__).parents[1] / "docs"
SHOWN = (
    *("viewer-grid", "viewer-dark-image", "viewer-compare", "viewer-map", "viewer-phone-grid"),
    *("report-light", "report-phone-dark"),
)
SERIOUS = ("serious", "critical")
PHONE = (390, 844)
DESK = (1280, 860)
PATIENCE = 180.0
"""Seconds that something may take on a machine with much else to do."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A selenium driver, `dressed` for the desk. Skips the test, and says why, where there is no Chromium.

    WebGL is drawn by the CPU; nothing is asked of the network but what the page itself asks. It takes seconds
    to start: one is enough for a file of tests.
    """
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium and chromedriver here: make browser installs Debian's")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    profile = tempfile.mkdtemp(prefix="chromium-")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--hide-scrollbars",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--force-color-profile=srgb",
        f"--user-data-dir={profile}",
        f"--window-size={DESK[0]},{DESK[1]}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    page = webdriver.Chrome(options=options, service=Service(driver))
    try:
        page.set_script_timeout(PATIENCE)
        dress(page)
        yield page
    finally:
        page.quit()
        shutil.rmtree(profile, ignore_errors=True)


def dress(page: Any, size: tuple[int, int] = DESK, dark: bool = False) -> None:
    """Leave what is shown, and be a screen of that size, by day or by night."""
    page.get("about:blank")
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
    )
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]},
    )
    assert page.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") is dark


def until(page: Any, holds: Callable[[], Any]) -> Any:
    """Wait until something holds, whatever is raised before; returns what it gives."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(page, PATIENCE, ignored_exceptions=(Exception,)).until(lambda _: holds())


def errors(page: Any) -> list[str]:
    """What the console was told as an error since it was last asked, refused policies among it."""
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def barriers(page: Any) -> list[str]:
    """axe-core's serious findings on the page as it stands, with where they are."""
    page.execute_script(AXE.read_text())
    found = page.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert found["passes"]
    return [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for violation in found["violations"]
        if violation["impact"] in SERIOUS
        for node in violation["nodes"]
    ]


def screenshot(page: Any, name: str) -> None:
    """Save what is in sight as JPEG: into docs/images/ when SCREENSHOTS is set and a page there shows it."""
    kept = os.environ.get("SCREENSHOTS") and name in SHOWN
    folder = DOCS / "images" if kept else Path(tempfile.gettempdir()) / "condinst-screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    taken = page.execute_cdp_cmd("Page.captureScreenshot", {"format": "jpeg", "quality": 82})
    (folder / f"{name}.jpg").write_bytes(base64.b64decode(taken["data"]))
