"""Times and sizes as people write them in specs: `6h`, `1h30m`, `16Gi`."""

from __future__ import annotations

import re

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_BYTES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_TIME = re.compile(r"(?:([0-9]{1,5})d)?(?:([0-9]{1,5})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,7})s)?")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)(Ki|Mi|Gi|Ti|k|M|G|T)B?")

TIME_PATTERN = r"^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$"
SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)B?$"


def seconds(text: str) -> int:
    """Seconds of a time such as `90s`, `6h` or `1h30m`. Raises ValueError for anything else, and for none."""
    parts = _TIME.fullmatch(text)
    found = (
        sum(int(part or 0) * unit for part, unit in zip(parts.groups(), _SECONDS.values(), strict=True))
        if parts
        else 0
    )
    if not found:
        raise ValueError("expected a time such as 90s, 30m, 6h or 1h30m")
    return found


def size(text: str) -> int:
    """Bytes of a size such as `16Gi` or `500M`, as Kubernetes writes them, with or without a B at its end.

    Raises ValueError for anything else, and for less than a megabyte.
    """
    parts = _SIZE.fullmatch(text)
    found = int(float(parts[1]) * _BYTES[parts[2]]) if parts else 0
    if found < 10**6:
        raise ValueError("expected a size such as 16Gi or 500Mi")
    return found
