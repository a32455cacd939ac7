"""What a declared rollout comes down to: the metrics that are counted and the one-sided tests that share alpha.

A guardrail where either way is harm is two tests, an objective is one of the other direction. The plan is fixed when
the rollout starts, so nothing that is seen can change what is asked.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from undrift.deploy.metrics import Metric, resolve
from undrift.deploy.strategy import Rollout
from undrift.develop.bundle import Task
from undrift.ids import duration
from undrift.stats.betting import Family

__all__ = ["LATER", "WHOLE", "Plan", "Test", "alpha_of_group"]

WHOLE: Final = 0.5
"""Part of alpha of the guardrails over all, where there are segments too: harm to all is found as soon with many."""
LATER: Final = 0.1
"""Part of alpha kept for segments that were not known when the first outcome was judged."""


class Test(msgspec.Struct, frozen=True, kw_only=True):
    """A null hypothesis: the loss (times ``side`` the candidate's value less the champion's) is at most the margin.

    ``metric`` is a place in `Plan.metrics`, ``guard`` the place of the guardrail, -1 for the objective; ``sides`` is 2
    where its alpha is shared with a test of the other direction.
    """

    __test__ = False  # not one of pytest's

    metric: int
    guard: int
    side: float
    margin: float
    segment_margin: float
    by_segment: bool
    relative: bool
    certain: bool
    sides: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics, tests, and for each metric the microseconds of its window and of its covariate's."""

    metrics: tuple[Metric, ...]
    tests: tuple[Test, ...]
    spans: tuple[tuple[int, int], ...]
    maturities: tuple[int, ...]

    @classmethod
    def of(cls, declared: Rollout, task: Task) -> Plan:
        """The plan of a declaration for a task; metrics that the task does not have are refused.

        Raises
        ------
        DeclarationError : a metric is unknown, or means nothing for the task.
        """
        named = [guard.metric for guard in declared.guardrails]
        if declared.objective is not None and declared.objective.metric not in named:
            named.append(declared.objective.metric)
        metrics = tuple(resolve(name, declared.metrics, task) for name in named)
        tests = []
        for i, guard in enumerate(declared.guardrails):
            same = metrics[i].better == "same"
            for side in (1.0, -1.0) if same else (metrics[i].sign,):
                within = guard.margin if guard.segment_margin is None else guard.segment_margin
                tests.append(
                    Test(
                        metric=i,
                        guard=i,
                        side=side,
                        margin=guard.margin,
                        segment_margin=within,
                        by_segment=guard.by_segment,
                        relative=guard.relative,
                        certain=guard.certain,
                        sides=2 if same else 1,
                    )
                )
        if declared.objective is not None:
            i = named.index(declared.objective.metric)
            wanted = declared.objective.at_least
            tests.append(
                Test(
                    metric=i,
                    guard=-1,
                    side=-metrics[i].sign,
                    margin=wanted,
                    segment_margin=wanted,
                    by_segment=False,
                    relative=False,
                    certain=True,
                    sides=1,
                )
            )
        spans = tuple((_micros(m.window), _micros(m.covariate)) for m in metrics)
        return cls(
            metrics=metrics, tests=tuple(tests), spans=spans, maturities=tuple(_micros(m.maturity) for m in metrics)
        )

    @property
    def labelled(self) -> bool:
        """Whether any metric needs labels; if none does, a unit counts as soon as it was answered."""
        return any(m.labelled for m in self.metrics)

    def exact(self, test: int) -> bool:
        """Whether bets prove it, at any number of units: means of values in a known range."""
        asked = self.tests[test]
        metric = self.metrics[asked.metric]
        if metric.bounds is None or metric.kind not in ("mean", "proportion") or metric.covariate:
            return False
        span = metric.bounds[1] - metric.bounds[0]
        return asked.relative or max(asked.margin, asked.segment_margin) < span

    def family(self, test: int) -> Family:
        """What bets on a test are made on: rates, or means."""
        return "rate" if self.metrics[self.tests[test].metric].kind == "proportion" else "mean"

    def bets_on(self, metric: int) -> list[int]:
        """The tests of a metric that bets prove."""
        return [i for i, test in enumerate(self.tests) if test.metric == metric and self.exact(i)]


def alpha_of_group(group: int, known: int, alpha: float, guards: list[bool]) -> float:
    """The share of alpha of one guardrail in a group.

    `WHOLE` of it goes to the guardrails over all, alike; `LATER`, dwindling, to groups that come later; the rest,
    alike, to the known segments (weighted Bonferroni: the shares sum to at most alpha).

    Parameters
    ----------
    group, known : place of the group (0: over all), and how many were known before any outcome was judged.
    guards : for each guardrail, whether it is judged by segment too.

    >>> whole, segment = (alpha_of_group(k, 3, 0.05, [True, False]) for k in (0, 1))
    >>> later = sum(alpha_of_group(k, 3, 0.05, [True, False]) for k in range(3, 100_000))
    >>> 0.0499 < 2 * whole + 2 * segment + later <= 0.05  # two over all, one in each of two segments, all later ones
    True
    """
    by_segment = sum(guards)
    if not by_segment:
        return alpha / len(guards)
    whole = WHOLE if known > 1 else 1.0 - LATER
    if group == 0:
        return alpha * whole / len(guards)
    if group < known:
        return alpha * (1.0 - LATER - whole) / (by_segment * (known - 1))
    later = group - known + 1
    return alpha * LATER * 6 / (math.pi * later) ** 2 / by_segment


def _micros(text: str) -> int:
    return int(duration(text).total_seconds() * 1e6) if text else 0
