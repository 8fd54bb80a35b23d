"""Instances of a raster from those of its windows: joined where cut, counted once where two windows saw them.

    windows = Windows.of([Window(0, 0, 1024, 1024), Window(896, 0, 1024, 1024)])
    stitched = stitch(windows, enumerate(instances_of_each))

or, for a raster whose instances are more than memory holds, `Stitcher`, which gives out what is settled as
windows come, and `order`, which finds the order of the rows from 36 bytes an instance. No storage, no Ray,
no pixels.
"""

from pipeline.stitch.fragments import Windows
from pipeline.stitch.match import Rules
from pipeline.stitch.stream import Stitcher, ordered, stitch

__all__ = ["Rules", "Stitcher", "Windows", "ordered", "stitch"]
