"""The tally kept from tick to tick says what all rows at once say, and each metric what plain arithmetic says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from undrift.data.contract import Contract, Field
from undrift.deploy import tally_file
from undrift.deploy.evidence import Cell, Evidence, collect
from undrift.deploy.metrics import Metric
from undrift.deploy.rollout import RolloutState, Span, start
from undrift.deploy.strategy import Guardrail, Objective, Rollout
from undrift.deploy.tally import Tally
from undrift.develop.bundle import Interface
from undrift.state.lake import DeltaLake
from undrift.stats.sequential import difference_bounds

NOW = datetime(2013, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
INTERFACE = Interface(
    model="shop",
    task="binary",
    contract=Contract(name="shop", fields=(Field(name="country", type="string"),)),
    label="bought",
    unit="user",
    segments=("country",),
    classes=("0", "1"),
)
ORDERS = Metric(name="orders", of="event:order", kind="count", better="higher", window="2d")
REVENUE = Metric(name="revenue", of="event:order", better="higher", window="2d", covariate="7d", bounds=(0, 500))
CONVERSION = Metric(name="conversion", of="event:order", kind="proportion", better="higher", window="2d")
VALUE = Metric(name="value", of="event:order", kind="ratio", per="event:order", better="higher", window="2d")
FAILURES = Metric(name="failures", of="failed", kind="ratio", per="rows")
LATE = Metric(name="ripe", of="error", kind="proportion", maturity="3d")
TIME = pa.timestamp("us", "UTC")


def world(seed: int = 1, days: int = 6, each: int = 300) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Predictions of users who come back, their labels half a day to two days later, and their orders."""
    rng = np.random.default_rng(seed)
    n = days * each
    user = rng.integers(0, n // 3, n)
    treated = np.random.default_rng(seed + 1).random(n // 3) < 0.5
    when = np.sort(rng.integers(0, days * 86_400, n))
    score = rng.beta(2, 5, n)
    label = rng.random(n) < score
    failed = rng.random(n) < 0.02
    seconds = [NOW + timedelta(seconds=int(s)) for s in when]
    predictions = pa.table(
        {
            "date": [t.date() for t in seconds],
            "prediction_id": [f"p{i}" for i in range(n)],
            "request_id": [f"q{i}" for i in range(n)],
            "revision": np.where(treated[user], "r-new", "r-old").tolist(),
            "version": pa.array(np.ones(n), pa.int32()),
            "variant": ["x"] * n,
            "unit": [f"u{u}" for u in user],
            "propensity": [0.5] * n,
            "event_time": pa.array(seconds, TIME),
            "received_at": pa.array(seconds, TIME),
            "score": pa.array([None if f else float(s) for f, s in zip(failed, score, strict=True)], pa.float64()),
            "scores": pa.nulls(n, pa.list_(pa.float64())),
            "prediction": pa.nulls(n, pa.string()),
            "error": pa.array(["boom" if f else None for f in failed], pa.string()),
            "violations": pa.array([[]] * n, pa.list_(pa.string())),
            "latency_us": pa.array(rng.lognormal(8, 0.5, n).astype(int), pa.int64()),
            "inputs": [{"country": "at" if u % 3 else "de", "age": 3} for u in user],
        }
    )
    known = [t + timedelta(hours=float(h)) for t, h in zip(seconds, rng.uniform(12, 48, n), strict=True)]
    keep = rng.random(n) < 0.8
    labels = pa.table(
        {
            "date": [t.date() for t in known],
            "prediction_id": [f"p{i}" for i in range(n)],
            "label": [str(int(v)) for v in label],
            "event_time": pa.array(known, TIME),
            "received_at": pa.array(known, TIME),
        }
    ).filter(pa.array(keep))
    buyers = rng.integers(0, n // 3, n // 2)
    bought = [NOW + timedelta(seconds=int(s)) for s in rng.integers(-6 * 86_400, days * 86_400, n // 2)]
    orders = pa.table(
        {
            "date": [t.date() for t in bought],
            "event_id": [f"e{i}" for i in range(n // 2)],
            "unit": [f"u{u}" for u in buyers],
            "name": ["order"] * (n // 2),
            "value": rng.lognormal(3, 0.7, n // 2),
            "event_time": pa.array(bought, TIME),
            "received_at": pa.array(bought, TIME),
        }
    )
    return predictions, labels, orders


@pytest.fixture(name="lake")
def _lake(tmp_path: Path) -> DeltaLake:
    lake = DeltaLake(tmp_path / "lake")
    for name, rows in zip(("predictions_shop", "labels_shop", "events_shop"), world(), strict=True):
        lake.append(name, rows)
    return lake


def rollout(*guards: Guardrail, metrics: tuple[Metric, ...] = (), objective: Objective | None = None) -> RolloutState:
    declared = Rollout(steps=(50, 100), guardrails=guards, metrics=metrics, objective=objective)
    return start(declared, "r", "shop", ("r-new", 2), ("r-old", 1), NOW).state


EVERYTHING = rollout(
    Guardrail(metric="failed", margin=0.01),
    Guardrail(metric="brier", margin=0.01),
    Guardrail(metric="roc_auc", margin=0.05),
    Guardrail(metric="latency_p95", margin=0.2, relative=True),
    Guardrail(metric="standardized_shift", margin=0.2),
    Guardrail(metric="failures", margin=0.01),
    Guardrail(metric="ripe", margin=0.05),
    Guardrail(metric="orders", margin=0.2),
    Guardrail(metric="revenue", margin=5.0),
    Guardrail(metric="conversion", margin=0.05),
    Guardrail(metric="value", margin=5.0),
    metrics=(ORDERS, REVENUE, CONVERSION, VALUE, FAILURES, LATE),
    objective=Objective(metric="revenue", at_least=1.0),
)


def alike(first: Evidence, second: Evidence) -> None:
    assert (first.counts, first.mixed, first.exposure, first.tests, first.thin, first.unlabelled) == (
        second.counts,
        second.mixed,
        second.exposure,
        second.tests,
        second.thin,
        second.unlabelled,
    )
    assert len(first.cells) == len(second.cells)
    for old, new in zip(first.cells, second.cells, strict=True):
        for name in Cell.__struct_fields__:
            was, now = getattr(old, name), getattr(new, name)
            assert was == (pytest.approx(now, rel=1e-7, abs=1e-12, nan_ok=True) if isinstance(now, float) else now), (
                old.metric,
                old.segment,
                name,
            )


def cell(evidence: Evidence, metric: str, **segment: str) -> Cell:
    (found,) = (c for c in evidence.cells if c.metric == metric and c.segment == segment and not c.objective)
    return found


def test_counting_tick_by_tick_says_what_counting_all_at_once_says(lake: DeltaLake, tmp_path: Path) -> None:
    for hours in (7, 20, 48, 49, 100, 130, 170):
        now = NOW + timedelta(hours=hours)
        kept = collect(lake, INTERFACE, EVERYTHING, now, tmp_path / "kept")
        alike(kept, collect(lake, INTERFACE, EVERYTHING, now))
    assert {c.metric for c in kept.cells} >= {"failed", "brier", "roc_auc", "latency_p95", "revenue", "ripe", "value"}
    assert {tuple(c.segment.values()) for c in kept.cells} == {(), ("at",), ("de",)}


def test_a_kept_tally_reads_only_what_is_new(lake: DeltaLake, tmp_path: Path) -> None:
    state = rollout(Guardrail(metric="failed", margin=0.01))
    collect(lake, INTERFACE, state, NOW + 3 * DAY, tmp_path)
    seen: list[Any] = []

    class Watched(DeltaLake):
        def scan(self, table: str, **options: Any) -> Any:
            seen.extend(value for column, op, value in options["where"] if (column, op) == ("event_time", ">="))
            return super().scan(table, **options)

    collect(Watched(tmp_path / "lake"), INTERFACE, state, NOW + 4 * DAY, tmp_path)
    assert seen == [NOW + 3 * DAY]


@pytest.mark.parametrize("harm", ["lost", "torn", "cut", "other"])
def test_a_tally_that_is_lost_torn_or_of_another_declaration_is_counted_again(
    lake: DeltaLake, tmp_path: Path, harm: str
) -> None:
    kept = tmp_path / "kept"
    collect(lake, INTERFACE, EVERYTHING, NOW + 2 * DAY, kept)
    file = kept / "r.tally"
    if harm == "lost":
        file.unlink()
    elif harm == "torn":
        file.write_bytes(file.read_bytes()[:-5] + b"12345")
    elif harm == "cut":
        file.write_bytes(b"1234")
    else:
        collect(lake, INTERFACE, rollout(Guardrail(metric="brier", margin=0.01)), NOW + 2 * DAY, kept)
    now = NOW + 4 * DAY
    alike(collect(lake, INTERFACE, EVERYTHING, now, kept), collect(lake, INTERFACE, EVERYTHING, now))


def test_asking_about_the_past_leaves_what_is_kept_alone(lake: DeltaLake, tmp_path: Path) -> None:
    now, past = NOW + 4 * DAY, NOW + 2 * DAY
    collect(lake, INTERFACE, EVERYTHING, now, tmp_path / "kept")
    before = (tmp_path / "kept/r.tally").read_bytes()
    alike(collect(lake, INTERFACE, EVERYTHING, past, tmp_path / "kept"), collect(lake, INTERFACE, EVERYTHING, past))
    assert (tmp_path / "kept/r.tally").read_bytes() == before


# -- each kind by plain arithmetic ------------------------------------------------------------------------------------


def by_unit(rows: pa.Table, value: np.ndarray) -> dict[str, tuple[float, int]]:
    """Sum and number of each unit's values, in plain Python."""
    found: dict[str, tuple[float, int]] = {}
    for unit, v in zip(rows["unit"].to_pylist(), value.tolist(), strict=True):
        if not np.isnan(v):
            total, count = found.get(unit, (0.0, 0))
            found[unit] = (total + v, count + 1)
    return found


def arms(rows: pa.Table) -> dict[str, int]:
    pairs = zip(rows["unit"].to_pylist(), rows["revision"].to_pylist(), strict=True)
    return {unit: int(revision == "r-new") for unit, revision in pairs}


def test_a_unit_counts_once_with_its_mean_and_a_ratio_counts_rows(lake: DeltaLake) -> None:
    rows, _, _ = world()
    failed = np.array([float(e is not None) for e in rows["error"].to_pylist()])
    units, arm = by_unit(rows, failed), arms(rows)
    evidence = collect(lake, INTERFACE, EVERYTHING, NOW + 7 * DAY)
    for side, name in ((0, "champion_mean"), (1, "candidate_mean")):
        mine = [pair for unit, pair in units.items() if arm[unit] == side]
        assert getattr(cell(evidence, "failed"), name) == pytest.approx(np.mean([s / n for s, n in mine]))
        total = sum(s for s, _ in mine) / sum(n for _, n in mine)
        assert getattr(cell(evidence, "failures"), name) == pytest.approx(total)
    assert cell(evidence, "failed").champion_units == sum(1 for unit in units if arm[unit] == 0)


def test_a_judgement_by_another_rule_leaves_what_is_kept_as_it_is(lake: DeltaLake, tmp_path: Path) -> None:
    """A replay that ends exactly where the rollout stands."""
    now = NOW + 2 * DAY
    collect(lake, INTERFACE, EVERYTHING, now, tmp_path)
    (file,) = tmp_path.glob("*.tally")
    before = file.read_bytes()
    other = rollout(Guardrail(metric="failed", margin=0.5))
    assert other.id == EVERYTHING.id
    assert [c.margin for c in collect(lake, INTERFACE, other, now, tmp_path).cells][:1] == [0.5]
    assert file.read_bytes() == before


def test_bets_on_events_begin_from_what_the_champions_units_did_before(lake: DeltaLake, tmp_path: Path) -> None:
    """A twin row by row: units that had the whole window before the rollout began, their orders in it."""
    rows, _, orders = world()
    begin = NOW + 4 * DAY
    arm = arms(rows)
    first: dict[str, datetime] = {}
    for unit, at in zip(rows["unit"].to_pylist(), rows["event_time"].to_pylist(), strict=True):
        if at < begin and arm[unit] == 0:
            first.setdefault(unit, at)
    whole = {unit: at for unit, at in first.items() if at + 2 * DAY <= begin}
    bought: dict[str, list[float]] = {unit: [] for unit in whole}
    for unit, at, value in zip(*(orders[c].to_pylist() for c in ("unit", "event_time", "value")), strict=True):
        if unit in whole and whole[unit] <= at < min(whole[unit] + 2 * DAY, begin):
            bought[unit].append(value)
    state = msgspec.structs.replace(EVERYTHING, spans=(Span(50.0, begin),), started_at=begin)
    kept: list[Tally] = []
    real = tally_file.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally_file, "write", lambda path, tally, *rest: (kept.append(tally), real(path, tally, *rest)))
        collect(lake, INTERFACE, state, begin + DAY, tmp_path / "kept")
    centers = {m.name: float(kept[0].centers[i, 0]) for i, m in enumerate(kept[0].plan.metrics)}
    assert centers["conversion"] == pytest.approx(np.mean([bool(found) for found in bought.values()]))
    assert centers["orders"] == pytest.approx(np.mean([len(found) for found in bought.values()]))
    assert centers["revenue"] == pytest.approx(np.mean([min(sum(found), 500.0) for found in bought.values()]))
    assert collect(lake, INTERFACE, EVERYTHING, NOW + DAY).cells, "without a past it begins from a guess"


def test_events_count_within_the_window_after_first_exposure_and_only_when_it_is_over(lake: DeltaLake) -> None:
    rows, _, orders = world()
    now = NOW + 5 * DAY
    first: dict[str, datetime] = {}
    for unit, at in zip(rows["unit"].to_pylist(), rows["event_time"].to_pylist(), strict=True):
        if at < now:
            first.setdefault(unit, at)
    ripe = {unit: at for unit, at in first.items() if at + 2 * DAY <= now}
    total: dict[str, float] = dict.fromkeys(ripe, 0.0)
    count = dict.fromkeys(ripe, 0)
    for unit, at, value in zip(*(orders[c].to_pylist() for c in ("unit", "event_time", "value")), strict=True):
        if unit in ripe and ripe[unit] <= at < ripe[unit] + 2 * DAY:
            total[unit] += value
            count[unit] += 1
    arm = arms(rows)
    evidence = collect(lake, INTERFACE, EVERYTHING, now)
    new = [unit for unit in ripe if arm[unit] == 1]
    assert cell(evidence, "orders").candidate_units == len(new)
    assert cell(evidence, "orders").candidate_mean == pytest.approx(np.mean([count[u] for u in new]))
    assert cell(evidence, "conversion").candidate_mean == pytest.approx(np.mean([count[u] > 0 for u in new]))
    capped = np.mean([min(total[u], 500.0) for u in new])
    assert cell(evidence, "revenue").candidate_mean == pytest.approx(capped)
    spent = sum(total[u] for u in new) / sum(count[u] for u in new)
    assert cell(evidence, "value").candidate_mean == pytest.approx(spent)


def test_a_label_counts_at_its_maturity(lake: DeltaLake) -> None:
    early = collect(lake, INTERFACE, EVERYTHING, NOW + 2.9 * DAY)
    assert np.isnan(cell(early, "ripe").difference)
    assert cell(early, "brier").candidate_units > 100
    later = collect(lake, INTERFACE, EVERYTHING, NOW + 4 * DAY)
    assert 50 < cell(later, "ripe").candidate_units < cell(later, "brier").candidate_units


def test_the_area_under_the_curve_takes_each_unit_once_and_its_bins_cost_little(lake: DeltaLake) -> None:
    rows, labels, _ = world()
    known = {row["prediction_id"]: row for row in labels.to_pylist()}
    evidence = collect(lake, INTERFACE, EVERYTHING, NOW + 9 * DAY)
    seen: set[str] = set()
    score, truth = [], []
    labelled = [row for row in rows.to_pylist() if row["prediction_id"] in known and row["score"] is not None]
    for row in sorted(labelled, key=lambda row: known[row["prediction_id"]]["event_time"]):
        if row["revision"] == "r-new" and row["unit"] not in seen:
            seen.add(row["unit"])
            score.append(row["score"])
            truth.append(int(known[row["prediction_id"]]["label"]))
    found = cell(evidence, "roc_auc")
    assert found.candidate_units == len(truth)
    assert found.candidate_mean == pytest.approx(roc_auc_score(truth, score), abs=2e-3)
    assert np.isfinite(found.half_width)


def test_a_covariate_narrows_the_comparison_and_keeps_it(lake: DeltaLake) -> None:
    plain = msgspec.structs.replace(REVENUE, covariate="")
    state = rollout(Guardrail(metric="revenue", margin=5.0, by_segment=False), metrics=(plain,))
    without = cell(collect(lake, INTERFACE, state, NOW + 8 * DAY), "revenue")
    adjusted = cell(collect(lake, INTERFACE, EVERYTHING, NOW + 8 * DAY), "revenue")
    assert adjusted.candidate_mean == pytest.approx(without.candidate_mean)
    assert adjusted.difference == pytest.approx(without.difference, abs=3.0)


def test_an_event_that_nobody_sends_is_a_problem_and_not_a_pass(lake: DeltaLake) -> None:
    wrong = msgspec.structs.replace(ORDERS, of="event:purchase")
    state = rollout(Guardrail(metric="orders", margin=0.1), metrics=(wrong,))
    assert "is it sent under that name" in cell(collect(lake, INTERFACE, state, NOW + 8 * DAY), "orders").problem


def test_a_shift_in_standard_deviations_does_not_depend_on_the_unit_of_the_score(tmp_path: Path) -> None:
    found = []
    for factor in (1.0, 1000.0):
        lake = DeltaLake(tmp_path / str(factor))
        rows, _, _ = world()
        scaled = pa.array([None if s is None else s * factor for s in rows["score"].to_pylist()], pa.float64())
        lake.append("predictions_shop", rows.set_column(rows.column_names.index("score"), "score", scaled))
        interface = msgspec.structs.replace(INTERFACE, task="regression", classes=())
        state = rollout(Guardrail(metric="standardized_shift", margin=0.2, by_segment=False))
        found.append(cell(collect(lake, interface, state, NOW + 3 * DAY), "standardized_shift"))
    assert found[0].difference == pytest.approx(found[1].difference)
    assert found[0].half_width == pytest.approx(found[1].half_width)


def test_a_slower_tail_is_proven_and_an_equal_one_is_not(tmp_path: Path) -> None:
    rows, _, _ = world(days=12, each=1000)
    new = np.array(rows["revision"].to_pylist()) == "r-new"
    state = rollout(Guardrail(metric="latency_p95", margin=0.1, relative=True, by_segment=False))
    for factor, proven in ((1.0, False), (1.6, True)):
        lake = DeltaLake(tmp_path / str(factor))
        slow = (rows["latency_us"].to_numpy() * np.where(new, factor, 1.0)).astype(np.int64)
        lake.append("predictions_shop", rows.set_column(rows.column_names.index("latency_us"), "latency_us", [slow]))
        found = cell(collect(lake, INTERFACE, state, NOW + 12 * DAY), "latency_p95")
        assert found.proven is proven
        assert found.candidate_mean == pytest.approx(factor * found.champion_mean, rel=0.1)


def test_returning_units_raise_no_false_alarms() -> None:
    """Sums over units whose values grow with every visit: looked at daily, within the stated error rate.

    The sum at two looks is more alike than a Brownian motion's of the same variances, so its largest excess is smaller
    (Slepian 1962); here by simulation.
    """
    rng = np.random.default_rng(3)
    paths, days, units = 400, 25, 400
    treated = rng.random((paths, 1, units)) < 0.5
    visits = rng.poisson(0.3, (paths, days, units))
    habit = rng.gamma(2.0, 1.0, (paths, 1, units))
    total = np.cumsum(rng.poisson(habit * 0.5, visits.shape) * (visits > 0), axis=1).astype(float)
    came = np.cumsum(visits, axis=1) > 0
    sums = []
    for side in (False, True):
        inside = came & (treated == side)
        n = inside.sum(axis=2)
        mean = (total * inside).sum(axis=2) / np.maximum(n, 1)
        m2 = (np.square(total) * inside).sum(axis=2) - n * mean**2
        sums.append((n[..., None], mean[..., None], m2[..., None]))
    bounds = difference_bounds(sums[0], sums[1], 0.05, 100, one_sided=True)
    alarms = int((bounds.value > bounds.half_width).any(axis=1).sum())
    assert alarms <= stats.binom.ppf(0.999, paths, 0.05)


def test_a_candidate_that_forgot_one_end_of_a_number_is_found_in_its_band(tmp_path: Path) -> None:
    """Nobody named groups: a tenth of the rows lies above the last cut, and only there the candidate errs."""
    predictions, labels, _ = world(days=12)
    rng = np.random.default_rng(8)
    age = rng.uniform(0, 100, predictions.num_rows)
    truth = dict(zip(labels["prediction_id"].to_pylist(), labels["label"].to_pylist(), strict=True))
    ours = np.asarray([r == "r-new" for r in predictions["revision"].to_pylist()])
    known = [float(truth.get(name, "0")) for name in predictions["prediction_id"].to_pylist()]
    right = np.clip(np.asarray(known), 0.1, 0.9)
    score = np.where(ours & (age > 90), 1 - right, right)
    inputs = pa.array([{"age": float(a)} for a in age])
    for name, values in (("score", pa.array(score)), ("inputs", inputs)):
        predictions = predictions.set_column(predictions.column_names.index(name), name, values)
    lake = DeltaLake(tmp_path / "ages")
    lake.append("predictions_shop", predictions)
    lake.append("labels_shop", labels)
    aged = msgspec.structs.replace(
        INTERFACE,
        contract=Contract(name="shop", fields=(Field(name="age", type="number"),)),
        segments=("age",),
        bands={"age": (10.0, 50.0, 90.0)},
    )
    # over all the harm is within the margin; only in the band it is not
    asked = rollout(Guardrail(metric="brier", margin=0.15))
    found = collect(lake, aged, asked, NOW + timedelta(days=14))
    assert [c.segment for c in found.cells if c.proven] == [{"age": "90.."}]
    assert not cell(found, "brier").proven
