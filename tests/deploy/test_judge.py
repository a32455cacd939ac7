"""The judge on simulated traffic whose truth is known: sixteen carriers, days that differ, one unit a row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from undrift.data.contract import Contract, Field
from undrift.deploy.evidence import Cell, Evidence, summarise
from undrift.deploy.judge import judge_rollout
from undrift.deploy.rollout import Decision, Exposure, Guardrail, Rollout, RolloutState, reconcile, start
from undrift.develop.bundle import Interface
from undrift.finding import Report, Verdict, Window

NOW = datetime(2013, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CARRIERS = ["UA", "B6", "EV", "DL", "AA", "MQ", "US", "9E", "WN", "VX", "FL", "AS", "F9", "YV", "HA", "OO"]
SHARES = np.array([58, 54, 54, 48, 32, 26, 20, 18, 12, 5, 3, 1, 1, 1, 0.5, 0.5]) / 335.0
FIELDS = (Field(name="carrier", type="string"), Field(name="origin", type="string"))
INTERFACE = Interface(
    model="flights",
    task="binary",
    contract=Contract(name="flights", fields=FIELDS),
    label="late",
    segments=("carrier", "origin"),
    classes=("0", "1"),
)
DECLARED = Rollout(
    guardrails=(
        Guardrail(metric="brier", margin=0.02, segment_margin=0.05),
        Guardrail(metric="failed", margin=0.01, by_segment=False),
        Guardrail(metric="shift", margin=0.05, segment_margin=0.1),
    )
)
Break = Callable[[np.ndarray, np.ndarray], np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def traffic(rng: np.random.Generator, day: int, weight: float, skill: float, broken: Break | None) -> dict[str, Any]:
    n = 900
    carrier, signal = rng.choice(16, n, p=SHARES / SHARES.sum()), rng.normal(0, 0.8, n)
    truth = sigmoid(-1.6 + rng.normal(0, 0.7) + signal + np.linspace(-0.4, 0.4, 16)[carrier])
    treated = rng.random(n) < weight / 100
    champion = sigmoid(-1.5 + 0.7 * signal + rng.normal(0, 0.2, n))
    candidate = sigmoid(-1.5 + skill * signal + rng.normal(0, 0.2, n))
    if broken is not None:
        candidate = broken(np.array(CARRIERS)[carrier], candidate)
    return {
        "event_time": [NOW + day * DAY + timedelta(seconds=int(s)) for s in np.sort(rng.integers(0, 86_000, n))],
        "revision": np.where(treated, "r-new", "r-old").tolist(),
        "propensity": np.where(treated, weight / 100, 1 - weight / 100).tolist(),
        "unit": [f"{day}-{i}" for i in range(n)],
        "score": np.where(treated, candidate, champion).tolist(),
        "label": [str(int(v)) for v in rng.random(n) < truth],
        "inputs": [{"carrier": CARRIERS[c], "origin": "EWR"} for c in carrier],
    }


def table(days: list[dict[str, Any]]) -> pa.Table:
    columns = {name: [v for day in days for v in day[name]] for name in days[0]}
    n = len(columns["unit"])
    columns["event_time"] = pa.array(columns["event_time"], pa.timestamp("us", "UTC"))
    columns |= {
        "request_id": columns["unit"],
        "prediction_id": columns["unit"],
        "labelled_at": columns["event_time"],
        "value": pa.nulls(n, pa.float64()),
        "error": columns.get("error", pa.nulls(n, pa.string())),
        "violations": pa.array([[]] * n, pa.list_(pa.string())),
        "latency_us": np.full(n, 500),
        "prediction": pa.nulls(n, pa.string()),
        "scores": pa.nulls(n, pa.list_(pa.float64())),
    }
    return pa.table(columns)


def live(seed: int, *, skill: float = 0.7, broken: Break | None = None, most: int = 30) -> tuple[Decision, int, Report]:
    """A whole rollout, judged once a day; the last decision, the days it took and the last report."""
    rng = np.random.default_rng(seed)
    days = [traffic(rng, -back, 0.0, skill, None) for back in range(1, 8)]
    state = start(DECLARED, f"r{seed}", "flights", ("r-new", 2), ("r-old", 1), NOW).state
    for number in range(most):
        days.append(traffic(rng, number, state.weight, skill, broken))
        now = NOW + (number + 1) * DAY
        evidence = summarise(table(days), INTERFACE, state, NOW, now)
        report = judge_rollout(state, evidence, now)
        decision = reconcile(DECLARED, state, report, evidence.exposure, now)
        state = decision.state
        if state.over:
            break
    return decision, number + 1, report


def wrong_for(name: str, score: float) -> Break:
    return lambda carrier, scores: np.where(carrier == name, score, scores)


@pytest.mark.parametrize("seed", range(12))
def test_a_candidate_as_good_as_the_champion_is_never_rolled_back_and_wins_in_time(seed: int) -> None:
    # 12 rollouts at alpha 0.05 spent over all looks: even one false roll-back has a chance well below a half
    decision, days, _ = live(seed)
    assert decision.state.status == "succeeded"
    assert 4 <= days <= 25


@pytest.mark.parametrize("seed", [100, 101, 102, 103])
def test_a_candidate_wrong_for_one_carrier_is_caught_within_days_at_few_units(seed: int) -> None:
    decision, days, _ = live(seed, broken=wrong_for("UA", 0.9))
    assert decision.state.status == "rolled_back"
    assert days <= 4
    assert decision.state.exposed_units < 300
    why = decision.drafts[0].why
    assert "carrier=UA" in why
    assert f"{decision.state.exposed_units} units were exposed" in why


def test_a_candidate_that_is_better_for_most_but_wrong_for_one_carrier_is_still_rolled_back() -> None:
    decision, _, report = live(7, skill=1.0, broken=wrong_for("DL", 0.02))
    assert decision.state.status == "rolled_back"
    assert {f.measurement.where for f in report.worse_than(Verdict.ERROR)} == {"carrier=DL"}


def test_a_better_candidate_wins_at_one_step_a_day_or_little_more() -> None:
    decision, days, _ = live(5, skill=1.0)
    assert decision.state.status == "succeeded"
    assert days <= 8


def test_a_candidate_that_fails_on_rows_is_rolled_back_though_the_champion_stands_in() -> None:
    rng = np.random.default_rng(3)
    state = start(DECLARED, "r3", "flights", ("r-new", 2), ("r-old", 1), NOW).state
    day = traffic(rng, 0, 5.0, 0.7, None)
    failed = [i for i, r in enumerate(day["revision"]) if r == "r-new"][:8]
    day["error"] = ["ValueError" if i in failed else None for i in range(900)]
    for i in failed:  # what the champion answered instead
        for name, values in day.items():
            values.append({"revision": "r-old", "error": None}.get(name, values[i]))
    for i in failed:
        day["score"][i] = None
    evidence = summarise(table([day]), INTERFACE, state, NOW, NOW + DAY)
    assert evidence.mixed == 0
    cell = next(c for c in evidence.cells if c.metric == "failed")
    assert cell.candidate_mean == pytest.approx(8 / cell.candidate_units)
    report = judge_rollout(state, evidence, NOW + DAY)
    assert report.verdict is Verdict.FAIL
    assert "failed differs" in report.worse_than(Verdict.ERROR)[0].why


def test_the_sums_are_those_of_the_rows() -> None:
    rng = np.random.default_rng(11)
    state = start(DECLARED, "r", "flights", ("r-new", 2), ("r-old", 1), NOW).state
    day = traffic(rng, 0, 5.0, 0.7, None)
    cell = summarise(table([day]), INTERFACE, state, NOW, NOW + DAY).cells[0]
    losses = (np.array(day["score"]) - np.array([int(v) for v in day["label"]])) ** 2
    treated = np.array(day["revision"]) == "r-new"
    assert cell.candidate_mean == pytest.approx(losses[treated].mean())
    assert cell.champion_mean == pytest.approx(losses[~treated].mean())
    assert cell.difference == pytest.approx(losses[treated].mean() - losses[~treated].mean())
    assert (cell.candidate_units, cell.champion_units) == (treated.sum(), (~treated).sum())


def test_rows_of_one_unit_count_once() -> None:
    rng = np.random.default_rng(12)
    state = start(DECLARED, "r", "flights", ("r-new", 2), ("r-old", 1), NOW).state
    day = traffic(rng, 0, 50.0, 0.7, None)
    treated = [r == "r-new" for r in day["revision"]]
    day["unit"] = [f"{'new' if t else 'old'}-{i % 40}" for i, t in enumerate(treated)]
    evidence = summarise(table([day]), INTERFACE, state, NOW, NOW + DAY)
    cell = evidence.cells[0]
    assert (cell.candidate_units, cell.champion_units) == (40, 40)
    assert evidence.counts == ((50.0, 40, 40),)


def evidence_of(
    *cells: Cell, counts: tuple[tuple[float, int, int], ...] = ((5.0, 950, 50),), mixed: int = 0
) -> Evidence:
    return Evidence(
        window=Window(NOW, NOW + DAY),
        cells=cells,
        counts=counts,
        mixed=mixed,
        exposure=Exposure(step_units=50, total_units=50),
        tests=1,
        thin=0,
    )


def judged(evidence: Evidence) -> Report:
    state: RolloutState = start(DECLARED, "r", "flights", ("r-new", 2), ("r-old", 1), NOW).state
    return judge_rollout(state, evidence, NOW + DAY)


CELL = Cell(
    metric="log_loss",
    segment={},
    margin=0.02,
    champion_units=950,
    candidate_units=50,
    champion_mean=0.4,
    candidate_mean=0.41,
    difference=0.01,
    half_width=0.1,
)


def test_within_the_margin_over_all_passes_and_beyond_it_without_proof_waits() -> None:
    assert judged(evidence_of(CELL)).verdict is Verdict.PASS
    beyond = msgspec.structs.replace(CELL, difference=0.05)
    assert judged(evidence_of(beyond)).verdict is Verdict.INCONCLUSIVE
    proven = msgspec.structs.replace(CELL, difference=0.2, half_width=0.1)
    assert judged(evidence_of(proven)).verdict is Verdict.FAIL


def test_exact_bets_prove_harm_where_the_sequence_has_no_bound_yet() -> None:
    few = msgspec.structs.replace(
        CELL, metric="brier", candidate_units=10, difference=0.5, half_width=float("inf"), exact=True
    )
    assert judged(evidence_of(few)).verdict is Verdict.INCONCLUSIVE
    assert judged(evidence_of(msgspec.structs.replace(few, e_value=39.0))).verdict is Verdict.INCONCLUSIVE
    assert judged(evidence_of(msgspec.structs.replace(few, e_value=41.0))).verdict is Verdict.FAIL  # 2 / 0.05 = 40
    alone = msgspec.structs.replace(few, metric="failed", sequence=False, e_value=21.0)
    assert judged(evidence_of(alone)).verdict is Verdict.FAIL  # 1 / 0.05 = 20


def test_nothing_seen_is_inconclusive_and_never_passes() -> None:
    assert judged(evidence_of(counts=())).verdict is Verdict.INCONCLUSIVE
    nothing = msgspec.structs.replace(CELL, candidate_units=0, difference=float("nan"))
    assert judged(evidence_of(nothing)).verdict is Verdict.INCONCLUSIVE


def test_a_segment_with_nothing_to_compare_holds_nobody_up() -> None:
    empty = msgspec.structs.replace(CELL, segment={"carrier": "HA"}, difference=float("nan"))
    assert judged(evidence_of(CELL, empty)).verdict is Verdict.PASS


def test_units_that_do_not_fall_by_the_weights_make_the_experiment_an_error() -> None:
    report = judged(evidence_of(CELL, counts=((5.0, 950, 150),)))
    assert report.verdict is Verdict.ERROR
    assert "do not fall by the declared weights" in report.worse_than(Verdict.INCONCLUSIVE)[0].why


def test_units_answered_by_both_arms_make_the_experiment_an_error() -> None:
    assert judged(evidence_of(CELL, mixed=5)).verdict is Verdict.ERROR


@pytest.mark.parametrize("score", [0.02, 0.9])
def test_a_shift_counts_either_way(score: float) -> None:
    rng = np.random.default_rng(13)
    state = start(DECLARED, "r", "flights", ("r-new", 2), ("r-old", 1), NOW).state
    day = traffic(rng, 0, 50.0, 0.7, lambda carrier, scores: np.full(len(scores), score))
    evidence = summarise(table([day]), INTERFACE, state, NOW, NOW + DAY)
    (cell,) = (c for c in evidence.cells if c.metric == "shift" and not c.segment)
    assert cell.difference > 0
    assert cell.proven


def test_a_loss_relative_to_the_champion_is_held_against_a_share_of_it() -> None:
    rng = np.random.default_rng(14)
    guards = (Guardrail(metric="brier", margin=0.3, relative=True, by_segment=False),)
    declared = msgspec.structs.replace(DECLARED, guardrails=guards)
    state = start(declared, "r", "flights", ("r-new", 2), ("r-old", 1), NOW).state
    day = traffic(rng, 0, 50.0, 0.7, None)
    (cell,) = summarise(table([day]), INTERFACE, state, NOW, NOW + DAY).cells
    assert cell.difference == pytest.approx(cell.candidate_mean - 1.3 * cell.champion_mean)
    assert not cell.proven
    day["score"] = np.where(np.array(day["revision"]) == "r-new", 0.9, day["score"]).tolist()
    broken = summarise(table([day]), INTERFACE, state, NOW, NOW + DAY)
    assert broken.cells[0].proven
    assert "30.00% worse" in judge_rollout(state, broken, NOW + DAY).worse_than(Verdict.ERROR)[0].why


def test_non_inferiority_waits_for_proof_where_it_is_asked_for() -> None:
    certain = msgspec.structs.replace(CELL, certain=True)
    assert judged(evidence_of(certain)).verdict is Verdict.INCONCLUSIVE
    assert judged(evidence_of(msgspec.structs.replace(certain, half_width=0.005))).verdict is Verdict.PASS


def test_an_objective_is_asked_for_at_the_last_step_and_never_rolls_back() -> None:
    gain = msgspec.structs.replace(CELL, metric="revenue", margin=0.0, objective=True)
    declared = msgspec.structs.replace(DECLARED, steps=(5.0, 50.0, 100.0))
    early = start(declared, "r", "flights", ("r-new", 2), ("r-old", 1), NOW).state
    late = msgspec.structs.replace(early, step=1, weight=50.0)
    proven = msgspec.structs.replace(gain, difference=0.2, half_width=0.1)
    lost = msgspec.structs.replace(gain, difference=-0.5, half_width=0.1)
    for state, cell, verdict in (
        (early, gain, Verdict.PASS),
        (late, gain, Verdict.INCONCLUSIVE),
        (late, lost, Verdict.INCONCLUSIVE),
        (late, proven, Verdict.PASS),
    ):
        assert judge_rollout(state, evidence_of(CELL, cell), NOW + DAY).verdict is verdict


def test_a_metric_that_cannot_be_measured_is_an_error_over_all_and_holds_no_segment_up() -> None:
    silent = msgspec.structs.replace(CELL, problem="no unit has had an event 'order'")
    assert judged(evidence_of(silent)).verdict is Verdict.ERROR
    there = msgspec.structs.replace(silent, segment={"carrier": "UA"})
    assert judged(evidence_of(CELL, there)).verdict is Verdict.PASS


def test_labels_that_one_arm_lacks_make_the_experiment_an_error() -> None:
    rng = np.random.default_rng(15)
    state = start(DECLARED, "r", "flights", ("r-new", 2), ("r-old", 1), NOW).state
    days = [traffic(rng, number, 50.0, 0.7, None) for number in range(2)]
    sound = summarise(table(days), INTERFACE, state, NOW, NOW + 2 * DAY)
    assert sound.labelled is not None
    assert judge_rollout(state, sound, NOW).verdict is not Verdict.ERROR
    for day in days:
        lost = (np.array(day["revision"]) == "r-new") & (rng.random(900) < 0.3)
        day["label"] = [None if gone else label for gone, label in zip(lost, day["label"], strict=True)]
    report = judge_rollout(state, summarise(table(days), INTERFACE, state, NOW, NOW + 2 * DAY), NOW)
    assert report.verdict is Verdict.ERROR
    assert "by no chance" in report.worse_than(Verdict.INCONCLUSIVE)[0].why


def test_latency_keeps_its_digits_out_of_the_text() -> None:
    one = msgspec.structs.replace(CELL, metric="latency", margin=50.0, difference=0.123)
    two = msgspec.structs.replace(one, difference=0.456, champion_mean=1.0)
    texts = [[f.why for f in judged(evidence_of(cell))] for cell in (one, two)]
    assert texts[0] == texts[1]
