"""False alarms, power and delay of the rules that could roll a candidate back, over simulated rollouts.

    python benchmarks/rollouts/false_alarms.py [--paths 1000] [--units 20000] [--share 0.05] [--alpha 0.05]

Each path is one rollout at a constant share, judged every 100 units for "the candidate is higher (worse)". The row
`loss 0 %` is A/A: the share of paths that alarm must not exceed alpha for a rule that may be looked at always. Delay is
the median number of units, both arms together, over the paths that alarmed. GrowthBook is the formula of gbstats 0.8.0
(SequentialTwoSidedTTest, tuning 5000), two-sided as shipped; the others are one-sided. Same arguments, same table.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, stdtrit

from undrift.stats.betting import STAKES
from undrift.stats.sequential import difference_bounds

Array = NDArray[np.float64]
BLOCK = 100
LOSSES = (0.0, 0.01, 0.02, 0.05, 0.10, 0.50)
METRICS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Array]] = {
    "rate 0.01": lambda rng, shape: (rng.random(shape) < 0.01).astype(float),
    "rate 0.1": lambda rng, shape: (rng.random(shape) < 0.1).astype(float),
    "lognormal": lambda rng, shape: rng.lognormal(0, 1, shape),
}


def draw(metric: str, loss: float, rng: np.random.Generator, treated: NDArray[np.bool_]) -> Array:
    if metric.startswith("rate"):
        rate = float(metric.split()[1])
        return (rng.random(treated.shape) < np.where(treated, rate * (1 + loss), rate)).astype(float)
    return METRICS[metric](rng, treated.shape) * np.where(treated, 1 + loss, 1.0)


def at_looks(y: Array, arm: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """(n, mean, m2) of one arm at each look, shape (paths, looks)."""
    n, s, q = (np.cumsum(np.where(arm, v, 0.0), axis=1)[:, BLOCK - 1 :: BLOCK] for v in (np.ones_like(y), y, y * y))
    mean = s / np.maximum(n, 1)
    return n, mean, np.maximum(q - n * mean**2, 0)


def first(alarms: NDArray[np.bool_]) -> Array:
    """Units until the first alarm on each path, NaN without one."""
    return np.where(alarms.any(axis=1), (alarms.argmax(axis=1) + 1.0) * BLOCK, np.nan)


def rules(
    metric: str, y: Array, treated: NDArray[np.bool_], share: float, alpha: float, tuning: float
) -> dict[str, Array]:
    (n0, mean0, s0), (n1, mean1, s1) = at_looks(y, ~treated), at_looks(y, treated)
    gap = mean1 - mean0
    enough = (n0 >= 30) & (n1 >= 30)
    variance = s0 / np.maximum(n0 - 1, 1) / np.maximum(n0, 1) + s1 / np.maximum(n1 - 1, 1) / np.maximum(n1, 1)
    se = np.where(variance > 0, np.sqrt(variance), np.inf)
    ours = difference_bounds(
        (n0[..., None], mean0[..., None], s0[..., None]),
        (n1[..., None], mean1[..., None], s1[..., None]),
        alpha,
        tuning,
        one_sided=True,
    )
    found = {"confidence sequence": first(ours.value > ours.half_width)}
    if metric.startswith("rate"):
        center = float(metric.split()[1])
        z = np.where(treated, (y - center) / share, -(y - center) / (1 - share))
        ratio = z / max(center / share, (1 - center) / (1 - share))
        wealth = [np.cumsum(np.log1p(stake * ratio), axis=1)[:, BLOCK - 1 :: BLOCK] for stake in STAKES]
        found["betting e-process"] = first(logsumexp(wealth, axis=0) - math.log(len(STAKES)) >= math.log(1 / alpha))
    n = n0 + n1
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / 5000
    reach = np.sqrt(n * 2 * (n * rho2 + 1) * np.log(np.sqrt(n * rho2 + 1) / alpha) / (n * n * rho2))
    found["GrowthBook sequential"] = first(enough & (gap > se * reach))
    z_once = float(stdtrit(1e6, 1 - alpha))
    once = enough & (gap > z_once * se)
    found["t test, once at the end"] = np.where(once[:, -1], float(y.shape[1]), np.nan)
    found["t test, peeking (invalid)"] = first(once)
    return found


def table(metric: str, paths: int, units: int, share: float, alpha: float) -> list[tuple[float, str, float, float]]:
    rows = []
    for loss in LOSSES:
        delays: dict[str, list[Array]] = {}
        for chunk in range(math.ceil(paths / 100)):
            rng = np.random.default_rng([7, chunk])
            treated = rng.random((min(100, paths - 100 * chunk), units)) < share
            y = draw(metric, loss, rng, treated)
            tuning = units * share * (1 - share) / 4
            for rule, delay in rules(metric, y, treated, share, alpha, tuning).items():
                delays.setdefault(rule, []).append(delay)
        for rule, parts in delays.items():
            delay = np.concatenate(parts)
            alarmed = ~np.isnan(delay)
            rows.append(
                (loss, rule, float(alarmed.mean()), float(np.median(delay[alarmed])) if alarmed.any() else math.nan)
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=1000)
    parser.add_argument("--units", type=int, default=20_000)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--metric", choices=list(METRICS), action="append")
    chosen = parser.parse_args()
    print("| metric | loss | rule | alarmed | median delay, units |\n|---|---|---|---|---|")
    for metric in chosen.metric or METRICS:
        for loss, rule, share, delay in table(metric, chosen.paths, chosen.units, chosen.share, chosen.alpha):
            print(f"| {metric} | {loss:.0%} | {rule} | {share:.1%} | {'' if math.isnan(delay) else f'{delay:.0f}'} |")


if __name__ == "__main__":
    main()
