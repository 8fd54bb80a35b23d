"""Files on disk as objects: whole or absent, never half written.

Not obstore's `LocalStore`: that one refuses names such as `photo#1` and cannot be kept from following a
symbolic link out of the output folder.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.keys import printable
from pipeline.objects import BadPath, Check, Data, Denied, NotFound, ObjectInfo, StoreError, Unavailable

TEMPORARY = re.compile(rb"\.tmp-[0-9a-f]{16}")
"""A file being written. Not an object yet, so no listing shows it."""
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.ESTALE}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def obstacle(folder: str) -> str | None:
    """What keeps files from being written in a folder that is there or is to be made, and what to do.

    None where nothing is seen to.
    """
    above = folder
    while not os.path.lexists(above):
        above = os.path.dirname(above) or os.curdir
    shown = printable(above)
    if not os.path.isdir(above):
        return f"{shown} is {'a file' if os.path.isfile(above) else 'not a folder'}; name a folder"
    if not os.access(above, os.W_OK | os.X_OK):
        return f"{shown}: permission denied; check its owner and mode, or name another folder"
    return None


class LocalBackend:
    """Objects of one folder; keys are paths below it."""

    def __init__(self, root: str) -> None:
        self.root = root

    def get(self, key: str, check: Check | None) -> tuple[bytes, ObjectInfo]:
        """Read a file as a whole, after `check` has seen what it is."""
        try:
            with self._open(key) as file:
                info = _info(key, os.fstat(file.fileno()))
                if check is not None:
                    check(info)
                return file.read(), info
        except OSError as error:
            raise self._explain(error, key) from None

    def get_range(self, key: str, start: int, length: int, check: Check | None) -> bytes:
        """Read at most `length` bytes from `start` on; `check` sees the file as it is after that."""
        try:
            with self._open(key) as file:
                data = os.pread(file.fileno(), length, start)
                if check is not None:
                    check(_info(key, os.fstat(file.fileno())))
                return data
        except OSError as error:
            raise self._explain(error, key) from None

    def head(self, key: str) -> ObjectInfo:
        """Describe a file without reading it."""
        try:
            found = os.stat(self._path(key))
        except OSError as error:
            raise self._explain(error, key) from None
        if not stat.S_ISREG(found.st_mode):
            raise NotFound(f"{self._path(key)} is not a file")
        return _info(key, found)

    def put(self, key: str, data: Data) -> None:
        """Write a file, replacing what is there in one step."""
        self._write(key, lambda temporary: _fill(temporary, [data]), _replace)

    def put_chunks(self, key: str, chunks: Iterator[bytes]) -> None:
        """Write a file as its bytes come, replacing what is there in one step."""
        self._write(key, lambda temporary: _fill(temporary, chunks), _replace, tries=1)

    def create(self, key: str, data: bytes) -> bool:
        """Write a file unless there is one: the hard link is the step that only one writer can take."""
        return self._write(key, lambda temporary: _fill(temporary, [data]), _link)

    def copy(self, source: str, target: str) -> None:
        """Copy a file, replacing what is there in one step."""
        self._write(target, lambda temporary: self._fill_from(source, temporary), _replace)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files, and the folders below the root that this empties. Absent files are no error."""
        for key in keys:
            path = self._target(key)
            try:
                os.unlink(path)
                folder = os.path.dirname(path)
                while len(folder) > len(self.root):
                    os.rmdir(folder)
                    folder = os.path.dirname(folder)
            except OSError as error:
                if error.errno not in _GONE | {errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY}:
                    raise self._explain(error, key) from None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the files whose key begins with `prefix`, in the order of their keys' bytes.

        Linked folders are followed unless they lead back to a folder that is being listed.
        """
        folder = prefix.rpartition("/")[0]
        start = os.path.join(os.fsencode(self.root), os.fsencode(folder))
        above = b"" if not folder else os.fsencode(folder) + b"/"
        wanted = os.fsencode(prefix)
        # Not by recursion: folders may be nested deeper than Python's stack.
        opened = [level] if (level := self._level(start, above)) else []
        while opened:
            here = opened[-1]
            name = next(here.names, None)
            if name is None:
                opened.pop()
                continue
            key = here.above + name
            if not name.endswith(b"/"):
                if key.startswith(wanted) and (info := self._entry(here.path, name, key)):
                    yield info
            elif key.startswith(wanted) or wanted.startswith(key):
                below = self._level(os.path.join(here.path, name[:-1]), key)
                if below and all(below.place != level.place for level in opened):
                    opened.append(below)

    def _level(self, folder: bytes, above: bytes) -> _Level | None:
        """A folder opened for listing; None where there is none."""
        try:
            found = os.stat(folder)
            return _Level(folder, above, (found.st_dev, found.st_ino), iter(_entries(folder)))
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                return None
            if error.errno == errno.ENAMETOOLONG:
                shown = printable(os.fsdecode(above[:80]))
                raise StoreError(
                    f"{self._path(shown)}...: folders are nested deeper there than a path can be long; "
                    "move them out of the input"
                ) from None
            raise self._explain(error, os.fsdecode(above)) from None

    def _entry(self, folder: bytes, name: bytes, key: bytes) -> ObjectInfo | None:
        path = os.path.join(folder, name)
        try:
            found = os.stat(path)
        except OSError as error:
            if error.errno not in _GONE:
                raise self._explain(error, os.fsdecode(key)) from None
            # A link to nothing is an input that is missing; a file gone since the folder was read is none.
            return ObjectInfo(os.fsdecode(key), 0, None) if os.path.islink(path) else None
        return _info(os.fsdecode(key), found) if stat.S_ISREG(found.st_mode) else None

    def _path(self, key: str) -> str:
        return os.path.join(self.root, key)

    def _open(self, key: str) -> BinaryIO:
        path = self._path(key)
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a file")  # a pipe would block, a device never end
        return open(path, "rb")

    def _target(self, key: str) -> str:
        path = self._path(key)
        root = os.path.realpath(self.root)
        if os.path.commonpath((root, os.path.realpath(os.path.dirname(path)))) != root:
            raise StoreError(
                f"{path} lies outside {self.root}: a symbolic link leads out; nothing is written there"
            )
        return path

    def _write(
        self, key: str, fill: Callable[[str], None], publish: Callable[[str, str], bool], tries: int = 3
    ) -> bool:
        path = self._target(key)
        folder = os.path.dirname(path)
        temporary = os.path.join(folder, f".tmp-{secrets.token_hex(8)}")
        try:
            os.makedirs(folder, exist_ok=True)
            fill(temporary)
            return publish(temporary, path)
        except FileNotFoundError as error:
            # Somebody who emptied the folder removed it before our file was in it.
            if tries == 1 or os.path.isdir(folder):
                raise self._unwritten(error, key) from None
            return self._write(key, fill, publish, tries - 1)
        except OSError as error:
            raise self._unwritten(error, key) from None
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)

    def _fill_from(self, source: str, temporary: str) -> None:
        try:
            file = self._open(source)
        except OSError as error:
            raise self._explain(error, source) from None
        with file, open(temporary, "xb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
            _flush(copy)

    def _unwritten(self, error: OSError, key: str) -> StoreError:
        """Why an object could not be written: in words of its folder where that is what is wrong."""
        folder = os.path.dirname(self._path(key))
        if reason := obstacle(folder):
            # A mode may be put right, or be that of a folder whose disk is about to be mounted.
            return Denied(reason) if error.errno in (errno.EACCES, errno.EPERM) else BadPath(reason)
        if not os.path.isdir(folder) and error.errno not in _FULL:
            shown = folder if os.path.isdir(self.root) else self.root
            return BadPath(f"{printable(shown)} cannot be created: {_cause(error)}; name another folder")
        return self._explain(error, key)

    def _explain(self, error: OSError, key: str) -> StoreError:
        path = printable(self._path(key))
        if error.errno in _GONE:
            return NotFound(f"{path} does not exist")
        if isinstance(error, PermissionError) and error.errno == errno.EACCES:
            return Denied(f"{path}: permission denied; check its owner and mode")
        if error.errno in _NO_LINKS:
            return StoreError(
                f"{path}: this file system has no hard links, by which a commit is made once; use another"
            )
        kind = Unavailable if error.errno in _FULL else StoreError
        return kind(f"{path}: {_cause(error)}")


@dataclass(frozen=True)
class _Level:
    """A folder that is being listed."""

    path: bytes
    above: bytes
    """What its files' keys begin with."""
    place: tuple[int, int]
    """Device and inode: what it is whatever link leads here."""
    names: Iterator[bytes]
    """Those not visited yet."""


def _entries(folder: bytes) -> list[bytes]:
    """Names in a folder, those of folders with '/' appended: sorted so, the keys below come in byte order."""
    with os.scandir(folder) as found:
        names = [e.name + b"/" if _is_folder(e) else e.name for e in found if not TEMPORARY.fullmatch(e.name)]
    names.sort()
    return names


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _cause(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, found.st_size, f"{found.st_mtime_ns:x}-{found.st_size:x}")


def _fill(temporary: str, chunks: Iterable[Data]) -> None:
    with open(temporary, "xb") as file:
        file.writelines(chunks)
        _flush(file)


def _flush(file: BinaryIO) -> None:
    """Put the bytes on the disk itself before the name appears: a power cut leaves no empty commit behind."""
    file.flush()
    os.fsync(file.fileno())


def _replace(temporary: str, path: str) -> bool:
    os.replace(temporary, path)
    return True


def _link(temporary: str, path: str) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    return True
