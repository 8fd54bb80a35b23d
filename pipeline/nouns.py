"""Numbers of things as people write them: `1 image`, `2,000 images`."""

from __future__ import annotations


def many(count: int, noun: str) -> str:
    """So many of what a noun, in the singular, names."""
    return f"{count:,} {plural(count, noun)}"


def plural(count: int, noun: str) -> str:
    """A noun alone, as it follows that number."""
    if count == 1:
        return noun
    return noun + ("es" if noun.endswith(("s", "ch", "x")) else "s")
