"""The document of a GeoJSON file, and the CRS that it names, as files older than RFC 7946 do."""

from __future__ import annotations

import json
from typing import Any


def read_geojson(data: bytes) -> tuple[dict[str, Any], str]:
    """The object, and its `crs` member's name, empty where it has none.

    Raises ValueError for what is no JSON object, and what looking into a `crs` of another form raises.
    """
    try:
        document = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(document, dict):
        raise ValueError("not a GeoJSON object")
    return document, document["crs"]["properties"]["name"] if document.get("crs") else ""
