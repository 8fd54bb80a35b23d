"""Where an export goes: a file or a folder, on disk or in a store, that appears when it is whole."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.export.errors import TargetError
from pipeline.export.remote import Remote, streamed_file, uploaded_file, uploaded_folder
from pipeline.keys import locate
from pipeline.storage import StoreOptions

__all__ = ["Place", "TargetError", "place_of", "relative", "whole_file", "whole_folder", "whole_stream"]

Place = Path | Remote
UNNAMEABLE = {
    *(errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
}
"""What a file system says of a name that it cannot give: it costs one image."""
UNNAMED = "images whose id cannot be a file's name here: left out"


def place_of(uri: str, options: StoreOptions) -> Place:
    """A path, or a URI of a store that `options` reach. Raises StoreError for a URI that names no place."""
    location = locate(uri, trim=False)
    if location.scheme != "file":
        return Remote(location.uri, options)
    return Path(location.uri if "://" in uri else uri)


@contextmanager
def whole_stream(place: Place) -> Iterator[BinaryIO]:
    """A file to write from start to end, which appears when the block ends well.

    Raises TargetError where the folder is not there, or the disk refuses; StoreError when a store does.
    """
    if isinstance(place, Remote):
        with streamed_file(place) as file:
            yield file
    else:
        with whole_file(place) as temporary, temporary.open("wb") as file:
            yield file


@contextmanager
def whole_file(path: Place) -> Iterator[Path]:
    """A temporary name, of which `path` is made when the block ends well; else it is removed.

    Raises TargetError where the folder is not there, or the disk refuses; StoreError when a store does.
    """
    if isinstance(path, Remote):
        with uploaded_file(path) as temporary:
            yield temporary
        return
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror or error}; name another place with --to") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def whole_folder(path: Place) -> Iterator[Path]:
    """The same for a folder; `path` must be absent or an empty folder."""
    if isinstance(path, Remote):
        with uploaded_folder(path) as temporary:
            yield temporary
        return
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise TargetError.taken(path)
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror or error}; name another place with --to") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def relative(image_id: str) -> str:
    """An image's id as a path that stays below its folder; the id itself wherever that is one.

    Ids come from outside: `..`, empty parts and what does not print are written out as `%2E%2E`.
    """
    return "/".join(_part(part) for part in image_id.split("/"))


def _part(part: str) -> str:
    if part in ("", ".", ".."):
        return "".join(f"%{ord(c):02X}" for c in part) or "%"
    return "".join(
        c if c.isprintable() else "".join(f"%{b:02X}" for b in c.encode("utf-8", "surrogatepass"))
        for c in part
    )
