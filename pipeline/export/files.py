"""Where an export goes: a file or a folder on disk that appears when it is whole."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.objects import StoreError

UNNAMEABLE = {
    *(errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
}
"""What a file system says of a name that it cannot give: it costs one image."""
UNNAMED = "images whose id cannot be a file's name here: left out"


class TargetError(StoreError):
    """A place that an export cannot be written to; the message says why."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which it gets when the block ends well; else it is removed.

    Raises TargetError where the folder is not there, or the disk refuses.
    """
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
def whole_folder(path: Path) -> Iterator[Path]:
    """The same for a folder; `path` must be absent or an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise TargetError(f"{path} holds something already; name a new folder with --to")
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
