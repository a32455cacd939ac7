"""Contributions of inputs to one answer of any function: Shapley values by sampled orders, and LIME.

Both ask the function about mixtures of the row explained and background rows, and know nothing of what it is. What the
inputs are, and which function is asked, stands in develop/explain.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["OWN", "LocalModel", "Shapley", "local_model", "shapley"]

Floats = NDArray[np.float64]
Mixture = Callable[[NDArray[np.intp]], Floats]
"""Answers for mixtures: entry ``[i, j]`` says from which background row mixture i has its input j; `OWN` keeps it."""

OWN: Final = -1
_CHUNK: Final = 8192
_SAMPLES_AT_ONCE: Final = 250
_KERNEL_WIDTH: Final = 0.75
_RIDGE: Final = 1.0


class Shapley(NamedTuple):
    """Contributions of d inputs: ``base + values.sum()`` is the answer for the row, exactly.

    ``base``: the mean answer over the background rows used. ``errors``: standard error of each contribution from the
    sampling of orders, NaN where one round alone was made. ``rows``: background rows used; ``rounds``: whole rounds.
    """

    base: float
    values: Floats
    errors: Floats
    rows: int
    rounds: int


def shapley(
    answers: Mixture,
    d: int,
    background: int,
    rng: np.random.Generator,
    *,
    rounds: int = 2,
    go_on: Callable[[], bool] = lambda: True,
) -> Shapley:
    """Shapley values of one row by sampled orders of the inputs.

    Each background row is turned into the row explained, one input after the other in a random order, and back in the
    same order (the reversed order of the first: antithetic sampling). What the answer changes when an input is turned
    is its contribution; the mean over orders is an unbiased estimate of the Shapley value of the game in which absent
    inputs are drawn from the background.

    Parameters
    ----------
    answers : the function, over mixtures.
    d, background : how many inputs and background rows there are, 1 or more.
    rounds : how often each background row is used. One round asks ``2 * d * background`` answers.
    go_on : asked between chunks of 1, 2, 4, ... background rows; where it says no, what was done so far is returned.

    Notes
    -----
    Štrumbelj and Kononenko, "Explaining prediction models and individual predictions with feature contributions",
    Knowledge and Information Systems 41 (2014), 647-665, algorithm 2; the reversed orders after Mitchell et al.,
    "Sampling permutations for Shapley value estimation", JMLR 23 (2022), section 2.2.

    Examples
    --------
    >>> table = np.array([[0.0, 0.0], [2.0, 4.0], [5.0, 1.0]])  # two background rows, then the row explained
    >>> found = shapley(lambda take: table[take, [0, 1]] @ [1.0, 10.0], 2, 2, np.random.default_rng(0))
    >>> found.base, found.values.tolist(), found.errors.tolist()
    (21.0, [4.0, -10.0], [0.0, 0.0])
    """
    if d < 1 or background < 1:
        raise ValueError(f"at least one input and one background row are needed, got {d} and {background}")
    most, at_once = max(1, _CHUNK // (2 * d)), 1
    kept: list[list[Floats]] = [[] for _ in range(background)]
    starts = np.full(background, np.nan)
    for _ in range(rounds):
        order = rng.permutation(background)
        done = 0
        while done < background:
            rows = order[done : done + at_once]
            done, at_once = done + len(rows), min(2 * at_once, most)
            changes, start = _walk(answers, d, rows, rng)
            starts[rows] = start
            for row, change in zip(rows.tolist(), changes, strict=True):
                kept[row].append(change)
            if not go_on():
                return _estimate(kept, starts)
    return _estimate(kept, starts)


def _walk(answers: Mixture, d: int, rows: NDArray[np.intp], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """What each input changes on the way from background rows to the row and back, shape (n, d), and their answers.

    The way back turns the inputs in the order of the way there, so it passes the mixtures of the reversed order.
    """
    n = len(rows)
    orders = np.argsort(rng.random((n, d)), axis=1)
    rank = np.empty_like(orders)
    np.put_along_axis(rank, orders, np.broadcast_to(np.arange(d), (n, d)), axis=1)
    step = np.arange(2 * d)[None, :, None]  # below d the first `step` are turned, then the first `step - d` are back
    turned = np.where(step < d, rank[:, None, :] < step, rank[:, None, :] >= step - d)
    take = np.where(turned, OWN, rows[:, None, None]).reshape(n * 2 * d, d)
    told = np.asarray(answers(take), dtype=np.float64).reshape(n, 2 * d)
    there = np.diff(np.column_stack([told[:, :d], told[:, d]]), axis=1)  # at step d all are turned
    back = -np.diff(np.column_stack([told[:, d:], told[:, 0]]), axis=1)
    changes = np.empty((n, d))
    np.put_along_axis(changes, orders, (there + back) / 2, axis=1)
    return changes, told[:, 0]


def _estimate(kept: list[list[Floats]], starts: Floats) -> Shapley:
    used = [place for place, changes in enumerate(kept) if changes]
    means = np.array([np.mean(kept[place], axis=0) for place in used])
    again = [kept[place] for place in used if len(kept[place]) > 1]
    errors = np.full(means.shape[1], np.nan)
    if again:
        # the background is given, so only the orders are chance: the variance within rows, not between them
        within = np.mean([np.var(changes, axis=0, ddof=1) / len(changes) for changes in again], axis=0)
        errors = np.sqrt(within / len(used))
    return Shapley(
        base=float(starts[used].mean()),
        values=means.mean(axis=0),
        errors=errors,
        rows=len(used),
        rounds=min(len(changes) for changes in kept),
    )


class LocalModel(NamedTuple):
    """A weighted linear model of a function around one row: ``base + values.sum()`` is what it answers for the row.

    ``fit``: the weighted R² of the linear model on the samples, at most 1. ``samples``: answers asked.
    """

    base: float
    values: Floats
    fit: float
    samples: int


def local_model(
    answers: Mixture,
    like: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    samples: int = 5000,
    go_on: Callable[[], bool] = lambda: True,
) -> LocalModel:
    """LIME: a ridge regression on which inputs of a sample are like the row's, near samples weighing more.

    A sample takes each input by itself from a random background row. Its weight is ``exp(-(D / w)²)`` with D the
    distance of 0/1 vectors and ``w = 0.75 sqrt(d)``; the first sample is the row itself.

    Parameters
    ----------
    answers : the function, over mixtures.
    like : shape (background, d): whether a background row's input counts as the same as the row's.
    samples : how many answers to ask.
    go_on : asked between chunks of 250; where it says no, the samples answered so far are used.

    Notes
    -----
    Ribeiro, Singh and Guestrin, "Why should I trust you?", KDD 2016, algorithm 1, with the defaults of their tabular
    explainer: kernel width, 5000 samples, ridge penalty 1, the root of the kernel as weight.
    """
    background, d = like.shape
    take = rng.integers(0, background, (samples, d))
    take[0] = OWN
    parts: list[Floats] = []
    for start in range(0, samples, _SAMPLES_AT_ONCE):
        parts.append(np.asarray(answers(take[start : start + _SAMPLES_AT_ONCE]), dtype=np.float64))
        if not go_on():
            break
    told = np.concatenate(parts)
    take = take[: len(told)]
    same = np.where(take == OWN, True, like[take, np.arange(d)]).astype(np.float64)
    squared = (1.0 - same).sum(axis=1)
    weights = np.sqrt(np.exp(-squared / (_KERNEL_WIDTH**2 * d)))
    total = weights.sum()
    centre, mean = weights @ same / total, float(weights @ told / total)
    x, y = same - centre, told - mean
    values = np.linalg.solve(x.T @ (weights[:, None] * x) + _RIDGE * np.eye(d), x.T @ (weights * y))
    spread = float(weights @ y**2)
    fit = 1.0 - float(weights @ (y - x @ values) ** 2) / spread if spread > 0 else 1.0
    return LocalModel(base=mean - float(centre @ values), values=values, fit=fit, samples=len(told))
