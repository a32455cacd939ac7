"""Coverage over time: in how many rollouts did an interval, looked at every 100 units, ever miss the truth?

    python benchmarks/rollouts/coverage.py [--paths 1000] [--units 10000]

Nominal is 95 % at all looks together. The plain 95 % interval (Welch), looked at as often, stands beside it.
"""

from __future__ import annotations

import argparse

import numpy as np
from populations import METRICS, arm_moments, sums
from rules import welch

from undrift.stats.betting import LONE_STAKES, LONE_WEIGHTS
from undrift.stats.compare import cuped
from undrift.stats.sequential import difference_bounds, mixture_multiplier
from undrift.stats.summary import PairMoments

ALPHA, TUNING = 0.05, 600.0
TRUE = {"rate 0.01": 0.01, "rate 0.1": 0.1, "lognormal": np.exp(0.5), "revenue": -0.2 * np.exp(0.5)}


def row(what: str, covered: float, plain: float | None, paths: int) -> None:
    beside = "" if plain is None else f"{plain:.1%}"
    print(f"| {what} | {covered:.1%} | {beside} | {paths} |", flush=True)


def differences(metric: str, share: float, paths: int, units: int) -> None:
    loss = 0.1
    missed = naive = 0
    for table in sums(metric, paths, units, share, loss):
        champion, candidate = arm_moments(table, 0), arm_moments(table, 1)
        truth = effect(metric, loss)
        bounds = difference_bounds(
            tuple(a[..., None] for a in champion),
            tuple(a[..., None] for a in candidate),
            ALPHA,
            TUNING,
            span=float(metric.startswith("rate")),
        )
        missed += int((np.abs(bounds.value - truth) > bounds.half_width).any(axis=(1, 2)).sum())
        gap, se, _ = welch(champion, candidate)
        enough = np.minimum(champion[0], candidate[0]) >= 30
        naive += int((enough & (np.abs(gap - truth) > 1.96 * se)).any(axis=(1, 2)).sum())
    row(f"difference, {metric}, share {share:.0%}", 1 - missed / paths, 1 - naive / paths, paths)


def effect(metric: str, loss: float) -> float:
    if metric == "ratio":
        habit = np.random.default_rng(0).gamma(2.0, 0.5, 4_000_000) * 0.2
        return float(np.clip(habit * (1 + loss), 0, 1).mean() - np.clip(habit, 0, 1).mean())
    return float(abs(TRUE[metric]) * loss)


def single(paths: int, units: int) -> None:
    for name in ("rate 0.1", "lognormal"):
        missed = 0
        for table in sums(name, paths, units, 0.5, 0.0):
            n, mean, m2 = arm_moments(table, 0)
            reach = np.sqrt(m2 / np.maximum(n - 1, 1) / np.maximum(n, 1)) * mixture_multiplier(n, ALPHA, TUNING)
            reach = reach * np.sqrt(1 + 50 / np.maximum(n, 1))  # as mean_sequence
            missed += int(((n >= 30) & (np.abs(mean - TRUE[name]) > reach)).any(axis=(1, 2)).sum())
        row(f"mean, {name}", 1 - missed / paths, None, paths)
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(paths):  # the interval misses the truth when the evidence against it, of either side, is proof
        x = (rng.random(units) < 0.01).astype(float)
        for values, truth in ((x, 0.01), (1 - x, 0.99)):
            wealth = np.log1p(np.multiply.outer(values / truth - 1, LONE_STAKES)).cumsum(axis=0) + np.log(LONE_WEIGHTS)
            if np.logaddexp.reduce(wealth, axis=1).max() >= np.log(2 / ALPHA):
                missed += 1
                break
    covered = 1 - missed / paths
    row("bounded mean, rate 0.01, at every unit", covered, None, paths)


def adjusted(paths: int, units: int) -> None:
    """CUPED: a covariate with correlation 0.8; effect 0.1."""
    rng = np.random.default_rng(4)
    missed, plain_width, width = 0, 0.0, 0.0
    for _ in range(paths // 4):
        treated = rng.random(units) < 0.5
        before = rng.normal(size=units)
        y = 0.8 * before + 0.6 * rng.normal(size=units) + 0.1 * treated
        out = False
        for n in range(200, units + 1, 200):
            pairs = [PairMoments.of(y[:n][treated[:n] == a], before[:n][treated[:n] == a]) for a in (False, True)]
            arms = cuped(pairs[0], pairs[1])
            sides = [([a.n], [a.mean], [a.m2]) for a in arms]
            bounds = difference_bounds(sides[0], sides[1], ALPHA, TUNING)
            out |= abs(float(bounds.value) - 0.1) > float(bounds.half_width)
        missed += out
        width += float(bounds.half_width)
        raw = [([p.n], [p.x.mean], [p.x.m2]) for p in pairs]
        plain_width += float(difference_bounds(raw[0], raw[1], ALPHA, TUNING).half_width)
    what = f"CUPED, r = 0.8 (width {width / plain_width:.2f} of the plain one)"
    row(what, 1 - missed / (paths // 4), None, paths // 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=1000)
    parser.add_argument("--units", type=int, default=10_000)
    chosen = parser.parse_args()
    print("| interval | covered at all looks | plain interval | paths |\n|---|---|---|---|")
    single(chosen.paths, chosen.units)
    adjusted(chosen.paths, chosen.units)
    for metric in METRICS:
        for share in (0.5, 0.05):
            differences(metric, share, chosen.paths, chosen.units)


if __name__ == "__main__":
    main()
