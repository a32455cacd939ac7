"""The cells of a rollout's evidence: each guardrail over all and in each segment, with its difference and its proof.

From the sums of a tally alone, all segments of a metric in one go. Three kinds of proof, all valid at every look: exact
bets (values in a known range), exact counts (quantiles), and the confidence sequence (everything else).
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from undrift.deploy.plan import Test, alpha_of_group
from undrift.deploy.strategy import Rollout
from undrift.deploy.tally import Tally
from undrift.stats.betting import log_e_value
from undrift.stats.quantiles import evidence_of_later, glance_of_later, quantile
from undrift.stats.ranking import auc_by_counts
from undrift.stats.sequential import Bounds, asymptotic_bounds, difference_bounds

__all__ = ["FEWEST_UNITS", "Cell", "cells_of", "labelled_cell", "tuning_of"]

FEWEST_UNITS: Final = 8
"""Candidate units below which a segment is not looked at; exact bets need no more than that."""
FEWEST_OF_A_CLASS: Final = 30
"""Units of each class in each arm below which the area under a ROC curve has no bound."""
MISSING_ALPHA: Final = 0.001
"""Error rate at which the arms are said to lack labels to a different degree."""
_LEAST_TUNING: Final = 300.0

Floats = NDArray[np.float64]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One guardrail (or the objective) in one group: the value of both arms, and the proof of a loss beyond the margin.

    ``difference`` is the loss: positive is worse for a guardrail, better for the objective; with ``relative`` it is the
    candidate's value less (1 + margin) times the champion's, and the margin that it is held against is 0.
    ``half_width`` is that of the anytime-valid difference (infinite where too little was seen), ``e_value`` exact
    evidence against "at most the margin". The proof is by the first (``sequence``), by the second (``exact``) or, for
    means of values in a known range, by either, each at half of ``alpha``.
    """

    metric: str
    segment: dict[str, str]
    margin: float
    champion_units: int
    candidate_units: int
    champion_mean: float
    candidate_mean: float
    difference: float
    half_width: float
    e_value: float = 0.0
    alpha: float = 0.05
    exact: bool = False
    sequence: bool = True
    certain: bool = False
    objective: bool = False
    two_sided: bool = False
    relative: float = 0.0
    problem: str = ""

    @property
    def proven(self) -> bool:
        """Whether the difference is certainly beyond the margin."""
        ways = self.exact + self.sequence
        if self.exact and self.e_value >= ways / self.alpha:
            return True
        return self.sequence and self.difference - self.half_width > self.margin

    @property
    def within(self) -> bool:
        """Whether the difference is certainly not beyond the margin."""
        return self.difference + self.half_width <= self.margin


def tuning_of(declared: Rollout) -> float:
    """Candidate units at which the confidence sequence is tightest: what the declared steps need together, twice."""
    return max(_LEAST_TUNING, 2.0 * declared.minimum_units)


def cells_of(tally: Tally, declared: Rollout) -> tuple[tuple[Cell, ...], int, int]:
    """All cells with something to compare, the number of tests among known groups, and the segments that are thin."""
    plan = tally.plan
    guards = [guard.by_segment for guard in declared.guardrails]
    cells: list[Cell] = []
    thin: set[int] = set()
    groups = range(len(tally.groups) if any(guards) else 1)
    alphas = np.array([alpha_of_group(g, tally.known, declared.alpha, guards) for g in groups])
    seen: dict[tuple[int, int], Cell] = {}
    for t, test in enumerate(plan.tests):
        here = groups if test.by_segment else groups[:1]
        objective = test.guard < 0
        alpha = np.array([declared.objective.alpha]) if objective and declared.objective else alphas[: len(here)]
        arms = _arms(tally, test, len(here))
        logs = _evidence(tally, t, test, np.log(test.sides / alpha))
        # a count of events says all there is to say; a mean may vary far less than its range allows
        sequence = logs is None or plan.metrics[test.metric].kind == "mean"
        ways = test.sides * (1 + (sequence and logs is not None))
        bounds = _bounds(tally, test, arms, alpha / ways, tuning_of(declared))
        if plan.metrics[test.metric].name == "standardized_shift":
            spread = _spread(tally, test)
            bounds = Bounds(bounds.value / spread, bounds.half_width / spread)
        metric = plan.metrics[test.metric]
        problem = _problem(tally, test)
        e_values = np.zeros(len(here)) if logs is None else np.exp(np.minimum(logs, 700.0)) / test.sides
        columns = (arms.n.astype(np.int64), arms.value, bounds.value, bounds.half_width, e_values, alpha)
        for g, (n0, n1), (old, new), gap, half, e_value, level in zip(
            here, *(column.tolist() for column in columns), strict=True
        ):
            if g and n1 < FEWEST_UNITS:
                thin |= {g} if n0 + n1 else set()
                continue
            margin = test.segment_margin if g else test.margin
            cell = Cell(
                metric=metric.name,
                segment=dict([tally.groups[g]]) if g else {},
                margin=0.0 if test.relative else margin,
                champion_units=n0,
                candidate_units=n1,
                champion_mean=old,
                candidate_mean=new,
                difference=gap,
                half_width=half,
                e_value=e_value,
                alpha=level,
                exact=logs is not None,
                sequence=sequence,
                certain=test.certain,
                objective=objective,
                two_sided=test.sides == 2,
                relative=margin if test.relative else 0.0,
                problem=problem if not g and n0 + n1 else "",
            )
            other = seen.get((test.guard, g))
            if other is None:
                seen[test.guard, g] = cell
            elif cell.difference > other.difference or cell.proven:
                # either way is harm: the direction that it went
                seen[test.guard, g] = msgspec.structs.replace(cell, e_value=max(cell.e_value, other.e_value))
            else:
                seen[test.guard, g] = msgspec.structs.replace(other, e_value=max(cell.e_value, other.e_value))
    cells = [seen[key] for key in sorted(seen, key=lambda k: (k[0] < 0, k))]
    return tuple(cells), len(guards) + sum(guards) * (tally.known - 1), len(thin)


def labelled_cell(tally: Tally) -> Cell:
    """The share of units with a label in both arms, by stratum: what one arm lacks biases every metric of labels."""
    whole = tally.group == 0
    asked = next(i for i, metric in enumerate(tally.plan.metrics) if metric.labelled)
    has = tally.values[whole, asked, 1] > 0
    strata = len(tally.strata)
    place = tally.stratum[whole].astype(np.int64) * 2 + tally.arm[whole]
    n, k = (np.bincount(place, w, strata * 2).reshape(strata, 2) for w in (np.ones(len(has)), has.astype(np.float64)))
    share = k / np.maximum(n, 1)
    arms = [(n[:, a], share[:, a], k[:, a] * (1 - share[:, a])) for a in (0, 1)]
    bounds = difference_bounds(arms[0], arms[1], MISSING_ALPHA, _LEAST_TUNING)
    total, known = n.sum(axis=0), k.sum(axis=0)
    rate = known / np.maximum(total, 1)
    return Cell(
        metric="labelled",
        segment={},
        margin=0.0,
        champion_units=int(total[0]),
        candidate_units=int(total[1]),
        champion_mean=float(rate[0]),
        candidate_mean=float(rate[1]),
        difference=abs(float(bounds.value)),
        half_width=float(bounds.half_width),
        alpha=MISSING_ALPHA,
        two_sided=True,
    )


class _Values(msgspec.Struct, frozen=True):
    """Units and value of both arms, shape (groups, 2), and the moments of each stratum, shape (groups, strata, 2)."""

    n: Floats
    value: Floats
    moments: tuple[Floats, Floats, Floats] | None = None


def _arms(tally: Tally, test: Test, groups: int) -> _Values:
    metric = tally.plan.metrics[test.metric]
    if metric.kind == "quantile":
        counts = tally.counts[test.metric][:groups].sum(axis=1)
        return _Values(np.rint(counts.sum(axis=-1)), quantile(counts, metric.quantile))
    if metric.kind == "auc":
        counts = tally.scored[test.metric][:groups].sum(axis=1)
        area, _ = auc_by_counts(counts[..., 0, :], counts[..., 1, :])
        return _Values(counts.sum(axis=(-1, -2)), area)
    sums = tally.sums[test.metric, :groups]
    if metric.kind == "ratio" or metric.covariate:
        sums = _by_share(tally, sums)
    n = sums[..., 0]
    total = n.sum(axis=1)
    center = tally.centers[test.metric, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = center + sums[..., 1] / n
        m2 = np.maximum(sums[..., 2] - sums[..., 1] ** 2 / n, 0.0)
        value = center + sums[..., 1].sum(axis=1) / total
        if metric.kind == "ratio":
            below = sums[..., 3].sum(axis=1)
            value = value * total / below
            my = sums[..., 3] / n
            ratio = mean / my
            m2y = sums[..., 4] - sums[..., 3] ** 2 / n
            cxy = sums[..., 5] - sums[..., 1] * sums[..., 3] / n
            m2 = np.maximum(m2 - 2 * ratio * cxy + ratio**2 * m2y, 0.0) / my**2
            mean, n = np.where(my > 0, ratio, 0.0), np.where(my > 0, n, 0.0)
            m2 = np.where(my > 0, m2, 0.0)
    if metric.covariate:
        mean, m2 = _adjusted(sums, center)
    return _Values(total, value, (n, np.nan_to_num(mean), np.nan_to_num(m2)))


def _spread(tally: Tally, test: Test) -> float:
    """Standard deviation of the champion's units over all; 1 where they do not vary."""
    n, x, xx = (float(v) for v in tally.sums[test.metric, 0, :, 0, :3].sum(axis=0))
    return math.sqrt(max(xx - x * x / n, 0.0) / (n - 1)) or 1.0 if n > 1 else 1.0


def _by_share(tally: Tally, sums: Floats) -> Floats:
    """Days of one share together: a ratio and a slope want more units than a day of a segment has."""
    merged = np.zeros((sums.shape[0], len(tally.shares), *sums.shape[2:]))
    for stratum, place in enumerate(tally.share_of()):
        merged[:, place] += sums[:, stratum]
    return merged


def _adjusted(sums: Floats, center: float) -> tuple[Floats, Floats]:
    """Means and squared deviations with the covariate's part taken out, in each group and stratum by itself.

    `stats.compare.cuped` for all at once: theta is the slope over both arms together.
    """
    n, x, xx, y, yy, xy = (sums[..., i] for i in range(6))
    safe = np.maximum(n, 1)
    both = np.maximum(n.sum(axis=-1), 1)
    slope = xy.sum(axis=-1) - x.sum(axis=-1) * y.sum(axis=-1) / both
    spread = yy.sum(axis=-1) - np.square(y.sum(axis=-1)) / both
    theta = np.where(spread > 0, slope / np.where(spread > 0, spread, 1.0), 0.0)[..., None]
    shared = (y.sum(axis=-1) / both)[..., None]
    mean = x / safe - theta * (y / safe - shared) + center
    mx, my = np.maximum(xx - x * x / safe, 0.0), np.maximum(yy - y * y / safe, 0.0)
    m2 = np.maximum(mx - 2 * theta * (xy - x * y / safe) + theta * theta * my, 0.0)
    return np.where(n > 0, mean, 0.0), np.where(n > 0, m2, 0.0)


def _bounds(tally: Tally, test: Test, arms: _Values, alpha: Floats, tuning: float) -> Bounds:
    """The loss and its half-width in each group."""
    groups = len(arms.n)
    margin = np.full(groups, test.segment_margin)
    margin[0] = test.margin
    weight = 1 + test.side * margin if test.relative else np.ones(groups)
    metric = tally.plan.metrics[test.metric]
    if arms.moments is not None:
        n, mean, m2 = arms.moments
        scale = weight[:, None]
        return difference_bounds(
            (n[..., 0], test.side * scale * mean[..., 0], scale**2 * m2[..., 0]),
            (n[..., 1], test.side * mean[..., 1], m2[..., 1]),
            alpha,
            tuning,
            one_sided=True,
            span=metric.bounds[1] - metric.bounds[0] if metric.kind == "proportion" and metric.bounds else 0.0,
        )
    gap = test.side * (arms.value[:, 1] - weight * arms.value[:, 0])
    if metric.kind == "quantile":
        return Bounds(gap, np.full(groups, np.inf))
    counts = tally.scored[test.metric][:groups]
    area, variance = auc_by_counts(counts[..., 0, :], counts[..., 1, :])
    n = counts.sum(axis=(-1, -2))
    enough = np.minimum(counts[..., 0, :].sum(axis=-1), counts[..., 1, :].sum(axis=-1)).min(axis=-1)
    usable = enough >= FEWEST_OF_A_CLASS
    h = np.where(usable, n[..., 0] * n[..., 1] / np.maximum(n.sum(axis=-1), 1), 0.0)
    scale = weight[:, None]
    loss = test.side * (area[..., 1] - scale * area[..., 0])
    spread = variance[..., 1] + scale**2 * variance[..., 0]
    return asymptotic_bounds(
        np.where(usable, loss, 0.0), np.where(usable, spread, 0.0), h, alpha, tuning, one_sided=True
    )


def _evidence(tally: Tally, t: int, test: Test, wanted: Floats) -> Floats | None:
    """Log e-values against "at most the margin", where they are exact; `wanted` in each group is proof.

    Evidence of quantiles is worked out only where a glance leaves a proof possible; elsewhere the glance is told.
    """
    metric, groups = tally.plan.metrics[test.metric], len(wanted)
    if tally.plan.exact(t):
        return log_e_value(tally.wealth[t, :groups], tally.plan.family(t))
    if metric.kind != "quantile" or test.side < 0:
        return None
    margins = np.full(groups, test.segment_margin)
    margins[0] = test.margin
    tables, shares = tally.counts[test.metric][:groups], np.array(tally.shares)
    # a share of few units adds nothing but the price of a bet
    usable = (tables.sum(axis=-1).min(axis=-1) >= FEWEST_UNITS) & (shares > 0) & (shares < 1)
    glances = glance_of_later(
        tables[:, :, 0],
        tables[:, :, 1],
        metric.quantile,
        margin=margins[:, None],
        relative=test.relative,
        share=np.clip(shares, 1e-6, 1 - 1e-6),
    )
    logs = np.where(usable, glances, 0.0).sum(axis=1)
    for group in np.flatnonzero(logs >= wanted):
        logs[group] = 0.0
        for place in np.flatnonzero(usable[group]):
            logs[group] += evidence_of_later(
                tables[group, place, 0],
                tables[group, place, 1],
                metric.quantile,
                margin=float(margins[group]),
                relative=test.relative,
                share=float(shares[place]),
            )
    return np.asarray(logs)


def _problem(tally: Tally, test: Test) -> str:
    """Why a metric says nothing over all, where it should."""
    metric = tally.plan.metrics[test.metric]
    if metric.events:
        parts = (0, 2) if metric.kind == "ratio" or metric.covariate else (0,)
        if not any(tally.values[:, test.metric, part].any() for part in parts):
            return f"no unit has had an event {' or '.join(map(repr, metric.events))}; is it sent under that name?"
    if metric.kind == "ratio":
        below = tally.sums[test.metric, 0].sum(axis=0)  # of each arm: units, and the total of the denominator
        if (below[:, 0] > 0).all() and not below[:, 3].all():
            return "its denominator is zero in one arm"
    return ""
