"""Freezes the input of a tiled job: rasters from their headers, their windows, and the shards of both."""

from __future__ import annotations

import base64
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.decode import DecodeLimits
from pipeline.entries import BATCH_ROWS, WINDOW, Tally, entries, entry_schema, image_refs
from pipeline.geo.georef import crs_name
from pipeline.geo.windows import Grid, windows
from pipeline.inputrows import InputRows, demand
from pipeline.known import Known
from pipeline.manifest import Scan
from pipeline.nouns import many
from pipeline.objects import NotFound
from pipeline.plan import Plan, load_plan, plan_bytes, plan_key, untold
from pipeline.records import ImageRef, InputRejected, Status
from pipeline.settings import windows_uri
from pipeline.shardfiles import ShardFiles
from pipeline.sources import InputError, InputSource
from pipeline.storage import Store
from pipeline.tiled.areas import areas_bytes, on_raster, read_areas
from pipeline.tiled.children import RasterChildren
from pipeline.tiled.frozen import FrozenRaster, Part
from pipeline.tiled.groups import groups, offsets
from pipeline.tiled.inspect import Inspector
from pipeline.tiled.norms import squares_in
from pipeline.tiled.outside import Outside
from pipeline.tiled.settings import Tiling

INSPECTORS = 4
"""Headers read at a time, each in a process of its own: a raster that ends it costs the raster."""
SEVERAL = "OGC:CRS84"
"""CRS of a job whose rasters lie in several and that asks for none."""
MAX_SHARD_ROWS = 1 << 20
_Windows = tuple[Grid, NDArray[np.int64]]


@dataclass(frozen=True)
class Cut:
    """A raster and the windows it is cut into."""

    row: pa.RecordBatch
    """Its row of the manifest, without `raster`."""
    ref: ImageRef
    raster: FrozenRaster
    windows: _Windows | None
    """A grid, and the numbers of its windows that are read; None where there are none."""


@dataclass(frozen=True)
class _Looked:
    """What of a raster is looked at."""

    windows: _Windows
    part: Part | None = None
    """Of an area of interest, as `FrozenRaster` has it; the squares too."""
    squares: tuple[tuple[int, int], ...] | None = None


def open_windows(output: Store) -> Store:
    """The output of the first stage of a tiled job."""
    return Store.open(windows_uri(output.uri), output.options)


def freeze_tiled(
    sources: Sequence[InputSource],
    output: Store,
    shard_size: int,
    generation: int,
    tiling: Tiling,
    limits: DecodeLimits,
) -> Plan:
    """Make the plan of one generation, or adopt the one that is there: the first record created rules.

    A shard of windows has `shard_size` of them; a stitch shard has rasters of about as many. `limits` are
    for looking at a raster's header. Raises what `pipeline.manifest.freeze` does, and InputError for an area
    of interest that is none or that no raster meets.
    """
    try:
        plan = load_plan(output, generation)
    except NotFound:
        found = _Freezing(sources, output, shard_size, generation, tiling, limits).plan()
        assert found is not None
        plan = found
    install_windows(output, plan)
    return plan


def extend_tiled(
    sources: Sequence[InputSource],
    output: Store,
    plans: Sequence[Plan],
    known: Known,
    tiling: Tiling,
    limits: DecodeLimits,
) -> tuple[Plan | None, Scan]:
    """Append a generation of what the inputs marked `new` have and no plan has; None where that is nothing.

    As `pipeline.manifest.extend`. Geometries keep the CRS of the first generation.
    """
    assert plans[-1].windows is not None
    size, crs = plans[-1].windows.shard_size, next((plan.crs for plan in plans if plan.crs), "")
    tiling = replace(tiling, crs=crs or tiling.crs)
    freezing = _Freezing(sources, output, size, len(plans), tiling, limits, known)
    plan = freezing.plan(plans)
    if plan is not None:
        install_windows(output, plan)
    return plan, freezing.found


def install_windows(output: Store, plan: Plan) -> None:
    """Put the plan of the first stage where that stage looks for it; safe to repeat."""
    assert plan.windows is not None
    open_windows(output).create(plan_key(plan.generation), plan_bytes(plan.windows))


class _Freezing:
    def __init__(
        self,
        sources: Sequence[InputSource],
        output: Store,
        shard_size: int,
        generation: int,
        tiling: Tiling,
        limits: DecodeLimits,
        known: Known | None = None,
    ) -> None:
        """With `known` a later generation, of what is not."""
        if shard_size < 1:
            raise ValueError(f"a shard of {shard_size} windows")
        self._sources, self._output, self._windows_output = sources, output, open_windows(output)
        self._shard_size, self._generation, self._tiling = shard_size, generation, tiling
        self._known, self._limits = known, limits
        self._tally, self._rows = Tally(), InputRows(sources, output, known)
        self._areas = read_areas(sources)
        self._outside = Outside(self._areas)
        self._schema = entry_schema(self._rows.extra, tiled=True)
        self._window_schema = entry_schema(pa.schema([]), tiled=True)
        name = secrets.token_hex(8)
        self._files = ShardFiles(output, name, self._schema, MAX_SHARD_ROWS)
        self._window_files = ShardFiles(self._windows_output, name, self._window_schema, shard_size)
        self._area_key = f"_plans/{name}/areas.json" if self._areas else ""
        self._systems: Counter[str] = Counter()
        self._windows = 0
        self._sizes: list[int] = []

    @property
    def found(self) -> Scan:
        """What was listed."""
        tally = self._tally
        return Scan(tally.images, tally.bytes, dict(tally.skipped), tally.known, tally.changed)

    def plan(self, earlier: Sequence[Plan] = ()) -> Plan | None:
        """The plan of the generation, or the one that was there first; None where nothing is new."""
        try:
            self._write()
            if not self._tally.images:
                self._take_back()
                return None
            plan = self._record(earlier)
            if self._output.create(plan_key(self._generation), plan_bytes(plan)):
                return plan
        except BaseException:
            self._take_back()
            raise
        standing = load_plan(self._output, self._generation)
        if standing.id != plan.id:
            self._take_back()
        return standing

    def _take_back(self) -> None:
        self._output.delete([file.path for file in self._files.files] + [self._area_key] * bool(self._areas))
        self._windows_output.delete(file.path for file in self._window_files.files)

    def _write(self) -> None:
        if self._areas:
            self._output.put(self._area_key, areas_bytes(self._areas))
        weight = rows = 0
        for unit in self._units():
            for cut in unit:
                weight += self._put(cut)
            rows += len(unit)
            if weight >= self._shard_size:
                self._end_shard(rows)
                weight = rows = 0
        if rows:
            self._end_shard(rows)
        self._files.close()
        self._window_files.close()
        if self._known is None:
            self._demand()

    def _units(self) -> Iterator[Sequence[Cut]]:
        """Rasters that are stitched together: each by itself, or those that overlap on the ground."""
        cuts = self._cuts()
        if not self._tiling.across_rasters:
            yield from ([cut] for cut in cuts)
            return
        kept = list(cuts)
        for members in groups([cut.raster for cut in kept], self._crs()):
            yield self._in_phase([kept[member] for member in members])

    def _in_phase(self, unit: Sequence[Cut]) -> Sequence[Cut]:
        """Rasters of one grid of pixels, cut so that their windows lie on one grid too."""
        places = offsets([cut.raster for cut in unit]) if len(unit) > 1 else None
        if places is None:
            return unit
        grid = self._tiling.grid
        return [self._recut(cut, (x % grid, y % grid)) for cut, (x, y) in zip(unit, places, strict=True)]

    def _recut(self, cut: Cut, phase: tuple[int, int]) -> Cut:
        found = self._grid(cut.ref, cut.raster, phase)
        if found is None:
            return cut
        return replace(cut, raster=replace(cut.raster, windows=len(found.windows[1])), windows=found.windows)

    def _cuts(self) -> Iterator[Cut]:
        children = RasterChildren(self._limits)
        inspector = Inspector(self._sources, self._tiling, children.inspect)
        with closing(children), ThreadPoolExecutor(INSPECTORS, "inspect") as inspectors:
            for batch in self._rows.batches(self._tally):
                refs = image_refs(pa.Table.from_batches([batch]))
                for at, raster in enumerate(inspectors.map(inspector.inspect, refs)):
                    if (cut := self._cut(batch.slice(at, 1), refs[at], raster)) is not None:
                        yield cut

    def _cut(self, row: pa.RecordBatch, ref: ImageRef, raster: FrozenRaster) -> Cut | None:
        if raster.status is not None:
            return Cut(row, ref, raster, None)
        if raster.crs is not None:
            self._systems[raster.crs] += 1
        try:
            found = self._grid(ref, raster)
        except ValueError as error:
            return Cut(row, ref, FrozenRaster.refused(InputRejected(Status.UNSUPPORTED, str(error))), None)
        if found is None:
            self._tally.images -= 1
            self._tally.bytes -= ref.bytes or 0
            self._tally.skipped["outside_area"] += 1
            self._outside.add(ref.source, raster)
            return None
        frozen = replace(raster, windows=len(found.windows[1]), part=found.part, squares=found.squares)
        return Cut(row, ref, frozen, found.windows)

    def _grid(self, ref: ImageRef, raster: FrozenRaster, phase: tuple[int, int] = (0, 0)) -> _Looked | None:
        """Which windows of a raster are read, and what of it is of interest; None where nothing is."""
        size, overlap, grid = self._tiling.size, self._tiling.overlap, self._tiling.grid
        if ref.source not in self._areas:
            whole = windows(raster.width, raster.height, size, overlap, grid=grid, phase=phase)
            return _Looked((whole, np.arange(len(whole))))
        if raster.georef is None:
            raise ValueError("an `area` was asked for, and the image does not say where it lies")
        area = on_raster(self._areas, ref.source, raster)
        if area is None:
            return None
        squares = squares_in(area, self._tiling.scale) if self._tiling.norms == "raster" else None
        return _Looked(area.windows(size, overlap, grid, phase), area.part, squares)

    def _put(self, cut: Cut) -> int:
        """Write a raster's row and its windows; returns what it weighs in a shard."""
        raster = replace(cut.raster, first=self._windows)
        text = pa.array([raster.to_json()], pa.string())
        columns = [text if name == "raster" else cut.row.column(name) for name in self._schema.names]
        self._files.add(pa.record_batch(columns, schema=self._schema))
        if cut.windows is not None:
            for batch in self._window_rows(cut.ref, raster, *cut.windows):
                self._window_files.add(batch)
        self._windows += raster.windows
        return max(1, raster.windows)

    def _window_rows(
        self, ref: ImageRef, raster: FrozenRaster, grid: Grid, numbers: NDArray[np.int64]
    ) -> Iterator[pa.RecordBatch]:
        text = raster.to_json()
        for begin in range(0, len(numbers), BATCH_ROWS):
            places = [grid[number] for number in numbers[begin : begin + BATCH_ROWS].tolist()]
            sides = [[getattr(place, side) for place in places] for side in WINDOW.names]
            rows = len(places)
            yield entries(
                self._window_schema,
                ref.source,
                image_id=[f"{ref.image_id}:{place.x},{place.y}" for place in places],
                uri=[ref.uri] * rows,
                etag=[ref.etag] * rows,
                window=pa.StructArray.from_arrays(
                    [pa.array(side, pa.int32()) for side in sides], fields=list(WINDOW)
                ),
                raster=[text] * rows,
            )

    def _end_shard(self, rows: int) -> None:
        self._files.cut()
        self._sizes.append(rows)

    def _demand(self) -> None:
        if not self._tally.images and (outside := self._tally.skipped["outside_area"]):
            raise InputError(
                f"no images: {many(outside, 'raster')}, all outside the area of interest\n"
                + self._outside.told(self._sources)
            )
        demand(self._tally, self._sources)

    def _crs(self) -> str:
        if self._tiling.crs is not None:
            with suppress(ValueError):  # the spec was checked
                return crs_name(self._tiling.crs)
        if len(self._systems) > 1:
            return SEVERAL
        return next(iter(self._systems), "")

    def _record(self, earlier: Sequence[Plan]) -> Plan:
        extra = self._rows.extra
        return Plan(
            generation=self._generation,
            id=self._files.id,
            files=tuple(self._files.files),
            images=self._tally.images,
            shard_size=max(self._sizes),
            shards=len(self._sizes),
            bytes=self._tally.bytes,
            skipped=untold(self._tally.skipped, earlier),
            extra_schema=base64.b64encode(extra.serialize()).decode() if len(extra) else "",
            sizes=tuple(self._sizes),
            crs=self._crs() if self._systems else "",
            areas=self._area_key,
            windows=self._window_plan(),
        )

    def _window_plan(self) -> Plan:
        files = tuple(self._window_files.files)
        return Plan(
            generation=self._generation,
            id=self._window_files.id,
            files=files,
            images=self._windows,
            shard_size=self._shard_size,
            shards=sum(file.row_groups for file in files),
            bytes=0,
        )
