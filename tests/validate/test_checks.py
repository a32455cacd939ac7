from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from undrift.errors import PredictionError
from undrift.finding import Verdict
from undrift.validate import checks


def test_better_needs_proof_and_worse_is_told_from_unsure(scored_of: Any) -> None:
    good, bad = scored_of(noise=0.2), scored_of(noise=2.0)
    assert checks.better_than(good, bad, "log_loss").verdict is Verdict.PASS
    assert checks.better_than(bad, good, "log_loss").verdict is Verdict.FAIL
    hardly = scored_of(300, noise=0.20), scored_of(300, noise=0.21)
    assert checks.better_than(*hardly, "log_loss").verdict is Verdict.INCONCLUSIVE


def test_the_same_answers_are_no_gain_but_are_not_worse(scored_of: Any) -> None:
    rows = scored_of()
    assert checks.better_than(rows, rows, "log_loss").verdict is Verdict.FAIL
    assert checks.better_than(rows, rows, "log_loss", margin=-0.001).verdict is Verdict.PASS


def test_too_few_rows_conclude_nothing(scored_of: Any) -> None:
    good, bad = scored_of(200, noise=0.2), scored_of(200, noise=5.0)
    assert checks.better_than(good, bad, "log_loss", minimum_n=201).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("metric", "kept", "broken"), [("roc_auc", 0.6, 0.95), ("log_loss", 0.69, 0.1)])
def test_a_floor_is_a_ceiling_for_losses(metric: str, kept: float, broken: float, scored_of: Any) -> None:
    rows = scored_of(noise=0.2)
    assert checks.floor(rows, metric, kept).verdict is Verdict.PASS
    assert checks.floor(rows, metric, broken).verdict is Verdict.FAIL


def test_a_segment_that_rots_is_named_and_small_ones_are_listed(scored_of: Any) -> None:
    rows = scored_of(broken="DL")
    findings, small = checks.segment_floors(rows, "roc_auc", 0.6, ["carrier"], minimum_n=300)
    verdicts = {f.measurement.where: f.verdict for f in findings}
    assert verdicts == {"carrier=AA": Verdict.PASS, "carrier=DL": Verdict.FAIL, "carrier=UA": Verdict.PASS}
    assert small == ["carrier=HA"]
    compared, _ = checks.segments_no_worse(rows, scored_of(), "log_loss", ["carrier"], minimum_n=300)
    assert {f.measurement.where: f.verdict for f in compared}["carrier=DL"] is Verdict.FAIL


def test_many_equal_segments_rarely_alarm(scored_of: Any) -> None:
    """Two equally good models, 40 segments, 30 trials: by Bonferroni at most 5 % (both sides) of trials may alarm."""
    alarms = 0
    for seed in range(30):
        one = scored_of(4000, noise=0.5, seed=2 * seed)
        other = one
        shift = np.random.default_rng(seed).normal(0, 0.02, 4000)  # own noise for each model, same size
        p = np.clip(one.raw[:, 1] + shift, 0.001, 0.999)
        q = np.clip(one.raw[:, 1] - shift, 0.001, 0.999)
        table = pa.table({"carrier": [str(i % 40) for i in range(4000)]})
        one = replace(one, table=table, raw=np.column_stack([1 - p, p]))
        other = replace(other, table=table, raw=np.column_stack([1 - q, q]))
        findings, _ = checks.segments_no_worse(one, other, "brier", ["carrier"], minimum_n=50)
        assert len(findings) == 40
        alarms += any(f.verdict is Verdict.FAIL for f in findings)
    assert alarms <= 4  # binomial(30, 0.025) exceeds 4 once in a thousand


def test_bias_is_judged_by_its_size_with_its_sign_told(scored_of: Any) -> None:
    rows = scored_of(noise=0.1)
    assert checks.calibrated(rows, 0.05).verdict is Verdict.PASS
    high = np.clip(rows.raw[:, 1] + 0.2, 0, 1)
    found = checks.calibrated(replace(rows, raw=np.column_stack([1 - high, high])), 0.05)
    assert found.verdict is Verdict.FAIL
    assert found.measurement.detail["signed"] > 0.1


def test_a_compiled_model_is_judged_by_what_the_bundle_says() -> None:
    held = {"held": True, "max_difference": 1e-7, "flips": 0, "rows": 500, "reason": ""}
    assert checks.compiled(held).verdict is Verdict.PASS
    failed = checks.compiled({**held, "held": False, "reason": "3 of 500 rows differ"})
    assert failed.verdict is Verdict.FAIL
    assert "3 of 500 rows differ" in failed.why
    assert checks.compiled({}).verdict is Verdict.ERROR


def test_latency_is_taken_row_by_row_and_a_failing_model_has_none() -> None:
    asked: list[dict[str, list[Any]]] = []
    found = checks.latency_of(asked.append, [{"x": i} for i in range(100)], warm_up=10)
    assert (found.n, found.unit, len(asked)) == (100, "ms", 10 + 3 * 100)
    assert asked[-1] == {"x": [99]}
    assert found.value is not None
    assert found.value >= found.detail["p50_ms"] >= 0

    def broken(columns: Any) -> Any:
        raise PredictionError("no")

    assert checks.latency_of(broken, [{"x": 1}]).problem == "no"
    assert checks.latency_of(print, []).value is None


def test_answers_that_the_machine_disturbed_do_not_count_but_a_slow_model_stays_slow() -> None:
    """A clock that a model moves: 1 ms an answer, and 80 ms more for every tenth while the machine is busy."""
    clock, asked = [0], [0]

    def model(milliseconds: int, quiet_from: int, every: int = 10) -> Any:
        def predict(columns: Any) -> None:
            asked[0] += 1
            busy = asked[0] <= quiet_from and asked[0] % every == 0
            clock[0] += (milliseconds + 80 * busy) * 1_000_000

        clock[0], asked[0] = 0, 0
        return predict

    rows = [{"x": i} for i in range(100)]
    disturbed = checks.latency_of(model(1, quiet_from=210), rows, now=lambda: clock[0])
    assert disturbed.value == pytest.approx(1.0)
    assert disturbed.detail["rounds_ms"] == pytest.approx([81.0, 81.0, 1.0])
    slow = checks.latency_of(model(60, quiet_from=210), rows, now=lambda: clock[0])
    assert slow.value == pytest.approx(60.0)
    scattered = checks.latency_of(model(1, quiet_from=10**9, every=9), rows, now=lambda: clock[0])
    assert scattered.value == pytest.approx(1.0)  # every round is disturbed, no row in all of them
    always = checks.latency_of(model(1, quiet_from=10**9), rows, now=lambda: clock[0])
    assert always.value == pytest.approx(81.0)


def test_inputs_that_may_be_absent_must_be_answered_without(interface_of: Any) -> None:
    def needs_carrier(columns: dict[str, list[Any]]) -> Any:
        assert None not in columns["x"]  # not nullable: it never reaches a model as absent
        if None in columns["carrier"]:
            raise PredictionError("carrier is needed")

    rows = [{"x": 1.0, "carrier": "UA"}]
    found = checks.missing_inputs(interface_of(), needs_carrier, rows)
    assert found.value == 1.0
    assert found.detail == {"refused": {"carrier": "carrier is needed"}}
    assert checks.missing_inputs(interface_of(), lambda columns: None, rows).value == 0.0
    assert checks.missing_inputs(interface_of(), lambda columns: None, []).value is None
