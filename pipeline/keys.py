"""Names of objects and of places: which names can be asked for, and where a URI points."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.objects import StoreError

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
SCHEMES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "azure": "az"}
SIGNED = r"(?i)[?&](sig|signature|(x-amz|x-goog)-(signature|security-token|credential))="
"""What a URI holds that opens its object to whoever reads the URI."""
_SIGNED = re.compile(SIGNED)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def addressable(key: str) -> str | None:
    """Say why a name cannot be asked for, or None when it can.

    One rule for every kind of store, though a disk could read some of these: the same files give the same
    rows wherever they lie.
    """
    if not key:
        return "the name is empty"
    if not key.isascii() and any("\ud800" <= c <= "\udfff" for c in key):
        return "the name is not UTF-8"
    if control := CONTROL.search(key):
        return f"the name holds the control character {control.group()!r}"
    if key.startswith("/") or key.endswith("/"):
        return "the name begins or ends with '/'"
    parts = key.split("/")
    if "" in parts:
        return "the name holds '//'"
    if "." in parts or ".." in parts:
        return "the name holds a '.' or '..' between slashes"
    return None


def printable(text: str) -> str:
    r"""Return the text with bytes that are not UTF-8 (of a file's name) written as `\xNN`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def without_secrets(uri: str) -> str:
    """The URI with what may open a door hidden: user and password, and a signed or a foreign URL's query."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return uri
    host, slash, path = rest.partition("/")
    if "@" in host:
        host = f"[hidden]@{host.rpartition('@')[2]}"
    if scheme not in SCHEMES or _SIGNED.search(rest):
        host, path = (f"{part.partition('?')[0]}?[hidden]" if "?" in part else part for part in (host, path))
    return f"{scheme}://{host}{slash}{path}"


def checked_endpoint(endpoint: str, place: str) -> str:
    """The endpoint again. Raises StoreError where it holds a user or a password: errors name the endpoint."""
    try:
        parts = urlsplit(endpoint)
    except ValueError:
        raise StoreError(
            f"{place}: the endpoint is not a URL; write such as https://s3.example.com"
        ) from None
    if "@" in parts.netloc:
        raise StoreError(
            f"{place}: the endpoint holds credentials; take them out of the spec or of AWS_ENDPOINT_URL, "
            "and give them by the environment's keys or a profile"
        )
    return endpoint


@dataclass(frozen=True)
class Location:
    """Where a URI points: `scheme` is `file`, `s3`, `gs` or `az`; `path` has no leading or trailing slash."""

    scheme: str
    bucket: str
    path: str

    @property
    def root(self) -> str:
        """URI of the bucket, or of the disk's root."""
        return "/" if self.scheme == "file" else f"{self.scheme}://{self.bucket}"

    @property
    def uri(self) -> str:
        """The URI again: a plain absolute path on disk."""
        return under(self.root, self.path) if self.path else self.root


def under(uri: str, key: str) -> str:
    """Join a key to a URI that names a folder."""
    return f"{uri}{key}" if uri.endswith("/") else f"{uri}/{key}"


def locate(uri: str, trim: bool = True) -> Location:
    """Take a URI or a local path apart. Nothing is percent-decoded; `trim` drops slashes at the end.

    Raises `StoreError` for a scheme that is not read here and for a bucket that cannot be one.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return Location("file", "", _local(rest if separator else uri).strip("/"))
    shown = printable(without_secrets(uri))
    if scheme not in SCHEMES:
        raise StoreError(f"{shown!r}: {scheme}:// is not read here; use a path, s3://, gs:// or az://")
    bucket, _, path = rest.partition("/")
    if "@" in bucket or _SIGNED.search(rest):
        raise StoreError(
            f"{shown!r} holds credentials; leave them out, and give them by the environment, a profile or "
            "the machine's role"
        )
    if not BUCKET.fullmatch(bucket):
        raise StoreError(f"{shown!r} names no bucket; write {SCHEMES[scheme]}://bucket/folder")
    return Location(SCHEMES[scheme], bucket, path.rstrip("/") if trim else path)


def _local(path: str) -> str:
    if not path or "\0" in path:
        raise StoreError(f"{path!r} is not a path")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise StoreError(f"{printable(path)!r} is not UTF-8; rename the folder") from None
    return os.path.abspath(os.path.expanduser(path) if path.startswith("~/") else path)
