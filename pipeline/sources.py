"""A job's inputs as it names them: folders of images, or lists of them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.storage import StoreOptions


class InputError(Exception):
    """Inputs that cannot be planned. The message says which, what was looked for, and what to do."""


@dataclass(frozen=True)
class InputSource:
    """Where images come from: everything below a URI, or what a Parquet or CSV file lists."""

    uri: str
    include: tuple[str, ...] = ()
    """Globs on the path below the URI; an image is taken when one matches. Without any, everything is."""
    exclude: tuple[str, ...] = ()
    """Globs of what is left out, whatever `include` says."""
    manifest: bool = False
    """The URI names a .parquet or .csv file with a row an image."""
    columns: tuple[str, ...] = ()
    """Columns of the manifest to carry into the `images` table."""
    uri_column: str = "uri"
    id_column: str | None = None
    """Column of the manifest that names the images. Without it, the path below the manifest's folder does."""
    options: StoreOptions | None = None
    """How the URI's store, and those of the images listed there, are reached."""
    area: str | None = None
    """URI of a GeoJSON or GeoPackage file: of rasters, only what lies in its polygons is segmented."""
    name: str | None = None
    """Put before the ids of this input's images: `<name>/<path>`."""
    new: bool = False
    """Whether later runs look here for images that the output does not have yet."""
