"""The truth of the images that a training holds out, as a COCO json: `condinst promote` can measure on it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import takewhile

from jobs.exam import Exam
from pipeline.keys import locate
from pipeline.samples import place_of
from pipeline.storage import Store

HELD_KEY = "held_out.json"


def put_held_truth(exam: Exam, output: Store) -> str | None:
    """Put the truth of an exam below the output; returns the URI or folder that its `file_name`s start in.

    None where the images share none, or are reached in different ways: nothing is put. Raises StoreError.
    """
    root = common_root(store for store, _ in exam.images)
    if root is None:
        return None
    above = len(root.join(""))
    said = {
        **exam.truth.dataset,
        "info": {"description": f"images held out of {output.uri}; they start at {root.uri}"},
        "images": [
            {
                **{key: row[key] for key in ("id", "height", "width")},
                "file_name": place_of(store, str(row["file_name"]))[above:],
            }
            for store, row in exam.images
        ],
    }
    output.put(HELD_KEY, json.dumps(said, default=bytes.decode).encode())
    return root.uri


def common_root(stores: Iterable[Store]) -> Store | None:
    """What lies above some stores, as near as can be; None for several buckets, and for the disk's root."""
    first, *others = dict.fromkeys(stores)
    if not others:
        return first
    if any(store.options != first.options for store in others):
        return None
    places = [locate(store.uri) for store in (first, *others)]
    if len({(place.scheme, place.bucket) for place in places}) > 1:
        return None
    parts = zip(*(place.path.split("/") for place in places), strict=False)
    shared = "/".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, parts))
    if not shared and first.local:
        return None
    return Store.open(replace(places[0], path=shared).uri, first.options)
