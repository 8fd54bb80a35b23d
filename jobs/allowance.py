"""How many inputs may end badly before a job stops, and what it says then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from jobs.errors import TooManyFailed, one_line
from jobs.progress import GOOD
from jobs.report import queries
from jobs.stopping import Stop
from jobs.tally import Tally
from pipeline.commit import Commit
from pipeline.ledger import Ledger
from pipeline.nouns import many
from pipeline.retry import committed_images

EXAMPLES = 3


@dataclass(frozen=True)
class Allowance:
    """A spec's `max_failed` for so many planned inputs."""

    stated: int | str | None
    """As in the spec: a number, a share such as `1%`, or None for any number."""
    planned: int
    windows: int | None = None
    """Of a tiled job's first stage: its windows, of which the planned inputs are cut into so many."""

    def of_windows(self, windows: int) -> Allowance:
        """The same for a tiled job's windows: each counts as its share of all that are planned."""
        return replace(self, windows=windows)

    def exceeded(self, tally: Tally) -> bool:
        """Whether more inputs ended badly than may, of all that were planned, done or not."""
        most = self.most
        return most is not None and bad(tally.statuses) > most

    @property
    def most(self) -> Fraction | None:
        """How many may: inputs, or windows."""
        if self.stated is None:
            return None
        if isinstance(self.stated, str):
            inputs = Fraction(self.stated.rstrip(" %")) / 100 * self.planned
        else:
            inputs = Fraction(self.stated)
        return inputs if self.windows is None else inputs * self.windows / max(1, self.planned)

    def watch(self, tally: Tally, stop: Stop) -> None:
        """Ask a run to stop as soon as more ended badly than may: `Drive.enough`."""
        if self.exceeded(tally):
            stop.ask(TooManyFailed(f"more inputs failed than max_failed allows; {stop.remedy}"))

    def __str__(self) -> str:
        """As in the spec; of windows, how many that is."""
        if self.windows is None or self.most is None:
            return str(self.stated)
        return f"{self.stated} of the inputs, here {many(int(self.most), 'window')}"


def bad(counts: Mapping[str, int]) -> int:
    """Inputs that ended other than `ok`, `empty` or `nodata`."""
    return sum(number for status, number in counts.items() if status not in GOOD)


def too_many(ledger: Ledger, allowance: Allowance, tally: Tally, remedy: str) -> TooManyFailed:
    """The error that says how many, of which statuses, with examples, and how to look on."""
    statuses = {s: n for s, n in tally.statuses.most_common() if s not in GOOD and n}
    listed = ", ".join(f"{number:,} {status}" for status, number in statuses.items())
    number, uri = bad(tally.statuses), ledger.store.uri
    planned = many(allowance.planned, "planned input")
    if allowance.windows is not None:
        planned = many(allowance.windows, "planned window")
    lines = [
        f"{number:,} of {planned} ended badly ({listed}), and max_failed is {allowance}; {remedy}",
        *(f"  {one_line(example)}" for example in examples(ledger, statuses)),
        f"To look on: {queries(uri, statuses)[-1]}",
        "When that is as it should be, run the job again with a higher max_failed: it goes on.",
    ]
    return TooManyFailed("\n".join(lines))


def examples(ledger: Ledger, statuses: Mapping[str, int]) -> list[str]:
    """Some inputs with what happened to them: of each status first, then more of them.

    `statuses` says how many ended so; no more records are read than the examples need.
    """
    by_status: dict[str, list[str]] = {status: [] for status in statuses}
    for commit in ledger.records():
        lacking = [s for s, found in by_status.items() if len(found) < min(EXAMPLES, statuses.get(s, 0))]
        if not lacking:
            break
        if any(commit.counts.get(status) for status in lacking):
            for status, words in _bad_rows(ledger, commit):
                by_status.setdefault(status, []).append(words)
    rounds = (found[at] for at in range(EXAMPLES) for found in by_status.values() if at < len(found))
    return [words for words, _ in zip(rounds, range(EXAMPLES), strict=False)]


def _bad_rows(ledger: Ledger, commit: Commit) -> Iterator[tuple[str, str]]:
    for row in committed_images(ledger.store, commit).select(["image_id", "status", "error"]).to_pylist():
        if row["status"] not in GOOD:
            yield row["status"], f"{row['image_id']}: {row['status']}, {row['error'] or 'no reason given'}"
