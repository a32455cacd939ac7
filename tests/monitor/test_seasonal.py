"""What follows a rhythm is compared with the same hours before: the rhythm is no alarm, what breaks it is, and windows
that were wrong are no custom.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from undrift.data.column import ColumnProfile
from undrift.data.profile import Profile
from undrift.errors import DeclarationError
from undrift.finding import Finding, Verdict, Window
from undrift.ids import to_micros
from undrift.monitor.cells import Reference, Slots
from undrift.monitor.drift import judge_drift
from undrift.monitor.monitors import Monitor
from undrift.monitor.seasonal import comparable_windows, judge_seasonal, seasonal_traffic, usual_of
from undrift.monitor.windows import WindowProfile, asked_for

START = datetime(2013, 4, 1, tzinfo=UTC)  # a Monday
DAY = timedelta(days=1)
EDGES = tuple(np.linspace(-2.0, 2.0, 9).tolist())
WEEKLY = Monitor(name="hours", kind="drift", season="week", practical=0.05, persistence=(1, 1))
HISTORY = 70


def world(days: int, seed: int, *, moved: tuple[int, float] = (10**6, 0.0), columns: int = 5) -> dict[str, Slots]:
    """Days of 400 rows: Sundays lie two standard deviations higher, and days follow each other (AR(1), 0.6)."""
    rng = np.random.default_rng(seed)
    at = np.array([to_micros(START + d * DAY) for d in range(days)], dtype=np.int64)
    found = {}
    for number in range(columns):
        weather, cells = 0.0, []
        for d in range(days):
            weather = 0.6 * weather + rng.normal(0, 0.08)
            centre = weather + (2.0 if d % 7 == 6 else 0.0) + (moved[1] if number == 0 and d >= moved[0] else 0.0)
            cells.append(np.bincount(np.searchsorted(EDGES, rng.normal(centre, 1, 400), side="right"), minlength=10))
        found[f"x{number}"] = Slots(at, np.array(cells, dtype=np.float64))
    return found


def known(series: dict[str, Slots]) -> dict[str, Reference]:
    counts = {name: slots.cells[:HISTORY].sum(axis=0) for name, slots in series.items()}
    return {name: Reference(edges=EDGES, counts=tuple(found.tolist())) for name, found in counts.items()}


def judged(series: dict[str, Slots], day: int, monitor: Monitor = WEEKLY, **how: Any) -> dict[str, Finding]:
    found = judge_seasonal(monitor, series, known(series), START + day * DAY, tick=DAY, **how)
    return {str(each.measurement.detail["column"]): each for each in found}


def test_a_rhythm_is_no_alarm_and_the_stated_budget_holds() -> None:
    """40 months of streams of five columns; two of seven such days would be beyond training."""
    alarms, sundays = 0, 0
    for seed in range(20):
        series = world(HISTORY + 30, seed)
        for day in range(HISTORY + 1, HISTORY + 31):
            found = judged(series, day)
            assert all(each.verdict is not Verdict.INCONCLUSIVE for each in found.values())
            alarms += any(each.verdict is Verdict.FAIL for each in found.values())
            if day % 7 == 0:  # the Sunday before has just ended
                last = np.cumsum(series["x0"].cells[day - 1]) / 400
                usual = np.cumsum(known(series)["x0"].counts) / (HISTORY * 400)
                sundays += bool(np.abs(last - usual).max() > 0.4)
    assert alarms <= 20, "one in 30 days is the budget of each of twenty streams"
    assert sundays >= 80, "or the rhythm would be too weak to matter"


def test_a_change_that_is_small_beside_the_rhythm_is_found_and_told_in_words() -> None:
    found_in = 0
    for seed in range(20):
        series = world(HISTORY + 3, seed, moved=(HISTORY, 0.9))
        found = judged(series, HISTORY + 1)["x0"]
        found_in += found.verdict is Verdict.FAIL
        if found.verdict is Verdict.FAIL:
            assert "comparable windows (the same hours of a week before" in found.why
            assert 'since="2013-06-11"' in found.why, "what to do if it is to stay so"
            assert found.measurement.detail["cause"] == "x0 is unlike the same hours of a week before"
            assert found.measurement.interval.lower > WEEKLY.size  # type: ignore[union-attr]
    assert found_in >= 18


def test_the_plain_comparison_with_training_does_not_see_it_for_its_own_rhythm() -> None:
    series = world(HISTORY + 1, 3, moved=(HISTORY, 0.9))
    plain = Monitor(name="plain", kind="drift", history="60d", persistence=(1, 1))
    empty = pa.table({"score": pa.array([], pa.float64())})
    (found, *_) = judge_drift(plain, empty, known(series), START + (HISTORY + 1) * DAY, history=series)
    assert found.verdict is Verdict.PASS, "one day in seven does not move the week by a fifth"
    assert judged(series, HISTORY + 1)["x0"].verdict is Verdict.FAIL


def test_too_few_comparable_windows_are_said_and_never_pass() -> None:
    series = world(25, 0)
    found = judged(series, 18)
    assert {each.verdict for each in found.values()} == {Verdict.INCONCLUSIVE}
    assert "2 comparable windows" in found["x0"].why
    nothing = judge_seasonal(WEEKLY, {}, {}, START, tick=DAY)
    assert [each.verdict for each in nothing] == [Verdict.INCONCLUSIVE]
    assert "no profile" in nothing[0].why


def test_windows_that_were_wrong_or_alarmed_are_no_custom() -> None:
    """The same weekday is off in three of the last weeks: counted in, they hide the fault; left out, it is found."""
    series = world(HISTORY + 1, 5)
    cells = series["x0"].cells.copy()
    bad = [HISTORY - 7 * k for k in (0, 1, 2, 3)]
    for day in bad:
        cells[day] = np.roll(cells[day], 2)
    series["x0"] = Slots(series["x0"].at, cells)
    windows = tuple(Window(START + day * DAY, START + (day + 1) * DAY) for day in bad[1:])
    assert judged(series, HISTORY + 1)["x0"].verdict is Verdict.PASS
    for how in ("alarmed", "spoiled"):
        found = judged(series, HISTORY + 1, **{how: windows})["x0"]
        assert found.verdict is Verdict.FAIL, (how, found.why)
    told = comparable_windows(WEEKLY, Window(START + HISTORY * DAY, START + (HISTORY + 1) * DAY))
    assert usual_of(WEEKLY, told, np.ones(len(told), dtype=bool)).comparable == [7 * k for k in range(1, 9)]


def test_since_begins_a_new_normal_where_an_alarm_would_last_for_ever() -> None:
    series = world(HISTORY + 60, 7, moved=(HISTORY, 1.5))
    told = (Window(START + HISTORY * DAY, START + (HISTORY + 30) * DAY),)
    assert judged(series, HISTORY + 30, alarmed=told)["x0"].verdict is Verdict.FAIL
    since = f"{START + HISTORY * DAY:%Y-%m-%d}"
    monitor = Monitor(name="h", kind="drift", season="week", practical=0.05, persistence=(1, 1), since=since)
    assert judged(series, HISTORY + 15, monitor)["x0"].verdict is Verdict.INCONCLUSIVE, "two weeks of it are too few"
    assert judged(series, HISTORY + 50, monitor)["x0"].verdict is Verdict.PASS


def test_the_same_hour_is_that_of_the_zone_also_when_clocks_were_changed() -> None:
    paris = Monitor(name="h", kind="drift", season="week", window="1h", timezone="Europe/Paris")
    now = datetime(2024, 4, 1, 7, tzinfo=UTC)  # 9:00 in Paris, the day after clocks went forward
    found = comparable_windows(paris, Window(now - timedelta(hours=1), now))
    assert found[0].end == now
    assert found[1] == Window(datetime(2024, 3, 31, 6, tzinfo=UTC), datetime(2024, 3, 31, 7, tzinfo=UTC))
    assert found[7] == Window(datetime(2024, 3, 25, 7, tzinfo=UTC), datetime(2024, 3, 25, 8, tzinfo=UTC)), (
        "8:00 in winter"
    )
    plain = Monitor(name="h", kind="drift", season="week", window="1h")
    assert comparable_windows(plain, found[0])[7].end == now - 7 * DAY
    gone = Window(datetime(2024, 4, 1, 0, 30, tzinfo=UTC), datetime(2024, 4, 1, 1, tzinfo=UTC))
    assert comparable_windows(paris, gone)[1].start == datetime(2024, 3, 31, 1, 30, tzinfo=UTC), "2:30 was skipped"
    daily = Monitor(name="h", kind="drift", season="week", timezone="Europe/Paris")
    whole = Window(now - DAY, now)
    assert comparable_windows(daily, whole)[7] == Window(now - 8 * DAY, now - 7 * DAY)


def kept(rows: list[int]) -> list[WindowProfile]:
    return [
        WindowProfile(
            start=START + d * DAY, end=START + (d + 1) * DAY, version=1, variant="champion",
            profile=Profile(n=n, columns={"x": ColumnProfile(kind="number", n=n)}),
        )
        for d, n in enumerate(rows) if n
    ]  # fmt: skip


TRAFFIC = Monitor(name="answers", kind="silent", season="week")


def traffic(rows: list[int], n: int, **how: Any) -> Finding | None:
    day = len(rows)
    window = Window(START + day * DAY, START + (day + 1) * DAY)
    return seasonal_traffic(TRAFFIC, kept(rows), n, window, tick=DAY, **how)


def usual_traffic(days: int, seed: int = 0) -> list[int]:
    """A thousand a day and fifty on Sundays, give or take a tenth."""
    rng = np.random.default_rng(seed)
    return [int((50 if d % 7 == 6 else 1000) * np.exp(rng.normal(0, 0.1))) for d in range(days)]


def test_a_quiet_sunday_is_no_stop_of_traffic_and_a_quiet_monday_is() -> None:
    assert traffic(usual_traffic(69), 50) is None, "day 69 is a Sunday"
    stopped = traffic(usual_traffic(70), 50)
    assert stopped is not None
    assert stopped.verdict is Verdict.FAIL
    assert "look whether the callers are up" in stopped.why
    assert traffic(usual_traffic(70), 950) is None
    nothing = traffic(usual_traffic(70), 0)
    assert nothing is not None
    assert nothing.measurement.detail["cause"] == "no requests arrived"


def test_traffic_alarms_no_more_often_than_is_stated() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    monitor = Monitor(name="answers", kind="silent", season="week", practical=0.0)
    for seed in range(300):
        rows = usual_traffic(70, seed)
        window = Window(START + 70 * DAY, START + 71 * DAY)
        n = int(1000 * np.exp(rng.normal(0, 0.1)))
        alarms += seasonal_traffic(monitor, kept(rows), n, window, tick=DAY) is not None
    assert 1 <= alarms <= 10, "300 days at one in 30 are 10; with no practical size some alarm by chance"


def test_traffic_with_too_little_kept_is_not_judged_and_days_of_a_fault_are_no_custom() -> None:
    few = traffic(usual_traffic(15), 1000)
    assert few is not None
    assert few.verdict is Verdict.INCONCLUSIVE
    rows = usual_traffic(70)
    for day in (63, 56, 49, 42, 35):
        rows[day] = 40
    hidden = tuple(Window(START + d * DAY, START + (d + 1) * DAY) for d in (63, 56, 49, 42, 35))
    told = traffic(rows, 40, spoiled=hidden)
    assert told is not None
    assert told.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "drift", "season": "year"}, "season is 'day' or 'week'"),
        ({"kind": "performance", "season": "week"}, "of kinds drift and silent"),
        ({"kind": "drift", "season": "week", "window": "7d"}, "at most a day"),
        ({"kind": "drift", "season": "week", "comparable": 2}, "comparable lies between"),
        ({"kind": "drift", "season": "week", "history": "60d"}, "leave them out"),
        ({"kind": "drift", "season": "week", "distance": "psi"}, "leave them out"),
        ({"kind": "drift", "season": "week", "window": "1h", "timezone": "Europe/Nowhere"}, "Europe/Nowhere"),
        ({"kind": "drift", "season": "week", "window": "6h", "timezone": "Europe/Paris"}, "at most an hour, or a day"),
        ({"kind": "drift", "season": "week", "since": "soon"}, "soon"),
        ({"kind": "drift", "timezone": "Europe/Paris"}, "say season too"),
    ],
)
def test_a_season_that_cannot_be_judged_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DeclarationError, match=words):
        Monitor(name="m", **options)


def test_profiles_are_asked_for_by_the_window_and_it_is_judged_once_in_each() -> None:
    hourly = Monitor(name="h", kind="drift", season="week", window="1h")
    tick = timedelta(minutes=5)
    wanted = asked_for([hourly], tick)
    assert wanted is not None
    assert (wanted.span, wanted.reach) == (timedelta(hours=1), timedelta(0))
    assert [hourly.due(START + k * tick, tick) for k in (0, 1, 11, 12)] == [True, False, False, True]
    assert hourly.alpha(3, 720) == Monitor(name="h", kind="silent").alpha(3, 720), "hours that are alike buy no level"
