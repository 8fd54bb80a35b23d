"""What a run's end warns of: inputs without instances because they were not segmented, and instances that may
be missing because a model finds no more in one image."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from jobs import structured
from jobs.allowance import bad, examples
from jobs.progress import GOOD
from pipeline.ledger import Ledger, LedgerError
from pipeline.nouns import many
from pipeline.storage import StoreError


def tell_cautions(console: Console, ledger: Ledger, accounts: dict[str, Any]) -> None:
    """Print what the summary gives cause for."""
    for text in [*_lost(ledger, accounts), *capped(accounts["capped"], "windows" in accounts)]:
        structured.warn(console, text)


def _lost(ledger: Ledger, accounts: dict[str, Any]) -> list[str]:
    statuses = {status: n for status, n in accounts["statuses"].items() if n and status not in GOOD}
    lost, planned = bad(statuses), accounts["images"]
    if not lost:
        return []
    share = "no input was" if lost == planned else f"{lost:,} of {planned:,} inputs were not"
    try:
        named = "; ".join(examples(ledger, statuses))
    except (StoreError, LedgerError):  # the job is done all the same
        return [f"{share} segmented"]
    return [f"{share} segmented, such as {named}"]


def capped(count: int, windows: bool) -> list[str]:
    """In words that so many images, or windows, hold all that a model may find in one; nothing for none."""
    if not count:
        return []
    what = many(count, "window" if windows else "image")
    remedy = "raise it" + ", or make tiling.size smaller" * windows
    return [
        f"{what} held as many instances as model.max_instances allows, so that the weakest may be "
        f"missing: {remedy} (column `capped` of images)"
    ]
