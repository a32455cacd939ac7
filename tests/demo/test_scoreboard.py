"""The scoreboard on a stream whose every figure follows by hand: 40 flights a day, two kinds of sky, two worlds."""

from __future__ import annotations

import math
from datetime import datetime
from functools import cache
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from undrift.data.profile import Profile
from undrift.demo.scoreboard import Row, Scoreboard, build_scoreboard
from undrift.demo.story import Fault, full_story
from undrift.demo.truth import Known, auc
from undrift.develop.packing import Reference
from undrift.develop.rows import Answers

from year import DAY, Log, on  # isort: skip

START, END = on(4, 1), on(8, 1)
MOVED = on(6, 1)
"""From here on flights are late more often than the first model learnt."""
UPDATED = on(6, 15)
OLD, NEW = (0.2, 0.6), (0.5, 0.9)
"""P(late | clear), P(late | rain) before and after the world moved: what versions 1 and 2 answer."""
STORY = msgspec.structs.replace(
    full_story(),
    start=START,
    end=END,
    release=on(4, 10),
    carrier="UA",
    celsius=Fault(
        name="celsius",
        title="units change",
        kind="feed",
        start=on(5, 6),
        end=on(5, 13),
        names=("to Celsius",),
        source="weather",
    ),
    constant=Fault(
        name="constant", title="a constant", kind="silent", start=on(5, 20), end=on(5, 22), names=("constant",)
    ),
)


class Answering:
    """A version that answers the two probabilities it learnt; its expected loss is theirs in their own world."""

    def __init__(self, learnt: tuple[float, float], *inputs: str) -> None:
        self.learnt = learnt
        self.manifest: Any = SimpleNamespace(
            interface=SimpleNamespace(inputs=[SimpleNamespace(name=name) for name in inputs]),
            trained={"performance": {"losses": {"log_loss": {"value": loss(learnt, learnt)}}}},
        )

    def predict(self, columns: Any) -> Answers:
        return Answers([self.learnt[int(rain)] for rain in columns["rain"]], None, None)


def loss(said: tuple[float, float], true: tuple[float, float]) -> float:
    """Mean log loss of probabilities said under true ones, half of the flights under each sky."""
    return sum(-(t * math.log(s) + (1 - t) * math.log(1 - s)) for s, t in zip(said, true, strict=True)) / 2


def versions() -> dict[int, Known]:
    learnt = pa.table({"rain": [0.0, 1.0] * 100, "temp": np.linspace(30, 50, 200)})
    reference = Reference(inputs=Profile.of(learnt), outcomes=Profile.of(pa.table({"score": [0.2, 0.6] * 100})))
    return {
        1: Known(Answering(OLD, "rain"), reference),
        2: Known(Answering(NEW, "rain"), reference),
        3: Known(Answering(OLD, "rain", "mean_delay"), reference),
    }


@cache
def rows(labelled: bool = True) -> pa.Table:
    """20 flights under each sky a day, of which exactly the true share is late; temperatures 20 higher from July on."""
    columns: dict[str, list[Any]] = {name: [] for name in ("event_time", "score", "version", "label", "rain", "temp")}
    days = (END - START).days
    for day in range(days):
        at = START + day * DAY
        true = OLD if at < MOVED else NEW
        version, said = (1, OLD) if at < UPDATED else (2, NEW)
        constant = STORY.constant.start <= at < STORY.constant.end
        for rain in (0, 1):
            for place in range(20):
                columns["event_time"].append(at + (rain * 20 + place) * DAY / 40)
                columns["score"].append(STORY.constant_score if constant else said[rain])
                columns["version"].append(version)
                columns["label"].append(str(int(place < round(20 * true[rain]))) if labelled else None)
                columns["rain"].append(float(rain))
                warm = 20.0 if at >= on(7, 1) or on(4, 10) <= at < on(4, 14) else 0.0
                missing = at == on(6, 28)
                columns["temp"].append(None if missing else 30 + warm + (rain * 20 + place) / 2)
    n = len(columns["score"])
    known = [pa.array(columns[name], pa.float64()) for name in ("rain", "temp")]
    return pa.table(
        {
            "event_time": pa.array(columns["event_time"], pa.timestamp("us", "UTC")),
            "score": columns["score"],
            "version": columns["version"],
            "label": pa.array(columns["label"], pa.string()),
            "error": pa.nulls(n, pa.string()),
            "inputs": pa.StructArray.from_arrays(known[:1], ["rain"]),
            "features": pa.StructArray.from_arrays(known[1:], ["temp"]),
        }
    )


def updated(log: Log) -> None:
    spans = [(5.0, UPDATED - 4 * DAY), (100.0, UPDATED)]
    log.rollout(
        "won", 2, 1, spans, started=UPDATED - 6 * DAY, status="succeeded", why="every guardrail held", exposed=8
    )


def begun(wall: datetime | None = None) -> Log:
    log = Log(wall) if wall else Log()
    log.first_champion()
    return log


def board(log: Log, table: pa.Table | None = None, **how: Any) -> Scoreboard:
    given = {"release": "", "spoiled": None, "budget": 2.0, **how}
    return build_scoreboard(STORY, log.events, rows() if table is None else table, versions(), **given)


def row(found: Scoreboard, truth: str) -> Row:
    (one,) = [line for line in found.rows if truth in line.truth]
    return one


# -- quality ----------------------------------------------------------------------------------------------


def test_quality_by_month_is_what_follows_from_the_shares_of_late_flights() -> None:
    log = begun()
    updated(log)
    found = board(log)
    months = {month.name: month for month in found.months}
    assert list(months) == ["2013-04", "2013-05", "2013-06", "2013-07"]
    april, july = months["2013-04"], months["2013-07"]
    assert (april.n, april.late, april.champion) == (1200, pytest.approx(0.4), 1)
    assert april.served == pytest.approx(loss(OLD, OLD))
    assert april.never == april.served
    assert (july.late, july.champion) == (pytest.approx(0.7), 2)
    assert july.served == pytest.approx(loss(NEW, NEW))
    assert july.never == pytest.approx(loss(OLD, NEW))
    june = 14 / 30 * loss(OLD, NEW) + 16 / 30 * loss(NEW, NEW)
    assert months["2013-06"].served == pytest.approx(june)
    assert found.final_served == july.served
    assert found.gain.value == pytest.approx(found.never - found.served)
    assert (found.gain.since, found.gain.n) == ("2013-04-01", 122 * 40)
    # 75 days without a gain, then 47 that are alike: the spread of days around their mean of all 122
    each = loss(OLD, NEW) - loss(NEW, NEW)
    mean = each * 47 / 122
    half = 1.96 * math.sqrt((75 * mean**2 + 47 * (each - mean) ** 2) / 121 / 122)
    assert (found.gain.lower, found.gain.upper) == (pytest.approx(mean - half), pytest.approx(mean + half))
    last = found.final_gain
    assert (last.since, last.n) == (f"{UPDATED:%Y-%m-%d}", 47 * 40)
    assert 0 < last.lower <= last.value <= last.upper
    assert found.predictions == 122 * 40


def test_a_server_that_answers_a_constant_would_have_spoilt_the_first_model_too() -> None:
    may = board(begun()).months[1]
    right, constant = loss(OLD, OLD), loss((0.2, 0.2), OLD)
    assert may.never == may.served == pytest.approx((29 * right + 2 * constant) / 31)


def test_the_order_of_scores_counts_ties_half() -> None:
    # pairs of a late and a punctual flight: (.8,.1) (.8,.5) (.5,.1) are in order, (.5,.5) is a tie: 3.5 of 4
    assert auc(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.5, 0.5, 0.8])) == 3.5 / 4
    assert math.isnan(auc(np.ones(3), np.ones(3)))


def test_months_without_outcomes_are_left_out_and_nothing_is_claimed_of_them() -> None:
    found = board(begun(), rows(labelled=False))
    assert found.months == ()
    assert all(math.isnan(value) for value in (found.served, found.never, found.gain.value, found.final_served))
    assert not found.good


def test_a_month_of_one_class_has_a_loss_but_no_order() -> None:
    table = rows()
    late = ["1"] * table.num_rows
    table = table.set_column(table.column_names.index("label"), "label", pa.array(late, pa.string()))
    april = board(begun(), table).months[0]
    assert math.isnan(april.served_auc)
    assert april.served == pytest.approx(-(math.log(0.2) + math.log(0.6)) / 2)


# -- planted faults ----------------------------------------------------------------------------------------------


def test_a_fault_is_caught_by_an_alert_that_says_what_it_is_and_the_flights_until_then_are_counted() -> None:
    log = begun()
    log.alert(on(5, 8), "feeds", "feed", "weather: Fahrenheit to Celsius", source="weather", evidence="jumped by 18")
    line = row(board(log), "units change")
    assert (line.verdict, line.delay, line.exposed) == ("caught", "2 d", "80")
    assert line.undrift == "alert: weather: Fahrenheit to Celsius"
    assert line.evidence == "jumped by 18"


def test_an_alert_that_does_not_name_the_cause_catches_nothing_until_an_update_names_it() -> None:
    log = begun()
    log.alert(on(5, 7), "feeds", "feed", "weather: temp jumped", source="weather")
    found = board(log)
    assert row(found, "units change").verdict == "NOT NAMED"
    assert (found.caught, found.false_alarms) == (0, 0)
    log.alert(on(5, 9), "feeds", "feed", "weather: Fahrenheit to Celsius", source="weather", what="updated")
    line = row(board(log), "units change")
    assert (line.verdict, line.delay, line.exposed) == ("caught", "3 d", "120")


@pytest.mark.parametrize(
    ("at", "source"),
    [(on(5, 6), "weather"), (on(5, 14), "weather"), (on(5, 8), "arrivals"), (on(5, 24), "weather")],
    ids=["of the day before it", "after its end", "of another feed", "long after it"],
)
def test_a_fault_is_not_caught_by_an_alert(at: datetime, source: str) -> None:
    log = begun()
    log.alert(at, "feeds", "feed", f"{source}: Fahrenheit to Celsius", source=source)
    line = row(board(log), "units change")
    assert (line.verdict, line.exposed) == ("MISSED", "280")


def test_what_goes_back_after_a_fault_is_no_false_alarm_but_the_same_alert_before_it_is() -> None:
    after, before = begun(), begun()
    after.alert(on(5, 14), "feeds", "feed", "weather: Celsius to Fahrenheit", source="weather")
    before.alert(on(5, 6), "feeds", "feed", "weather: Celsius to Fahrenheit", source="weather")
    assert board(after).false_alarms == 0
    assert board(before).false_alarms == 1


def release(log: Log, status: str, *, segment: str = "carrier=UA", verdict: str = "FAIL") -> None:
    findings = [{"verdict": verdict, "why": "brier gap is 0.09", "where": segment}]
    spans = [(5.0, on(4, 12)), (0.0 if status != "succeeded" else 100.0, on(4, 15))]
    why = f"brier gap is 0.09 for {segment}"
    log.rollout(
        "rel", 3, 1, spans, started=on(4, 10), status=status, why=why, exposed=17, findings=findings, actor="person:ben"
    )


def test_the_bad_candidate_is_caught_when_a_guardrail_rolls_it_back() -> None:
    log = begun()
    release(log, "rolled_back")
    found = board(log, release="rel", spoiled=on(4, 12))
    line = row(found, "passed the gate")
    assert (line.verdict, line.delay, line.exposed, line.at) == ("caught", "3 d", "17", "2013-04-12")
    assert line.undrift.startswith("rolled back at 5 %: brier gap is 0.09 for carrier=UA")
    assert not any(other.what == "rolled back" for other in found.rows)


@pytest.mark.parametrize(
    ("status", "verdict", "spoiled"),
    [("succeeded", "PASS", on(4, 12)), ("rolled_back", "INCONCLUSIVE", on(4, 12)), ("rolled_back", "FAIL", None)],
    ids=["it won", "it ran out of time", "it went before its feed broke"],
)
def test_the_bad_candidate_is_missed_when(status: str, verdict: str, spoiled: datetime | None) -> None:
    log = begun()
    release(log, status, verdict=verdict)
    found = board(log, release="rel", spoiled=spoiled)
    line = row(found, "passed the gate")
    assert (line.verdict, line.delay) == ("MISSED", "")
    assert found.promoted == 0


def test_a_candidate_rolled_back_for_all_flights_is_caught_but_its_carrier_was_not_named() -> None:
    log = begun()
    release(log, "rolled_back", segment="all")
    assert row(board(log, release="rel", spoiled=on(4, 12)), "passed the gate").verdict == "caught, wide"


def test_without_a_rollout_the_bad_candidate_is_missed() -> None:
    line = row(board(begun()), "passed the gate")
    assert (line.verdict, line.undrift) == ("MISSED", "the candidate did not pass the gate")


# -- other decisions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "true"), [(on(4, 20), False), (on(6, 14), True), (on(7, 20), False)])
def test_an_alert_of_decay_is_true_when_the_loss_is_above_what_the_champion_was_expected_to_have(
    at: datetime, true: bool
) -> None:
    log = begun()
    updated(log)  # on 15 June: from then on the expectation is the new champion's
    log.alert(at, "quality", "performance", "log_loss decayed")
    found = board(log)
    (line,) = [line for line in found.rows if line.what == "alert: quality"]
    assert (line.verdict, found.false_alarms) == (("true", 0) if true else ("FALSE ALARM", 1))
    if at == on(6, 14):  # 13 days of the new world, one of the old
        change = (13 * loss(OLD, NEW) + loss(OLD, OLD)) / 14 / loss(OLD, OLD) - 1
        assert f"{change:+.0%}" in line.truth


@pytest.mark.parametrize(
    ("at", "true"), [(on(4, 14), False), (on(7, 10), True)], ids=["four warm days", "a warm season"]
)
def test_an_alert_of_drift_is_true_when_the_column_stays_moved(at: datetime, true: bool) -> None:
    log = begun()
    log.alert(at, "inputs", "drift", "temp drifted", columns=["temp"])
    assert board(log).false_alarms == (0 if true else 1)


def test_an_alert_of_drift_is_false_as_soon_as_one_column_it_names_did_not_move() -> None:
    log = begun()
    log.alert(on(7, 10), "inputs", "drift", "temp, rain drifted", columns=["temp", "rain"])
    found = board(log)
    assert found.false_alarms == 1
    assert "rain 0.00" in row(found, "distance to training").truth


@pytest.mark.parametrize(("at", "true"), [(on(6, 29), True), (on(6, 28), False)])
def test_an_alert_of_missing_values_is_true_when_they_are_missing_in_the_data(at: datetime, true: bool) -> None:
    log = begun()
    log.alert(at, "feeds", "feed", "weather: temp went missing", source="weather", columns=["temp"])
    assert board(log).false_alarms == (0 if true else 1)


def test_a_rollout_is_right_when_the_winner_is_better_on_the_flights_that_follow() -> None:
    log = begun()
    updated(log)
    log.rollout(
        "back", 1, 2, [(5.0, on(6, 20)), (0.0, on(6, 22))], started=on(6, 18), status="rolled_back", why="worse"
    )
    log.rollout("odd", 1, 2, [(5.0, on(6, 24)), (100.0, on(6, 26))], started=on(6, 23), status="succeeded", why="held")
    log.rollout("new", 3, 1, [(5.0, on(7, 2)), (0.0, on(7, 4))], started=on(7, 1), status="rolled_back", why="worse")
    found = board(log)
    verdicts = {line.at: line.verdict for line in found.rows if line.what in ("rollout won", "rolled back")}
    assert verdicts == {"2013-06-15": "right", "2013-06-22": "right", "2013-06-26": "WRONG", "2013-07-04": ""}
    told = f"{loss(NEW, NEW):.4f} by version 2, {loss(OLD, NEW):.4f} by version 1"
    assert told in row(found, "by version 2, ").truth


def test_refused_retrains_and_promoted_challengers_are_counted() -> None:
    log = begun()
    updated(log)
    log.retrain(on(6, 3), "challenger refused", accepted=False)
    log.retrain(on(6, 4), "cool-down", accepted=None)
    log.retrain(on(6, 9), "challenger is version 2", accepted=True)
    found = board(log)
    assert (found.promoted, found.refused) == (1, 2)


def test_a_run_is_good_only_if_everything_promised_held() -> None:
    log = begun()
    updated(log)
    release(log, "rolled_back")
    log.alert(on(5, 8), "feeds", "feed", "weather: Fahrenheit to Celsius", source="weather")
    log.alert(on(5, 21), "answers", "silent", "constant answers of version 1")
    found = board(log, release="rel", spoiled=on(4, 12))
    assert (found.caught, found.planted, found.good) == (3, 3, True)
    for bad in ({"caught": 2}, {"false_alarms": 3}, {"final_served": found.final_never}):
        assert not msgspec.structs.replace(found, **bad).good


def test_two_runs_at_different_hours_of_the_wall_clock_print_one_table() -> None:
    tables = []
    for wall in (
        datetime.fromisoformat("2031-07-09T11:22:33+00:00"),
        datetime.fromisoformat("2033-01-02T03:04:05+00:00"),
    ):
        log = begun(wall)
        updated(log)
        release(log, "rolled_back")
        log.alert(on(6, 14), "quality", "performance", "log_loss decayed")
        tables.append(msgspec.json.encode(board(log, release="rel", spoiled=on(4, 12))))
    assert tables[0] == tables[1]
