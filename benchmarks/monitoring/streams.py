"""Simulated streams with a known truth: 30 columns, days and weeks with a rhythm, days like the day before.

Each numeric column has a weekday effect, an hour effect and a daily shock that follows the one before (AR(1), 0.6);
categories' logits do the same; two columns go together; a label follows a known logistic law, and the score is that
law, so the model is right until a change says otherwise. A day is a window. Nothing is judged here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

REFERENCE_DAYS = 98
WINDOWS = 200
"""Days after the reference, each the end of a window."""
WATCHED = 21
"""Windows after the onset in which a change may be found."""
DELAY = 3
"""Days until a label is known."""
ROWS = 500
ONSET = 100
LEVELS = 6
STRENGTHS = {
    "mean": (0.25, 0.5, 1.0),
    "variance": (1.25, 1.5, 2.0),
    "category": (0.05, 0.1, 0.25),
    "missing": (0.05, 0.1, 0.3),
    "unit": (1.3, 1.8, 2.54),
    "correlation": (0.3, 0.0, -0.6),
    "segment": (0.5, 1.0, 2.0),
    "concept": (0.4, 0.0, -0.8),
}
CHANGED = {
    "mean": "n5",
    "variance": "n6",
    "category": "c1",
    "missing": "n7",
    "unit": "n8",
    "correlation": "n1",
    "segment": "n9",
    "concept": "n2",
}
"""The column that changes: an alarm about another one finds nothing."""


@dataclass(frozen=True)
class Day:
    """One day: numbers (rows, 20), categories (rows, 10) as codes, hours, score, label."""

    numbers: np.ndarray
    categories: np.ndarray
    seconds: np.ndarray
    score: np.ndarray
    label: np.ndarray


def stream(seed: int, days: range, change: str = "", strength: float = 0.0, rows: int = ROWS) -> dict[int, Day]:
    """The days asked for; day 0 is the first after the reference, a change begins with day `ONSET`."""
    world = np.random.default_rng([seed, 1])
    weekday = world.normal(0, 0.15, (7, 20))
    hour = world.normal(0, 0.3, 20)
    logits = world.normal(0, 0.7, (10, LEVELS))
    shocks = np.random.default_rng([seed, 2])
    state, categories = np.zeros(20), np.zeros((10, LEVELS))
    made = {}
    for day in range(-REFERENCE_DAYS - 10, days.stop):
        state = 0.6 * state + shocks.normal(0, 0.15 * np.sqrt(1 - 0.36), 20)
        categories = 0.6 * categories + shocks.normal(0, 0.15 * np.sqrt(1 - 0.36), (10, LEVELS))
        if day in days:
            changed = change if day >= ONSET else ""
            made[day] = _day(seed, day, rows, weekday[day % 7] + state, hour, logits + categories, changed, strength)
    return made


def _day(
    seed: int, day: int, n: int, level: np.ndarray, hour: np.ndarray, logits: np.ndarray, change: str, strength: float
) -> Day:
    rng = np.random.default_rng([seed, 3, day + 1000])
    seconds = np.sort(rng.integers(0, 86_400, n))
    x = rng.normal(0, 1, (n, 20))
    together = strength if change == "correlation" else 0.6
    x[:, 1] = together * x[:, 0] + np.sqrt(1 - together**2) * x[:, 1]
    x += level + np.sin(seconds / 86_400 * 2 * np.pi)[:, None] * hour
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    if change == "category":
        moved = np.zeros(LEVELS)
        moved[int(p[1].argmin())] = 1
        p[1] = (1 - strength) * p[1] + strength * moved
    codes = np.column_stack([(rng.random(n)[:, None] > np.cumsum(each)[None, :-1]).sum(axis=1) for each in p])
    if change == "mean":
        x[:, 5] += strength
    if change == "variance":
        x[:, 6] *= strength
    if change == "missing":
        x[rng.random(n) < strength, 7] = np.nan
    if change == "unit":
        x[:, 8] = (x[:, 8] + 3) * strength - 3
    if change == "segment":
        x[codes[:, 0] == 0, 9] += strength
    law = -1.0 + 0.8 * x[:, 2] + 0.5 * x[:, 3]
    real = -1.0 + (strength if change == "concept" else 0.8) * x[:, 2] + 0.5 * x[:, 3]
    label = (rng.random(n) < 1 / (1 + np.exp(-real))).astype(float)
    return Day(x, codes, seconds, 1 / (1 + np.exp(-law)), label)
