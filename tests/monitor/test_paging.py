"""Who may page: the word of a backtest, by its budget, or of a person; and a changed monitor earns it anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest

from undrift.event import GENESIS, seal
from undrift.finding import Verdict, Window
from undrift.monitor.monitors import Monitor
from undrift.monitor.paging import PAGING_REDUCERS, backtested, declared_hash, judge_budget, may_page, said

NOW = datetime(2013, 7, 1, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(days=60), NOW)
MONITOR = Monitor(name="feeds", kind="feed", budget=1.0)


def records(*drafts: Any) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for seq, draft in enumerate(drafts, 1):
        event = seal(draft, seq, GENESIS, NOW)
        for reducer in PAGING_REDUCERS:
            for key in reducer.keys(event):
                state[key] = reducer.apply(state.get(key), event, key)
    return state


def share_refused(counts: Any) -> float:
    verdicts = {int(n): judge_budget(MONITOR, int(n), 90, WINDOW).verdict for n in np.unique(counts)}
    return float(np.mean([verdicts[int(n)] is Verdict.FAIL for n in counts]))


@pytest.mark.parametrize(
    ("alarms", "days", "verdict"),
    [
        (0, 60, Verdict.PASS),
        (2, 60, Verdict.PASS),  # what the budget allows
        (5, 60, Verdict.PASS),  # P(5 or more | 2) = 5.3 %: chance
        (6, 60, Verdict.FAIL),  # P(6 or more | 2) = 1.7 %
        (0, 20, Verdict.INCONCLUSIVE),
        (4, 20, Verdict.FAIL),  # P(4 or more | 0.67) = 0.5 %: bad enough to be said of 20 days
        (0, 0, Verdict.INCONCLUSIVE),
    ],
)
def test_a_budget_is_broken_only_by_more_than_chance(alarms: int, days: float, verdict: Verdict) -> None:
    assert judge_budget(MONITOR, alarms, days, WINDOW).verdict is verdict


def test_a_monitor_that_keeps_its_budget_is_refused_in_one_of_twenty_backtests_at_most() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(MONITOR.budget * 90 / 30, 2000)
    assert share_refused(counts) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 2000)


def test_a_monitor_with_three_times_its_budget_is_mostly_caught_in_ninety_days() -> None:
    rng = np.random.default_rng(2)
    counts = rng.poisson(3 * MONITOR.budget * 90 / 30, 2000)
    assert share_refused(counts) > 0.75  # refused from 7 on; P(7 or more | 9) = 0.79


def test_the_interval_of_the_rate_is_the_exact_one_of_garwood() -> None:
    # Garwood 1936, table of limits for the expectation of a Poisson variable: 3 seen, 0.62 to 8.77
    interval = judge_budget(MONITOR, 3, 30, WINDOW).measurement.interval
    assert interval is not None
    assert (round(interval.lower, 2), round(interval.upper, 2)) == (0.62, 8.77)


def test_without_a_backtest_a_monitor_does_not_page_and_says_how_it_could() -> None:
    found = may_page("flights", MONITOR, {})
    assert not found.may
    assert "undrift watch --backtest" in found.why


def test_a_backtest_within_budget_lets_a_monitor_page_and_another_takes_it_away() -> None:
    good, bad = (judge_budget(MONITOR, n, 60, WINDOW) for n in (0, 9))
    first = backtested("flights", MONITOR, good, NOW, actor="person:ann")
    assert may_page("flights", MONITOR, records(first)).may
    second = backtested("flights", MONITOR, bad, NOW, actor="person:ann")
    found = may_page("flights", MONITOR, records(first, second))
    assert not found.may
    assert "9 false alarms in 60 judged days" in found.why


def test_a_person_may_overrule_either_way() -> None:
    bad = backtested("flights", MONITOR, judge_budget(MONITOR, 9, 60, WINDOW), NOW, actor="person:ann")
    word = said("flights", MONITOR, True, NOW, actor="person:ben", why="noisy but needed")
    found = may_page("flights", MONITOR, records(bad, word))
    assert (found.may, found.why) == (True, "person:ben: noisy but needed")
    no = said("flights", MONITOR, False, NOW, actor="person:ann", why="too noisy")
    assert not may_page("flights", MONITOR, records(word, no)).may


def test_a_backtest_that_cannot_tell_takes_no_word_back() -> None:
    word = said("flights", MONITOR, True, NOW, actor="person:ben", why="new system")
    unsure = backtested("flights", MONITOR, judge_budget(MONITOR, 0, 3, WINDOW), NOW, actor="person:ben")
    assert may_page("flights", MONITOR, records(word, unsure)).may
    assert not may_page("flights", MONITOR, records(unsure)).may
    changed = msgspec.structs.replace(MONITOR, window="2d")
    other = backtested("flights", changed, judge_budget(changed, 0, 3, WINDOW), NOW, actor="person:ben")
    assert not may_page("flights", changed, records(word, other)).may


def test_the_permission_is_tied_to_what_decides_an_alarm_and_not_to_whom_it_tells() -> None:
    told = msgspec.structs.replace(MONITOR, owner="ann", runbook="wiki", severity="low", actions=())
    assert declared_hash(told) == declared_hash(MONITOR)
    for changed in ({"practical": 0.1}, {"window": "2d"}, {"budget": 9.0}, {"columns": ("temp",)}):
        assert declared_hash(msgspec.structs.replace(MONITOR, **changed)) != declared_hash(MONITOR)
