"""What answering takes is counted where it belongs, and what all share is divided by what each answered."""

from __future__ import annotations

import pytest

from undrift.inference.usage import BATCH_ROWS, SECONDS, Ledger, Usage


def test_a_time_or_size_counts_in_the_first_bucket_that_holds_it() -> None:
    usage = Usage()
    for seconds in (0.0, SECONDS[0], 0.0006, 100.0):
        usage.finish(seconds)
    assert (usage.total[0], usage.total[1], usage.total[-1], sum(usage.total)) == (2, 1, 1, 4)
    assert usage.total_seconds == pytest.approx(100.0011)
    for rows in (1, 2, 3, 5000):
        usage.batch(rows)
    assert [usage.batches[BATCH_ROWS.index(n)] for n in (1, 2, 4)] == [1, 1, 1]
    assert (usage.batches[-1], usage.batch_rows) == (1, 5006)


def test_shared_cpu_is_divided_by_the_rows_answered_since_the_last_time() -> None:
    ledger = Ledger()
    old, new = ledger["m", 1, "champion"], ledger["m", 2, "candidate"]
    old.rows, new.rows = 90, 10
    ledger.settle(2.0)
    assert (old.cpu, new.cpu) == (pytest.approx(1.8), pytest.approx(0.2))
    new.rows += 10
    ledger.settle(1.0)
    assert (old.cpu, new.cpu) == (pytest.approx(1.8), pytest.approx(1.2))
    ledger.settle(5.0)
    assert old.cpu + new.cpu == pytest.approx(3.0), "nobody pays for a time in which nothing was answered"
    new.model_cpu += 4.0
    assert new.cpu == pytest.approx(5.2)


def test_one_key_is_one_usage() -> None:
    ledger = Ledger()
    ledger["m", 1, "champion"].fail("deadline", 2)
    ledger["m", 1, "champion"].fail("deadline", 1)
    assert ledger["m", 1, "champion"].failures == {"deadline": 3}
    assert len(ledger) == 1
