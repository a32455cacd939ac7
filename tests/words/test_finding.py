"""Judging: four verdicts, the worst wins, and missing evidence never passes."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undrift.finding import Finding, Interval, Measurement, Report, Rule, Verdict, Window, judge

NUMBERS = st.floats(-1e6, 1e6)
OPS: st.SearchStrategy[Literal["<=", ">="]] = st.sampled_from(["<=", ">="])


def _seen(value: float | None, *interval: float, n: int = 100, **more: object) -> Measurement:
    return Measurement(name="loss", value=value, n=n, interval=Interval(*interval) if interval else None, **more)  # type: ignore[arg-type]


def _rule(bound: float = 0.5, **more: object) -> Rule:
    return Rule(**{"measure": "loss", "op": "<=", "bound": bound, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "seen", "verdict"),
    [
        (_rule(), _seen(0.5), Verdict.PASS),
        (_rule(), _seen(0.500001), Verdict.FAIL),
        (_rule(op=">="), _seen(0.499999), Verdict.FAIL),
        (_rule(op=">="), _seen(0.5), Verdict.PASS),
        # the interval leaves it open: bad is not proven, and neither is good
        (_rule(), _seen(0.6, 0.4, 0.8), Verdict.PASS),
        (_rule(certain=True), _seen(0.4, 0.3, 0.6), Verdict.INCONCLUSIVE),
        # the whole interval agrees
        (_rule(), _seen(0.6, 0.51, 0.7), Verdict.FAIL),
        (_rule(certain=True), _seen(0.6, 0.51, 0.7), Verdict.FAIL),
        (_rule(certain=True), _seen(0.3, 0.2, 0.5), Verdict.PASS),
        (_rule(op=">=", certain=True), _seen(0.6, 0.5, 0.7), Verdict.PASS),
        (_rule(op=">=", certain=True), _seen(0.6, 0.4, 0.7), Verdict.INCONCLUSIVE),
        # what is too small to matter is granted
        (_rule(practical=0.1), _seen(0.6), Verdict.PASS),
        (_rule(op=">=", practical=0.1), _seen(0.4), Verdict.PASS),
        (_rule(op=">=", practical=0.1), _seen(0.39), Verdict.FAIL),
        # one-sided intervals
        (_rule(certain=True), _seen(0.3, -math.inf, 0.4), Verdict.PASS),
        (_rule(), _seen(0.6, 0.51, math.inf), Verdict.FAIL),
        # missing evidence is never PASS
        (_rule(minimum_n=101), _seen(0.1), Verdict.INCONCLUSIVE),
        (_rule(minimum_n=101), _seen(9.9), Verdict.INCONCLUSIVE),
        (_rule(), _seen(None, problem="no labels"), Verdict.ERROR),
        (_rule(), _seen(math.nan), Verdict.ERROR),
        (_rule(), _seen(0.1, math.nan, 0.2), Verdict.ERROR),
        (_rule(), _seen(0.1, 0.0, math.nan), Verdict.ERROR),
        (_rule(minimum_n=101), _seen(None, n=0), Verdict.ERROR),
    ],
)
def test_verdicts(rule: Rule, seen: Measurement, verdict: Verdict) -> None:
    found = judge(rule, seen)
    assert (found.verdict, found.measurement, found.rule) == (verdict, seen, rule)


def test_the_reason_names_value_interval_number_and_wish() -> None:
    why = judge(_rule(certain=True, practical=0.01), _seen(0.4, 0.3, 0.6)).why
    assert why == "loss is 0.4 [0.3, 0.6] (n=100), wanted <= 0.5 within 0.01, but the interval leaves it open"
    assert judge(_rule(), _seen(None, problem="no labels")).why == "loss could not be measured: no labels"
    assert judge(_rule(minimum_n=500), _seen(0.1)).why == "loss is 0.1 from n=100; at least 500 are needed"


@given(OPS, NUMBERS, NUMBERS, NUMBERS, st.floats(0, 10), st.booleans())
def test_a_better_measurement_is_never_judged_worse(
    op: Literal["<=", ">="], bound: float, value: float, gain: float, width: float, certain: bool
) -> None:
    rule = _rule(bound, op=op, certain=certain)
    better = value - abs(gain) if op == "<=" else value + abs(gain)
    worse = judge(rule, _seen(value, value - width, value + width)).verdict
    assert judge(rule, _seen(better, better - width, better + width)).verdict <= worse


@given(OPS, NUMBERS, NUMBERS, st.floats(0, 10))
def test_asking_for_certainty_never_makes_a_verdict_milder(
    op: Literal["<=", ">="], bound: float, value: float, width: float
) -> None:
    seen = _seen(value, value - width, value + width)
    assert judge(_rule(bound, op=op, certain=True), seen).verdict >= judge(_rule(bound, op=op), seen).verdict


@pytest.mark.parametrize("wrong", [{"bound": math.nan}, {"practical": -0.1}, {"practical": math.nan}])
def test_a_rule_that_could_pass_anything_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="the rule for loss"):
        _rule(**wrong)


def test_the_worst_verdict_wins_and_nothing_seen_is_not_good() -> None:
    assert all(low < high for low, high in pairwise([Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.ERROR, Verdict.FAIL]))
    assert Verdict.worst([Verdict.FAIL, Verdict.PASS, Verdict.ERROR]) is Verdict.FAIL
    assert Verdict.worst([]) is Verdict.INCONCLUSIVE
    assert Report(title="gate", subject="m").verdict is Verdict.INCONCLUSIVE


def _report(*verdicts: Verdict, **facts: object) -> Report:
    findings = tuple(Finding(verdict=v, why=f"why {v.name}", measurement=_seen(0.1)) for v in verdicts)
    return Report(title="gate", subject="flights", findings=findings, facts=facts)


@given(st.lists(st.sampled_from(Verdict)), st.lists(st.sampled_from(Verdict)))
def test_a_sum_of_reports_is_as_bad_as_the_worse_one(one: list[Verdict], two: list[Verdict]) -> None:
    total = _report(*one) + _report(*two)
    assert len(list(total)) == len(one) + len(two)
    assert total.verdict == Verdict.worst([*one, *two])


def test_a_report_puts_the_worst_first() -> None:
    report = _report(Verdict.PASS, Verdict.FAIL, Verdict.ERROR, a=1) + _report(b=2)
    assert [f.verdict.name for f in report.worse_than(Verdict.PASS)] == ["FAIL", "ERROR"]
    lines = report.to_text().splitlines()
    assert lines[0] == "gate · flights · FAIL"
    assert [line.split()[0] for line in lines[1:]] == ["FAIL", "ERROR", "PASS"]
    assert report.facts == {"a": 1, "b": 2}


def test_what_came_from_outside_is_escaped_in_html() -> None:
    seen = Measurement(name="x", value=1.0, segment={"carrier": "<script>"})
    report = Report(title="<b>", subject="&", findings=(Finding(verdict=Verdict.FAIL, why="a<b", measurement=seen),))
    page = report._repr_html_()
    assert "<script>" not in page
    assert "carrier=&lt;script&gt;" in page
    assert "a&lt;b" in page
    assert "&lt;b&gt; · &amp; · FAIL" in page


def test_a_report_survives_json_even_where_json_has_no_infinity() -> None:
    seen = Measurement(
        name="loss",
        value=0.25,
        n=7,
        interval=Interval(-math.inf, 0.5, 0.9),
        window=Window(datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 4, 2, tzinfo=UTC)),
        segment={"origin": "JFK", "carrier": "UA"},
        detail={"cause": "unit"},
    )
    report = Report(title="monitor", subject="flights", findings=(judge(_rule(), seen),))
    again = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    assert again == report
    assert again.findings[0].measurement.interval == Interval(-math.inf, 0.5, 0.9)
    assert again.findings[0].measurement.where == "carrier=UA, origin=JFK"


def test_a_window_holds_its_start_and_not_its_end() -> None:
    start, end = datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 4, 2, tzinfo=UTC)
    window = Window(start, end)
    assert start in window
    assert end not in window
    assert str(window) == "2013-04-01 00:00..2013-04-02 00:00"


def test_a_difference_over_all_is_placed_in_the_smallest_segment_that_holds_most_of_it() -> None:
    def finding(value: float | None, n: int, **segment: str) -> Finding:
        seen = Measurement(name="shift", value=value, n=n, segment=segment)
        return Finding(verdict=Verdict.FAIL if not segment else Verdict.PASS, why="moved", measurement=seen)

    whole = finding(0.2, 200)
    united, newark, others = finding(0.7, 50, carrier="UA"), finding(0.3, 100, origin="EWR"), finding(0.0, 150)
    silent = finding(None, 0, carrier="AA")
    report = Report(title="rollout", subject="m", findings=(whole, united, newark, silent))
    assert report.place_of(whole) == ", 88% of it in carrier=UA"
    assert report.place_of(united) == " for carrier=UA"
    even = (whole, finding(0.2, 90, origin="EWR"), finding(0.2, 90, origin="JFK"), others)
    assert Report(title="rollout", subject="m", findings=even).place_of(whole) == ""
    assert Report(title="rollout", subject="m", findings=(finding(0.0, 9),)).place_of(finding(0.0, 9)) == ""
