"""What an output has of its inputs already, for a run that looks for more."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.known import COLUMNS, Known
from pipeline.ledger import Ledger
from pipeline.plan import Plan
from pipeline.retry import committed_images


def known_rows(ledger: Ledger, plans: Sequence[Plan]) -> Known:
    """The rows of the plans, and with the etags that retries read in place of those that were planned.

    Raises PlanError, LedgerError, StoreError.
    """
    known = Known.of(ledger.store, plans)
    retried = {shard: revision for shard, revision in ledger.revisions().items() if revision}
    for commit in ledger.records(retried):
        known.add(committed_images(ledger.store, commit).select(COLUMNS))
    return known
