"""Decoding in a process of its own: the same pixels and reasons, and what kills it is told, not suffered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import children as module
from pipeline.childdecode import PIXELS, REFUSED, REPLY
from pipeline.children import ChildError, Children, DeadlyImage
from pipeline.decode import DecodeLimits, decode
from pipeline.records import InputRejected, Status
from tests.poisons import plant, poisoned
from tests.tiny import encoded, picture

LIMITS = DecodeLimits(pixels=10**6, bytes=10**7, seconds=60)
GOOD = encoded(picture(3, 70, 130))


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Poison is poison in the processes that decode from here on."""
    monkeypatch.syspath_prepend(plant(tmp_path))


@pytest.fixture
def children() -> Iterator[Children]:
    made = Children(LIMITS)
    yield made
    made.close()


def pids(made: Children) -> list[int]:
    return [child._process.pid for child in made._all]


def answer(decoder: Callable[[bytes], np.ndarray], data: bytes) -> np.ndarray | tuple[Status, str]:
    try:
        return decoder(data)
    except InputRejected as rejected:
        return rejected.status, rejected.reason


def test_pixels_and_reasons_are_those_of_decoding_here(children: Children) -> None:
    files = [
        *(
            encoded(picture(n, 64 + n, 96), kind)
            for n, kind in enumerate(("PNG", "JPEG", "TIFF", "WebP", "BMP"))
        ),
        b"",
        b"no image",
        GOOD[:200],
        encoded(picture(1, 1100, 1000)),
        GOOD + bytes(LIMITS.bytes),
        poisoned("segv"),
    ]
    for data in files:
        here, there = (answer(one, data) for one in (lambda data: decode(data, LIMITS), children.decode))
        assert np.array_equal(here, there) if isinstance(here, np.ndarray) else here == there
    assert len(pids(children)) == 1, "one process for all of them"


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("segv", "decoding killed its process (SIGSEGV)"),
        ("abort", "decoding killed its process (SIGABRT)"),
        ("exit", "decoding ended its process (exit code 3)"),
    ],
)
def test_a_death_is_told_and_the_next_image_is_decoded(children: Children, what: str, told: str) -> None:
    children.decode(GOOD)
    with pytest.raises(DeadlyImage) as death:
        children.decode(poisoned(what))
    assert str(death.value) == told
    assert np.array_equal(children.decode(GOOD), decode(GOOD, LIMITS))


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("what", ["hang", "hang holding the GIL"])
def test_a_hang_is_ended(what: str) -> None:
    children = Children(replace(LIMITS, seconds=1.5))
    with pytest.raises(DeadlyImage, match=r"^decoding did not end within 1\.5 s$"):
        children.decode(poisoned(what))
    assert pids(children) == []
    children.close()


@pytest.mark.usefixtures("planted")
def test_memory_is_limited(children: Children) -> None:
    with pytest.raises(InputRejected) as error:
        children.decode(poisoned("memory"))
    assert error.value.status is Status.TOO_LARGE
    assert error.value.reason == f"decoding took more than {LIMITS.memory / 1e9:.1f} GB"


@pytest.mark.usefixtures("planted")
def test_what_a_decoder_prints_is_not_taken_for_pixels(children: Children) -> None:
    with pytest.raises(InputRejected) as error:
        children.decode(poisoned("print"))
    assert error.value.status is Status.CORRUPT


def test_a_death_from_outside_costs_no_image(children: Children) -> None:
    """The child is killed once, while the image goes to it: it is not known who did it, so ask again."""
    data = encoded(picture(0, 900, 1000), "BMP")
    children.decode(GOOD)
    (pid,) = pids(children)
    os.kill(pid, signal.SIGSTOP)  # so that it dies at work for sure
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    assert np.array_equal(children.decode(data), decode(data, LIMITS))
    assert pids(children) != [pid]


def test_signals_to_the_group_are_not_for_it(children: Children) -> None:
    children.decode(GOOD)
    (pid,) = pids(children)
    assert os.getsid(pid) != os.getsid(0), "Ctrl-C goes to the session of the terminal"
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    children.decode(GOOD)
    assert pids(children) == [pid]


def test_threads_have_a_process_each_and_all_end(children: Children) -> None:
    threads = [threading.Thread(target=children.decode, args=(GOOD,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = pids(children)
    assert 1 <= len(left) <= 3
    children.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    with pytest.raises(ChildError):
        children.decode(GOOD)


@pytest.mark.usefixtures("planted")
def test_an_image_at_work_when_all_is_called_off_is_not_blamed(children: Children) -> None:
    caught: list[Exception] = []

    def work() -> None:
        try:
            children.decode(poisoned("hang"))
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not pids(children):
        time.sleep(0.01)
    children.close()
    thread.join()
    (error,) = caught
    assert isinstance(error, ChildError)


def test_a_process_that_cannot_start_is_no_images_fault(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(7)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ChildError, match=r"did not start: decoding ended its process \(exit code 7\)"):
        children.decode(GOOD)


SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "GDAL_HTTP_USERPWD",
    "GDAL_HTTP_HEADERS",
    "GDAL_HTTPS_PROXY",
    "GDAL_HTTP_PROXYUSERPWD",
    "GDAL_PROXY_AUTH",
    "CPL_GS_CREDENTIALS_FILE",
)


def test_credentials_stay_here(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "very-secret")
    monkeypatch.setenv("GDAL_CACHEMAX", "64")
    children.decode(GOOD)
    (pid,) = pids(children)
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"very-secret" not in environment
    assert b"GDAL_CACHEMAX=64" in environment


def test_it_needs_no_model() -> None:
    program = (
        "import sys, pipeline.childdecode; sys.exit('torch' in sys.modules or 'condinst' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


LIES = {
    "more pixels than bytes": REPLY.pack(PIXELS, 100, 100, 10),
    "more pixels than allowed": REPLY.pack(PIXELS, 2**16, 2**16, 3 * 2**32),
    "no pixels": REPLY.pack(PIXELS, 0, 5, 0),
    "an unknown status": REPLY.pack(REFUSED + 5, 0, 0, 0),
    "a reason without end": REPLY.pack(REFUSED, 0, 0, 2**40),
    "an unknown kind": REPLY.pack(255, 1, 1, 3),
}


@pytest.mark.parametrize("name", LIES)
def test_an_answer_is_checked_before_it_is_believed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that an image has taken over answers what it likes."""
    liar = f"""
import os, sys, time
if sys.argv[:1] == ["-m"]:
    os.write(1, {REPLY.pack(0, 0, 0, 0)!r})
    os.read(0, 1)
    os.write(1, {LIES[name]!r})
    time.sleep(600)
"""
    (tmp_path / "sitecustomize.py").write_text(liar)
    monkeypatch.syspath_prepend(tmp_path)
    children = module.Children(LIMITS)
    with pytest.raises(DeadlyImage, match=r"^decoding gave something that is no image$"):
        children.decode(GOOD)
    assert pids(children) == []
