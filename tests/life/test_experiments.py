"""What a rollout can find at the traffic seen, a warning before one that cannot succeed, and events from a table."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from undrift import experiments, releases
from undrift.deploy.plan import alpha_of_group
from undrift.errors import DataError, DeclarationError, NotFoundError
from undrift.project import Project
from undrift.stats.planning import Design, units_needed

from living import ME, Alive, redeclared  # isort: skip
from town import LIVE, PER_DAY, TRAINED_DAYS, Town  # isort: skip


def orders(n: int, at: datetime = LIVE, **columns: list[object]) -> pa.Table:
    plain: dict[str, list[object]] = {
        "id": [f"o{i}" for i in range(n)],
        "unit": [f"r{TRAINED_DAYS * PER_DAY + i:06d}" for i in range(n)],
        "name": ["order"] * n,
        "value": [float(i % 5) for i in range(n)],
        "event_time": [at + timedelta(minutes=9 * i + 10) for i in range(n)],
    }
    return pa.table({**plain, **columns})


def test_without_traffic_there_is_nothing_to_plan_from_and_nothing_to_warn_of(two: Project) -> None:
    with pytest.raises(NotFoundError, match="a plan needs at least 30"):
        experiments.plan_experiment(two, metric="brier", effect=0.01)
    assert experiments.outlook(two) == ()


def test_without_a_champion_there_is_no_traffic(fresh: Project) -> None:
    with pytest.raises(NotFoundError, match="has no champion"):
        experiments.plan_experiment(fresh, metric="brier", effect=0.01)


def test_a_plan_is_made_of_the_spread_the_units_and_the_steps_that_were_seen(two: Project, alive: Alive) -> None:
    life = alive(two, Town(TRAINED_DAYS + 10))
    life.play(4)
    plan = experiments.plan_experiment(two, metric="brier", effect=0.02)
    rows = two.lake.scan("predictions_rides")
    assert rows is not None
    labels = two.lake.scan("labels_rides")
    assert labels is not None
    outcome = dict(zip(labels["prediction_id"].to_pylist(), labels["label"].to_pylist(), strict=True))
    losses = [
        (score - float(outcome[ride])) ** 2
        for ride, score in zip(rows["prediction_id"].to_pylist(), rows["score"].to_pylist(), strict=True)
        if ride in outcome
    ]
    assert plan.mean == pytest.approx(np.mean(losses))
    assert plan.deviation == pytest.approx(np.std(losses, ddof=1))
    assert plan.units_a_day == PER_DAY
    each = alpha_of_group(0, 4, 0.05, [True, True])
    assert plan.alpha == each / 2, "half of alpha for two guardrails over all, of which bets have the other half"
    assert plan.share == 0.7, "the last declared step before all"
    design = Design(deviation=plan.deviation, alpha=plan.alpha, power=0.8)
    assert plan.units == units_needed(design, 0.02, 0.7)
    assert plan.days is not None
    smaller = experiments.plan_experiment(two, metric="brier", effect=0.01)
    assert smaller.units == pytest.approx(4 * plan.units, rel=0.01)
    assert (plan.smallest < 0.02) == plan.feasible
    assert (plan.rollout, plan.smallest_now) == ("", None)


def test_a_rollout_under_way_says_what_it_could_find_by_now(two: Project, alive: Alive) -> None:
    life = alive(two, Town(TRAINED_DAYS + 10))
    life.play()
    state = releases.roll_out(two, actor=ME)
    life.service.follow()
    life.play(2)
    early = experiments.plan_experiment(two, metric="brier", effect=0.05)
    life.play(1)
    later = experiments.plan_experiment(two, metric="brier", effect=0.05)
    assert early.rollout == later.rollout == state.id
    assert early.smallest_now is not None
    assert later.smallest_now is not None
    assert later.smallest_now < early.smallest_now
    assert later.smallest_now < math.inf


def test_a_rollout_that_cannot_succeed_is_told_before_it_starts(two: Project, alive: Alive) -> None:
    life = alive(two, Town(TRAINED_DAYS + 10))
    life.play(2)
    assert experiments.outlook(two) == ()
    slow = "steps=(1, 50, 100), hold='1d', minimum_units=100, maximum='30d'"
    with redeclared(two, train="wide", rollout=slow) as changed:
        (warning,) = experiments.outlook(changed)
        assert warning == (
            "at 1 % the candidate sees 1.6 new units a day: 100 of them take 62 days, and the maximum is 30d"
        )
    many = "steps=(10, 20, 40, 100), hold='20d', minimum_units=10, maximum='30d'"
    with redeclared(two, train="wide", rollout=many) as changed:
        assert experiments.outlook(changed) == ("all steps together take 60 days at least, and the maximum is 30d",)


def test_events_of_a_table_count_once_and_can_be_planned_with(two: Project, alive: Alive) -> None:
    life = alive(two, Town(TRAINED_DAYS + 10))
    life.play(2)
    assert experiments.add_events(two, orders(200)) == 200
    assert experiments.add_events(two, orders(210)) == 210
    life.play(1)
    found = two.lake.scan("events_rides")
    assert found is not None
    assert found.num_rows == 210
    assert sorted(found["event_id"].to_pylist()) == sorted(f"o{i}" for i in range(210))
    plan = experiments.plan_experiment(two, metric="event:order", effect=0.2)
    sums = [float(i % 5) for i in range(210)] + [0.0] * (3 * PER_DAY - 210)
    assert plan.mean == pytest.approx(np.mean(sums)), "a unit without an event counts as nothing"
    assert plan.deviation == pytest.approx(np.std(sums, ddof=1))
    with pytest.raises(DataError, match="no event of the name 'refund'"):
        experiments.plan_experiment(two, metric="event:refund", effect=0.2)
    with pytest.raises(DeclarationError, match="no metric is named 'drift_score'"):
        experiments.plan_experiment(two, metric="drift_score", effect=0.2)


def test_a_table_with_one_wrong_event_is_not_taken_at_all(two: Project) -> None:
    cases = [
        (orders(3).drop(["id"]), "the events have no column id"),
        (orders(3, unit=["a", None, "c"]), "event 1 of the table: unit=None"),
        (orders(3, value=[1.0, 2.0, math.nan]), "event 2 of the table: value=nan"),
        (orders(3, event_time=["2024-01-01T00:00:00"] * 3), "event 0 of the table: event_time='2024-01-01T00:00:00'"),
    ]
    for table, told in cases:
        with pytest.raises(DataError) as caught:
            experiments.add_events(two, table)
        assert told in caught.value.message
    spool = two.settings.path(two.settings.stores.spool)
    assert not list(spool.glob("*/*.seg"))
