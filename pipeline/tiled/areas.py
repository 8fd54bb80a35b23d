"""The areas of interest of a job's inputs, as its plan keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import shapely

from pipeline.geo.aoi import Area, RasterArea, read_area
from pipeline.objects import NotFound
from pipeline.plan import Plan, PlanError
from pipeline.sources import InputError, InputSource
from pipeline.storage import Store
from pipeline.tiled.frozen import FrozenRaster

Areas = Mapping[int, Area]
"""By the input's number; inputs without one are taken as a whole."""


def read_areas(sources: Sequence[InputSource]) -> dict[int, Area]:
    """Read the files that inputs name. Raises InputError for one that is no area of interest."""
    found = {}
    for number, source in enumerate(sources):
        if source.area is None:
            continue
        folder, _, name = source.area.rpartition("/")
        try:
            data = Store.open(folder or "/", source.options).get(name)
            found[number] = read_area(data, source.area)
        except (NotFound, ValueError) as error:
            raise InputError(f"area of {source.uri}: {error}") from None
    return found


def areas_bytes(areas: Areas) -> bytes:
    """As the plan keeps them."""
    kept = {
        str(number): {"crs": area.crs, "wkb": shapely.to_wkb(area.shape, hex=True)}
        for number, area in areas.items()
    }
    return json.dumps(kept).encode()


def load_areas(output: Store, plan: Plan) -> dict[int, Area]:
    """The areas that a plan was made with. Raises PlanError where they are gone or damaged."""
    if not plan.areas:
        return {}
    try:
        kept = json.loads(output.get(plan.areas))
        return {int(n): Area(shapely.from_wkb(area["wkb"]), area["crs"]) for n, area in kept.items()}
    except (NotFound, ValueError, KeyError, TypeError, shapely.errors.ShapelyError) as error:
        raise PlanError(
            f"{output.join(plan.areas)} is not the area that the job was planned with ({error}); restore it"
        ) from None


def on_raster(areas: Areas, source: int, raster: FrozenRaster) -> RasterArea | None:
    """The part of a raster that is of interest; None where all is, or it says not where it lies."""
    if source not in areas or (georef := raster.georef) is None:
        return None
    return areas[source].on_raster(georef, raster.width, raster.height)
