"""Simulated traffic whose truth is known, as running sums per arm at every look: what the other scripts here judge.

A path is one rollout at a constant share; every 100 units somebody looks. Sums of x and x^2 (ratios: also y, y^2 and
xy) per arm and segment are all a judge sees, here as in undrift. Same seed, same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BLOCK = 100
CHUNK = 100
#: name -> champion's rate for binary ones, 0 for others
METRICS = {"rate 0.01": 0.01, "rate 0.1": 0.1, "lognormal": 0.0, "revenue": 0.0, "ratio": 0.0}
UNIT_ROWS = 5


def sums(
    metric: str, paths: int, units: int, share: float, loss: float, *, segments: int = 1, seed: int = 7
) -> Iterator[Array]:
    """Chunks of running sums, shape (paths, looks, segments, arm, sum): n, x, x^2 and for ratios y, y^2, xy.

    `loss` makes the candidate's mean worse by that share. Binary: each unit fails or not. Lognormal: sigma 1, as a cost
    or a latency. Revenue: one unit in five buys, for a lognormal amount; taken negative, so that higher is worse.
    Ratio: clicks over views, of which a unit has 1 to 5 and a habit of its own, so that its views are alike.
    """
    for number in range(-(-paths // CHUNK)):
        count = min(CHUNK, paths - number * CHUNK)
        rng = np.random.default_rng([seed, number])
        looks = units // BLOCK
        if METRICS[metric]:
            yield np.cumsum(binary(METRICS[metric], rng, (count, looks, segments), share, loss), axis=1)
            continue
        treated = rng.random((count, units)) < share
        segment = rng.integers(0, segments, (count, units), dtype=np.int32)
        place = np.arange(count, dtype=np.int32)[:, None] * looks + np.arange(units, dtype=np.int32)[None, :] // BLOCK
        cell = ((place * segments + segment) * 2 + treated).ravel()
        cells = count * looks * segments * 2
        columns = values(metric, rng, treated, loss)
        parts = [np.bincount(cell, minlength=cells)] + [np.bincount(cell, c.ravel(), cells) for c in columns]
        table = np.stack(parts, axis=-1).astype(np.float64).reshape(count, looks, segments, 2, len(parts))
        yield np.cumsum(table, axis=1)


def binary(rate: float, rng: np.random.Generator, shape: tuple[int, int, int], share: float, loss: float) -> Array:
    """What each look adds, drawn as counts: of units no more is to be known than their arm and their 0 or 1."""
    here = rng.multinomial(BLOCK, np.full(shape[2], 1 / shape[2]), size=shape[:2])
    treated = rng.binomial(here, share)
    n = np.stack([here - treated, treated], axis=-1)
    ones = rng.binomial(n, np.array([rate, rate * (1 + loss)]))
    return np.stack([n, ones, ones], axis=-1).astype(np.float64)


def values(metric: str, rng: np.random.Generator, treated: NDArray[np.bool_], loss: float) -> list[Array]:
    factor = np.where(treated, 1 + loss, 1.0)
    if metric == "lognormal":
        x = rng.lognormal(0, 1, treated.shape) * factor
        return [x, np.square(x)]
    if metric == "revenue":
        less = np.where(treated, 1 - loss, 1.0)
        x = -rng.lognormal(0, 1, treated.shape) * (rng.random(treated.shape) < 0.2) * less
        return [x, np.square(x)]
    views = rng.integers(1, UNIT_ROWS + 1, treated.shape).astype(np.float64)
    habit = np.clip(0.2 * factor * rng.gamma(2.0, 0.5, treated.shape), 0, 1)
    clicks = rng.binomial(views.astype(np.int64), habit).astype(np.float64)
    return [clicks, np.square(clicks), views, np.square(views), clicks * views]


def arm_moments(table: Array, arm: int) -> tuple[Array, Array, Array]:
    """(n, mean, sum of squared deviations) of an arm, shape (paths, looks, segments); of ratios the linearised ones."""
    part = table[..., arm, :]
    n = np.maximum(part[..., 0], 1e-9)
    mean = part[..., 1] / n
    m2 = np.maximum(part[..., 2] - n * mean**2, 0)
    if part.shape[-1] == 3:
        return part[..., 0], mean, m2
    my = part[..., 3] / n
    safe = np.where(my > 0, my, 1.0)
    r = mean / safe
    m2y, cxy = part[..., 4] - n * my**2, part[..., 5] - n * mean * my
    return part[..., 0], r, np.maximum(m2 - 2 * r * cxy + r * r * m2y, 0) / safe**2
