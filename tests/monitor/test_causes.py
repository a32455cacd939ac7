"""What may explain a loss, ranked by how much the model depends on it, and what the loss has cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from undrift.data.contract import Contract, Field
from undrift.data.features import Feature, FeatureView, Transform
from undrift.develop.bundle import Interface
from undrift.finding import Finding, Verdict, Window
from undrift.monitor.causes import explain, lost, ranked
from undrift.monitor.monitors import Monitor, found

NOW = datetime(2013, 7, 14, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(days=14), NOW)
DRIFT = Monitor(name="inputs", kind="drift")
QUALITY = Monitor(name="quality", kind="performance")
INTERFACE = Interface(
    model="flights",
    task="binary",
    contract=Contract(name="flights", fields=(Field(name="origin", type="string"), Field(name="at", type="timestamp"))),
    label="late",
    views=(
        FeatureView(
            name="now", source="weather", entity="origin", features=(Feature(name="temp"), Feature(name="dewp"))
        ),
    ),
    transforms=(Transform(name="calendar", function="f:of", inputs=("at",), outputs=(Feature(name="hour"),)),),
    classes=("0", "1"),
)


def drifted(column: str, moved: float, verdict: Verdict = Verdict.FAIL) -> Finding:
    return found(DRIFT, verdict, "", name="drift", value=moved, n=900, window=WINDOW, column=column)


def decayed(n: int = 1000, segment: dict[str, str] | None = None, **more: Any) -> Finding:
    return found(
        QUALITY,
        Verdict.FAIL,
        "log_loss is 0.5",
        name="log_loss",
        value=0.5,
        n=n,
        window=WINDOW,
        segment=segment,
        **more,
    )


def test_a_column_weighs_by_importance_times_the_share_of_rows_that_moved() -> None:
    others = [drifted("hour", 0.3), drifted("temp", 0.9)]
    causes = ranked(decayed(), others, importance={"hour": 0.2, "temp": 0.02})
    assert [c.text for c in causes] == ["hour drifted", "temp drifted"]
    assert [c.weight for c in causes] == pytest.approx([0.8 * 1.0 * 0.3, 0.8 * 0.1 * 0.9])


def test_without_importance_the_larger_move_comes_first() -> None:
    assert [c.text for c in ranked(decayed(), [drifted("hour", 0.3), drifted("temp", 0.9)])] == [
        "temp drifted",
        "hour drifted",
    ]


def test_columns_of_one_source_are_one_cause_with_the_place_to_look() -> None:
    others = [drifted("dewp", 0.5), drifted("temp", 0.9), drifted("hour", 0.4), drifted("origin", 0.2)]
    texts = [c.text for c in ranked(decayed(), others, interface=INTERFACE)]
    assert texts == [
        "temp, dewp drifted (view now of source weather)",
        "hour drifted (transform calendar)",
        "origin drifted",
    ]


def test_what_did_not_drift_explains_nothing() -> None:
    assert ranked(decayed(), [drifted("temp", 0.1, Verdict.PASS)]) == ()


def test_a_segment_says_where_with_its_share_and_explains_the_whole_only() -> None:
    worst = decayed(n=250, segment={"carrier": "UA"})
    assert [c.text for c in ranked(decayed(), [worst])] == ["worst for carrier=UA (25% of the rows)"]
    assert ranked(worst, [worst]) == ()


def test_a_change_counts_if_it_came_in_the_window_or_just_before() -> None:
    changes = [
        (NOW - timedelta(days=2), "version 3 since 2013-07-12"),
        (WINDOW.start - timedelta(hours=20), "declared 2013-06-29"),
        (WINDOW.start - timedelta(days=9), "version 2 since 2013-06-21"),
    ]
    assert [c.text for c in ranked(decayed(), [], (), changes)] == ["declared 2013-06-29", "version 3 since 2013-07-12"]


def test_a_fault_comes_before_all_else() -> None:
    incidents = [{"kind": "feed", "title": "weather: Fahrenheit to Celsius"}, {"kind": "drift", "title": "x"}]
    assert ranked(decayed(), [drifted("temp", 1.0)], incidents)[0].text == "weather: Fahrenheit to Celsius"


def test_what_was_lost_is_told_in_the_metric_in_errors_and_in_money() -> None:
    bad = decayed(expected=0.4)
    plain = lost(bad)
    assert plain is not None
    assert (plain.total, plain.errors) == (pytest.approx(100.0), None)
    told = lost(bad, (0.25, 0.2), 40.0)
    assert told is not None
    assert (told.errors, told.money) == (pytest.approx(50.0), pytest.approx(2000.0))
    assert str(told) == "about 50 errors more than expected in 1000 rows, 2,000 in money"
    free = lost(bad, (0.25, 0.2))
    assert free is not None
    assert free.money is None
    assert lost(decayed()) is None, "nothing is known of what was expected"


def test_the_finding_says_its_cost_and_where_to_look() -> None:
    bad = decayed(expected=0.4)
    said = explain(bad, ranked(bad, [drifted("temp", 0.9)]), lost(bad, (0.25, 0.2), 40.0))
    assert said.why == (
        "log_loss is 0.5; about 50 errors more than expected in 1000 rows, 2,000 in money; look first at: temp drifted"
    )
    assert said.measurement.detail["lost"]["money"] == pytest.approx(2000.0)
    assert said.measurement.detail["causes"] == [["temp drifted", 0.72]]
    assert explain(bad, ()) is bad


def test_what_a_ranking_has_lost_is_told_in_errors_alone() -> None:
    seen = decayed(expected=0.8).measurement
    bad = msgspec.structs.replace(decayed(), measurement=msgspec.structs.replace(seen, name="roc_auc", value=0.7))
    assert lost(bad) is None, "an area is no sum over rows"
    told = lost(bad, (0.25, 0.2), 40.0)
    assert told is not None
    assert (told.metric, told.total, told.errors) == ("error", pytest.approx(50.0), pytest.approx(50.0))
    assert str(told) == "about 50 errors more than expected in 1000 rows, 2,000 in money"
