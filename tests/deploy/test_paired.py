"""The judge of the shadow stage on simulated replays: paired rows, known truth."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
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


def judged(rows: pa.Table, answers: Replay) -> tuple[Report, int]:
    state: RolloutState = start(DECLARED, "r", "flights", ("r-new", 2), ("r-old", 1), NOW).state
    report, exposure = judge_shadow(DECLARED, state, INTERFACE, rows, answers, NOW + timedelta(days=4))
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


@pytest.mark.parametrize(
    ("status", "verdict"),
    [("crashed", Verdict.FAIL), ("memory", Verdict.FAIL), ("refused", Verdict.FAIL), ("timeout", Verdict.ERROR)],
)
def test_a_replay_that_did_not_end_well_never_passes(status: str, verdict: Verdict) -> None:
    rows, *_ = population(10, n=10)
    report, units = judged(rows, Replay(status=status, problem="ended"))  # type: ignore[arg-type]
    assert (report.verdict, units) == (verdict, 0)
