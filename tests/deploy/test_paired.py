"""The judge of the shadow stage on simulated replays: paired rows, known truth."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.deploy.metrics import Metric
from undrift.deploy.paired import judge_shadow
from undrift.deploy.rollout import Guardrail, Rollout, RolloutState, Stage, start
from undrift.deploy.shadow import Replay
from undrift.develop.bundle import Interface
from undrift.finding import Report, Verdict

NOW = datetime(2013, 6, 1, tzinfo=UTC)
INTERFACE = Interface(
    model="flights",
    task="binary",
    contract=Contract(name="flights", fields=(Field(name="carrier", type="string"),)),
    label="late",
    segments=("carrier",),
    classes=("0", "1"),
)
DECLARED = Rollout(
    shadow=Stage(hold="1d", minimum_units=500),
    guardrails=(
        Guardrail(metric="brier", margin=0.01, segment_margin=0.03),
        Guardrail(metric="failed", margin=0.01, by_segment=False),
        Guardrail(metric="shift", margin=0.05, segment_margin=0.1),
        Guardrail(metric="latency", margin=5.0, by_segment=False),
    ),
)


def population(seed: int, n: int = 1800, days: int = 4) -> tuple[pa.Table, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = 1 / (1 + np.exp(1.6 - rng.normal(0, 1, n) - rng.normal(0, 0.6, days)[np.arange(n) * days // n]))
    label = (rng.random(n) < truth).astype(int)
    score = np.clip(truth + rng.normal(0, 0.05, n), 0.01, 0.99)
    carrier = np.array(["UA", "DL", "AA"])[rng.integers(0, 3, n)]
    seconds = np.arange(n) * days * 86_400 // n
    rows = pa.table(
        {
            "prediction_id": [f"p{i}" for i in range(n)],
            "event_time": pa.array([NOW + timedelta(seconds=int(s)) for s in seconds], pa.timestamp("us", "UTC")),
            "score": score,
            "prediction": pa.nulls(n, pa.string()),
            "scores": pa.nulls(n, pa.list_(pa.float64())),
            "error": pa.nulls(n, pa.string()),
            "latency_us": np.full(n, 400),
            "violations": pa.array([[]] * n, pa.list_(pa.string())),
            "label": [str(v) for v in label],
            "value": pa.nulls(n, pa.float64()),
            "inputs": [{"carrier": str(c)} for c in carrier],
        }
    )
    return rows, score, carrier, rng.normal(0, 0.03, n)


def judged(rows: pa.Table, answers: Replay, declared: Rollout = DECLARED) -> tuple[Report, int]:
    state: RolloutState = start(declared, "r", "flights", ("r-new", 2), ("r-old", 1), NOW).state
    report, exposure = judge_shadow(declared, state, INTERFACE, rows, answers, NOW + timedelta(days=4))
    return report, exposure.step_units


def answers(scores: np.ndarray) -> Replay:
    return Replay(status="done", score=[None if np.isnan(s) else float(s) for s in scores])


@pytest.mark.parametrize("seed", range(5))
def test_a_candidate_that_answers_nearly_alike_is_proven_harmless(seed: int) -> None:
    rows, score, _, noise = population(seed)
    report, units = judged(rows, answers(np.clip(score + noise, 0, 1)))
    assert report.verdict is Verdict.PASS
    assert units == 1800
    assert {f.measurement.name for f in report} == {"brier", "failed", "shift"}  # a replay knows no latency


def test_a_candidate_wrong_for_one_carrier_fails_there() -> None:
    rows, score, carrier, noise = population(7)
    report, _ = judged(rows, answers(np.where(carrier == "DL", 0.9, np.clip(score + noise, 0, 1))))
    assert report.verdict is Verdict.FAIL
    where = {f.measurement.where for f in report.worse_than(Verdict.ERROR) if f.measurement.segment}
    assert where == {"carrier=DL"}
    assert len(report.facts["most_different"]) == 5


def test_few_rows_prove_nothing() -> None:
    rows, score, _, noise = population(8, n=25, days=1)
    report, _ = judged(rows, answers(np.clip(score + noise, 0, 1)))
    assert report.verdict is Verdict.INCONCLUSIVE


def test_rows_the_candidate_fails_on_are_counted_against_it() -> None:
    rows, score, _, _ = population(9)
    broken = np.where(np.arange(1800) % 10 == 0, np.nan, score)
    report, _ = judged(rows, answers(broken))
    failing = {f.measurement.name for f in report.worse_than(Verdict.ERROR)}
    assert failing == {"failed"}


def guarded(*guards: Guardrail, metrics: tuple[Metric, ...] = ()) -> Rollout:
    return Rollout(shadow=Stage(hold="1d", minimum_units=500), guardrails=guards, metrics=metrics)


def test_rows_that_never_fail_prove_as_much_as_their_number_says() -> None:
    """Of n rows without a failure -log(alpha) / n is the most that could still fail: 0.05 / 1 test, margin 1 %."""
    declared = guarded(Guardrail(metric="failed", margin=0.01, by_segment=False))
    verdicts = {}
    for n in (250, 700):
        rows, score, *_ = population(11, n=n)
        verdicts[n] = judged(rows, answers(score), declared)[0].verdict
    assert verdicts == {250: Verdict.INCONCLUSIVE, 700: Verdict.PASS}


def test_a_more_accurate_candidate_does_no_harm_and_a_less_accurate_one_does() -> None:
    rows, score, *_ = population(12)
    label = np.array([int(v) for v in rows["label"].to_pylist()])
    right = np.where(np.arange(1800) % 4 == 0, label * 0.9 + 0.05, score)
    wrong = np.where(np.arange(1800) % 4 == 0, 0.95 - label * 0.9, score)
    declared = guarded(Guardrail(metric="accuracy", margin=0.02, by_segment=False))
    for scores, verdict in ((right, Verdict.PASS), (wrong, Verdict.FAIL)):
        told = Replay(status="done", score=[float(s) for s in scores], label=["1" if s >= 0.5 else "0" for s in scores])
        old = rows.set_column(
            rows.column_names.index("prediction"), "prediction", pa.array(["1" if s >= 0.5 else "0" for s in score])
        )
        assert judged(old, told, declared)[0].verdict is verdict


def test_a_relative_margin_is_a_share_of_the_champions_value() -> None:
    rows, score, *_ = population(13)
    worse = np.clip(score + np.where(np.arange(1800) % 2 == 0, 0.15, -0.15), 0, 1)  # brier 0.02 worse, of some 0.2
    absolute = guarded(Guardrail(metric="brier", margin=0.5, by_segment=False))
    (found,) = judged(rows, answers(worse), absolute)[0].findings
    assert found.measurement.value == pytest.approx(0.02, abs=0.01)
    for margin, verdict in ((0.001, Verdict.FAIL), (0.5, Verdict.PASS)):
        relative = guarded(Guardrail(metric="brier", margin=margin, relative=True, by_segment=False))
        assert judged(rows, answers(worse), relative)[0].verdict is verdict


def test_a_standardized_shift_is_counted_in_the_spread_of_the_champions_scores() -> None:
    rows, score, _, noise = population(14)
    declared = guarded(Guardrail(metric="standardized_shift", margin=0.5, by_segment=False))
    moved = score + 0.4 * score.std(ddof=1) + noise - noise.mean()
    (found,) = judged(rows, answers(moved), declared)[0].findings
    assert found.measurement.value == pytest.approx(0.4, abs=1e-6)
    assert found.verdict is Verdict.PASS
    assert judged(rows, answers(score - 0.7 * score.std(ddof=1) + noise), declared)[0].verdict is Verdict.FAIL
    flat = rows.set_column(rows.column_names.index("score"), "score", pa.array(np.full(1800, 0.3)))
    (same,) = judged(flat, answers(np.full(1800, 0.3)), declared)[0].findings
    assert same.measurement.value == 0.0


def test_what_a_replay_says_nothing_of_is_left_to_the_live_stage() -> None:
    rows, score, *_ = population(15)
    sales = Metric(name="sales", of="event:sale", kind="proportion", better="higher", window="1d")
    declared = guarded(
        Guardrail(metric="latency_p99", margin=1.0),
        Guardrail(metric="roc_auc", margin=0.1),
        Guardrail(metric="sales", margin=0.1),
        Guardrail(metric="brier", margin=0.05),
        metrics=(sales,),
    )
    report, _ = judged(rows, answers(score), declared)
    assert {f.measurement.name for f in report} == {"brier"}
    assert report.verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("status", "verdict"),
    [("crashed", Verdict.FAIL), ("memory", Verdict.FAIL), ("refused", Verdict.FAIL), ("timeout", Verdict.ERROR)],
)
def test_a_replay_that_did_not_end_well_never_passes(status: str, verdict: Verdict) -> None:
    rows, *_ = population(10, n=10)
    report, units = judged(rows, Replay(status=status, problem="ended"))  # type: ignore[arg-type]
    assert (report.verdict, units) == (verdict, 0)
