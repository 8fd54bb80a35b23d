"""Images that kill whoever decodes them, or shows them to the model: planted, but dying for real.

`plant` writes a `sitecustomize.py`; every Python that finds its folder on the path, a worker or the process
that decodes for it, then has a reader of PNG that does what the file's own text says, a reader of rasters
that does not stand windows whose first pixel has one colour, and a model that does not stand images of one
size. Without the plant those files are corrupt, and that colour and that size are like any other.
"""

from __future__ import annotations

from pathlib import Path

from tests.tiny import encoded, picture

DEADLY_SIZE = (40, 104)
"""(height, width) of the image that ends the process of the model."""

DEADLY_PIXEL = (13, 37, 211)
"""Colour of a window's first pixel that ends the process which reads it."""

_SITE = '''
import importlib.util
import sys

READER = "pipeline.decode"
WINDOWS = "pipeline.tiled.pixels"
MODEL = "condinst.model"
NOTES = "pipeline.poison"


class Planter:
    """Adds to a module as it is imported."""

    def find_spec(self, name, path=None, target=None):
        if name not in PLANTS:
            return None
        finders = [finder for finder in sys.meta_path if finder is not self]
        for finder in finders:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                break
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            PLANTS[name](module)

        spec.loader.exec_module = exec_module
        return spec


def die_of(what):
    import ctypes, os, time

    if what == b"segv":
        ctypes.string_at(0)
    if what == b"hang":
        time.sleep(3600)
    if what == b"hang holding the GIL":
        ctypes.PyDLL(None).sleep(3600)
    if what == b"abort":
        os.abort()
    if what == b"exit":
        os._exit(3)
    if what == b"memory":
        bytearray(2**42)
    if what == b"print":
        os.write(1, b"much ado" * 1000)


def plant_reader(module):
    reader = module._READERS["PNG"]

    def read(data, limits):
        die_of(data.partition(b"POISON:")[2])
        return reader(data, limits)

    module._READERS["PNG"] = read


def plant_windows(module):
    window_pixels = module.window_pixels

    def read(raster, frozen, window):
        found = window_pixels(raster, frozen, window)
        if (found.rgb[0, 0] == DEADLY_PIXEL).all():
            die_of(b"segv")
        return found

    module.window_pixels = read


def plant_model(module):
    begin = module.CondInst.begin

    def deadly(self, batch, *more):
        if any(item.size == DEADLY_SIZE for item in batch):
            die_of(b"segv")
        return begin(self, batch, *more)

    module.CondInst.begin = deadly


def hurry(module):
    module.STIR = 1.0  # there is no other driver whose attempts might be alive


PLANTS = {READER: plant_reader, WINDOWS: plant_windows, MODEL: plant_model, NOTES: hurry}
sys.meta_path.insert(0, Planter())
'''


def plant(folder: Path) -> Path:
    """Write the plant; returns the folder, which is to be put on the path."""
    (folder / "sitecustomize.py").write_text(
        f"DEADLY_SIZE = {DEADLY_SIZE}\nDEADLY_PIXEL = {DEADLY_PIXEL}\n{_SITE}"
    )
    return folder


def poisoned(what: str) -> bytes:
    """A PNG whose decoder does `what`: segv, hang, hang holding the GIL, abort, exit, memory, print.

    Where nothing is planted it is corrupt: it ends after its header.
    """
    return encoded(picture(0))[:60] + b"POISON:" + what.encode()
