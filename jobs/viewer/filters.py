"""What the grid shows: conditions and an order, checked, and as the SQL that the index is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Sort = Literal["order", "name", "count", "best", "worst", "pixels"]
SORTS: dict[str, str] = {
    "order": "no",
    "name": "image_id",
    "count": "hits",
    "best": "best",
    "worst": "worst",
    "pixels": "width::BIGINT * height",
}


class Filter(BaseModel):
    """What the grid shows: the words of an address, checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: tuple[str, ...] = ()
    """Statuses; none is all."""
    category: tuple[str, ...] = ()
    """Classes of the instances that count; none is all."""
    score_min: float = Field(0.0, ge=0, le=1)
    score_max: float = Field(1.0, ge=0, le=1)
    count_min: int | None = Field(None, ge=0, le=2**31 - 1)
    """Fewest instances that count. By default 1 when a class or a score is asked for."""
    count_max: int | None = Field(None, ge=0, le=2**31 - 1)
    text: str = Field("", max_length=1000)
    """Part of the image's id or of its error, in any case of letters."""
    sort: Sort = "order"
    falling: bool = False
    page: int = Field(0, ge=0, le=10**7)
    size: int = Field(60, ge=1, le=500)

    @property
    def narrowed(self) -> bool:
        """Whether only some instances count."""
        return bool(self.category) or self.score_min > 0 or self.score_max < 1

    @property
    def plain(self) -> bool:
        """Whether it is the run's images one after the other, all of them."""
        counts = self.count_min or self.count_max is not None
        return self.sort == "order" and not (self.narrowed or self.status or self.text or counts)


def matching(wanted: Filter, categories: Sequence[str]) -> tuple[str, list[Any]]:
    """SQL of the images that a filter holds for, with their `hits`, and its values."""
    values: list[Any] = []
    if wanted.narrowed:
        chosen = [categories.index(name) for name in wanted.category if name in categories]
        some = "AND category IN (SELECT unnest(?::SMALLINT[]))" if wanted.category else ""
        values += [wanted.score_min, wanted.score_max, *([chosen] if wanted.category else [])]
        hits = (
            "SELECT no, count(*) AS hits, max(score) AS best, min(score) AS worst "
            f"FROM instances WHERE score BETWEEN ?::FLOAT AND ?::FLOAT {some} GROUP BY no"
        )
        source = (
            "SELECT i.* EXCLUDE (best, worst), coalesce(h.hits, 0) AS hits, h.best, h.worst "
            f"FROM images i LEFT JOIN ({hits}) h USING (no)"
        )
    else:
        source = "SELECT *, instances AS hits FROM images"
    least = wanted.count_min
    if least is None and wanted.narrowed and wanted.count_max != 0:
        least = 1
    tests = ["true"]
    for test, value in (
        ("status IN (SELECT unnest(?::VARCHAR[]))", list(wanted.status) or None),
        ("hits >= ?", least),
        ("hits <= ?", wanted.count_max),
        ("contains(lower(concat_ws(chr(10), image_id, error)), lower(?))", wanted.text or None),
    ):
        if value is not None:
            tests.append(test)
            values.append(value)
    return f"SELECT * FROM ({source}) WHERE {' AND '.join(tests)}", values
