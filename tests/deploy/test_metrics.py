from __future__ import annotations

import re
from typing import Any

import pytest

from undrift.deploy.metrics import BUILT_IN, Metric, resolve
from undrift.deploy.plan import Plan, alpha_of_group
from undrift.deploy.strategy import Guardrail, Objective, Rollout
from undrift.errors import DeclarationError

REVENUE = Metric(name="revenue", of="event:order", better="higher", window="7d", bounds=(0, 500))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"of": "speed"}, "no value of a row"),
        ({"of": "event:"}, "no value of a row"),
        ({"of": "event:order"}, "`window` is"),
        ({"of": "latency", "window": "7d"}, "`window` is '7d'"),
        ({"of": "latency", "kind": "ratio"}, "`per` is ''"),
        ({"of": "latency", "kind": "ratio", "per": "visits"}, "`per` is 'visits'"),
        ({"of": "latency", "per": "rows"}, "its kind mean"),
        ({"of": "event:order", "kind": "ratio", "per": "rows", "window": "1d"}, "both from events"),
        ({"of": "latency", "covariate": "7d"}, "only events have a covariate"),
        ({"of": "latency", "kind": "quantile"}, "the quantile is 0.0"),
        ({"of": "latency", "kind": "quantile", "quantile": 0.9, "better": "higher"}, "the quantile is 0.9"),
        ({"of": "failed", "kind": "count"}, "only events are counted"),
        ({"of": "score", "kind": "auc"}, "built in"),
        ({"of": "latency", "bounds": (3.0, 2.0)}, "bounds"),
        ({"of": "latency", "maturity": "1d"}, "only labels mature"),
        ({"of": "error", "maturity": "soon"}, "soon"),
    ],
)
def test_a_metric_that_means_nothing_is_refused_with_what_to_do(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(says)) as refused:
        Metric(name="m", **wrong)
    assert refused.value.hint


def test_bounds_are_those_that_values_have_by_nature() -> None:
    assert resolve("brier", (), "binary").bounds == (0, 1)
    assert resolve("brier", (), "multiclass").bounds == (0, 2)  # squared error over all classes
    assert resolve("failed", (), "regression").bounds == (0, 1)
    assert resolve("shift", (), "binary").bounds == (0, 1)
    assert resolve("shift", (), "regression").bounds is None
    assert resolve("absolute_error", (), "regression").bounds is None
    assert resolve("revenue", (REVENUE,), "regression").bounds == (0, 500)


@pytest.mark.parametrize(
    ("name", "task"),
    [("brier", "regression"), ("absolute_error", "binary"), ("roc_auc", "multiclass"), ("b", "binary")],
)
def test_a_metric_that_the_task_does_not_have_is_refused(name: str, task: Any) -> None:
    with pytest.raises(DeclarationError, match=r"means nothing|no metric is named"):
        resolve(name, (REVENUE,), task)


def test_the_default_guardrails_mean_something_for_every_task() -> None:
    for task in ("binary", "multiclass", "regression"):
        plan = Plan.of(Rollout(), task)  # type: ignore[arg-type]
        assert [metric.name for metric in plan.metrics] == ["failed", "standardized_shift"]


def test_every_built_in_metric_is_a_declaration_of_its_own_name() -> None:
    assert all(name == metric.name for name, (metric, _) in BUILT_IN.items())


def test_harm_either_way_is_two_tests_and_an_objective_is_one_of_the_other_direction() -> None:
    declared = Rollout(
        guardrails=(Guardrail(metric="shift", margin=0.1), Guardrail(metric="revenue", margin=1.0)),
        metrics=(REVENUE,),
        objective=Objective(metric="revenue", at_least=2.0),
    )
    plan = Plan.of(declared, "binary")
    assert [(t.metric, t.guard, t.side, t.sides, t.margin) for t in plan.tests] == [
        (0, 0, 1.0, 2, 0.1),
        (0, 0, -1.0, 2, 0.1),
        (1, 1, -1.0, 1, 1.0),
        (1, -1, 1.0, 1, 2.0),
    ]
    assert plan.spans[1] == (7 * 86_400_000_000, 0)
    assert all(plan.exact(t) for t in range(4))
    assert not plan.labelled


def test_an_objective_may_name_a_metric_that_no_guardrail_does() -> None:
    plan = Plan.of(Rollout(metrics=(REVENUE,), objective=Objective(metric="revenue")), "binary")
    assert [metric.name for metric in plan.metrics] == ["failed", "standardized_shift", "revenue"]


@pytest.mark.parametrize("guards", [[True], [True, False], [False, False]])
def test_all_groups_together_never_spend_more_than_alpha(guards: list[bool]) -> None:
    known = 5 if any(guards) else 1
    over_all = len(guards) * alpha_of_group(0, known, 0.05, guards)
    inside = sum(guards) * sum(alpha_of_group(g, known, 0.05, guards) for g in range(1, 50_000)) if any(guards) else 0
    assert 0.0499 <= over_all + inside <= 0.05 + 1e-12


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"metrics": (REVENUE, REVENUE)}, "different names"),
        ({"objective": Objective(metric="failed", at_least=-1)}, "objective"),
        ({"objective": Objective(metric="failed", alpha=1.0)}, "objective"),
    ],
)
def test_a_rollout_whose_metrics_or_objective_make_no_sense_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        Rollout(**wrong)
