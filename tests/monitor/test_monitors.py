"""When a monitor judges, and at what error rate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from undrift.errors import DeclarationError
from undrift.monitor.monitors import Monitor

DAY = timedelta(days=1)
MIDNIGHT = datetime(2013, 4, 2, tzinfo=UTC)


@pytest.mark.parametrize("kind", ["drift", "performance", "slices", "estimate", "change", "multivariate"])
def test_what_compares_days_is_judged_once_a_day_however_short_ticks_are(kind: str) -> None:
    monitor = Monitor(name="m", kind=kind)  # type: ignore[arg-type]
    tick = timedelta(minutes=5)
    ends = [MIDNIGHT - DAY + i * tick for i in range(1, 2 * 288 + 1)]
    assert [end for end in ends if monitor.due(end, tick)] == [MIDNIGHT, MIDNIGHT + DAY]
    assert monitor.every(tick) == DAY
    assert all(monitor.due(MIDNIGHT + i * DAY, DAY) for i in range(5))


def test_ticks_that_do_not_meet_midnight_judge_at_the_first_one_after_it() -> None:
    monitor, tick = Monitor(name="m", kind="drift"), timedelta(hours=7)
    ends = [datetime(1970, 1, 1, tzinfo=UTC) + i * tick for i in range(60_000, 60_048)]
    due = [end for end in ends if monitor.due(end, tick)]
    assert len(due) == len({end.date() for end in ends}) - 1 or len(due) == len({end.date() for end in ends})
    assert all((end - tick).date() < end.date() for end in due)


def test_other_kinds_judge_at_each_tick_and_longer_ticks_are_judged_all() -> None:
    assert Monitor(name="m", kind="silent").due(MIDNIGHT + timedelta(minutes=5), timedelta(minutes=5))
    week = timedelta(days=7)
    assert Monitor(name="m", kind="drift").every(week) == week


@pytest.mark.parametrize("kind", ["change", "estimate", "slices"])
def test_kinds_that_judge_losses_of_rows_refuse_a_ranking(kind: Any) -> None:
    with pytest.raises(DeclarationError, match="judges losses of rows"):
        Monitor(name="m", kind=kind, metric="roc_auc")


@pytest.mark.parametrize("kind", ["multivariate", "integrity", "silent", "slices"])
def test_persistence_is_refused_where_the_last_window_is_judged_alone(kind: Any) -> None:
    with pytest.raises(DeclarationError, match="judges its last window alone"):
        Monitor(name="m", kind=kind, persistence=(2, 3))
    assert Monitor(name="m", kind="silent", season="day", window="1h", persistence=(2, 3)).lasting.k == 2


def test_a_ranking_pays_for_looking_at_its_latest_day() -> None:
    loss, ranking = (Monitor(name="m", kind="performance", metric=m, persistence=(1, 1)) for m in ("", "roc_auc"))
    assert ranking.alpha(1) < loss.alpha(1)
