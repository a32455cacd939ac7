"""What the answers rest on: each input's share of all contributions, now and for the rows the version was measured on.

A model may lean on other inputs than it did without any column alone having moved much. Shares and the order of inputs
are compared with importance.json of the bundle; the normalised discounted cumulative gain (Järvelin and Kekäläinen
2002) tells how much of the order is left, as in SageMaker Clarify. Rows are explained in explanations.py.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.develop.importance import Importance
from undrift.finding import Finding, Interval, Verdict, Window
from undrift.monitor.frames import inside, outside
from undrift.monitor.monitors import FEWEST_DAYS, Monitor, found
from undrift.stats.calibration import step_up

__all__ = ["Influences", "gain", "judge_attribution"]

FEWEST_ROWS: Final = 50
DAY: Final = 86_400_000_000

Floats = NDArray[np.float64]


class Influences(NamedTuple):
    """Absolute contributions of inputs (``names``) to the answers of a sample of requests.

    ``sizes``: (rows, inputs). ``times``: when each was answered, microseconds. ``wanted``: rows that were to be
    explained; fewer are where the time ended. ``problem``: why none are.
    """

    names: tuple[str, ...] = ()
    sizes: Floats = np.zeros((0, 0))
    times: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    wanted: int = 0
    problem: str = ""


class _Shares(NamedTuple):
    now: Floats
    before: Floats
    error: Floats
    days: int
    n: int

    def lower(self, alpha: float) -> Floats:
        """How far each share has moved at least, at an error rate for each input, both sides together."""
        from scipy.special import stdtrit

        reach = float(stdtrit(self.days - 1, 1 - alpha / 2)) * self.error
        found: Floats = np.maximum(0.0, np.abs(self.now - self.before) - reach)
        return found


def judge_attribution(
    monitor: Monitor,
    reference: Importance | None,
    seen: Influences | None,
    now: datetime,
    *,
    tick: timedelta = timedelta(days=1),
    spoiled: tuple[Window, ...] = (),
) -> list[Finding]:
    """Judge the shares of inputs in the contributions of the last window; pure.

    Parameters
    ----------
    reference : of the version that answered.
    seen : explained requests of the window and of the ticks the persistence looks back.
    spoiled : windows of faults, left out.
    """
    window = Window(now - monitor.span, now)

    def unsure(why: str, n: int = 0) -> list[Finding]:
        return [found(monitor, Verdict.INCONCLUSIVE, why, name="attribution", value=0.0, n=n, window=window)]

    if reference is None:
        return unsure("the bundle holds no importance.json to compare with: train or adopt the model again")
    if seen is None or seen.problem or not len(seen.sizes):
        return unsure((seen.problem if seen else "") or f"no requests of {window} could be explained")
    sound = outside(seen.times, spoiled)

    def at(end: datetime) -> _Shares | None:
        held = sound & inside(seen.times, end - monitor.span, end)
        return _shares(reference, seen, held)

    this = at(now)
    if this is None:
        n = int((sound & inside(seen.times, window.start, now)).sum())
        return unsure(f"{n} explained requests in {window}, too few or of too few days to say", n)
    d = len(seen.names)
    alpha = monitor.alpha(d, max(1, int(timedelta(days=30) / tick)))
    alpha = step_up(lambda level: int((this.lower(level) > monitor.size).sum()), alpha, d)
    lower = this.lower(alpha)
    beyond = lower > monitor.size
    before = [at(now - back * tick) if beyond.any() else None for back in range(1, monitor.lasting.n)]
    often = beyond + np.sum([each.lower(alpha) > monitor.size for each in before if each is not None], axis=0)
    bad = beyond & (often >= monitor.lasting.k)
    order = gain(this.before, this.now)
    moved = float(np.abs(this.now - this.before).sum() / 2)
    told = f"{this.n} rows"
    if len(seen.sizes) < seen.wanted:
        told += f", the time ended at {len(seen.sizes)} of {seen.wanted} sampled requests"
    if not bad.any():
        top = int(np.abs(this.now - this.before).argmax())
        why = (
            f"the model leans on its inputs as it did: {seen.names[top]} moved most, {this.before[top]:.0%} of the "
            f"influence before, {this.now[top]:.0%} now (tolerated {monitor.size:.0%}; order kept to {order:.3f}; "
            f"{told})"
        )
        return [
            found(
                monitor, Verdict.PASS, why, name="attribution", value=moved, n=this.n, window=window,
                lingers=bool(np.abs(this.now - this.before).max() > monitor.size), ndcg=round(order, 4),
                moved=round(moved, 4),
            )
        ]  # fmt: skip
    findings = []
    for place in np.flatnonzero(bad).tolist():
        name, gap = seen.names[place], abs(float(this.now[place] - this.before[place]))
        why = (
            f"{name} has {this.now[place]:.0%} of the influence on answers, {this.before[place]:.0%} where the version "
            f"was measured (at least {lower[place]:.0%} apart; tolerated {monitor.size:.0%}; order kept to "
            f"{order:.3f}; {told}); look whether {name} and the inputs it displaced still mean what they did, and who "
            f"asks now; if such rows are here to stay, retrain"
        )
        findings.append(
            found(
                monitor, Verdict.FAIL, why, name="attribution", value=gap, n=this.n, window=window, column=name,
                interval=Interval(float(lower[place]), 1.0, 1 - alpha), onset=window.start,
                cause=f"{name} has other influence", lingers=True, ndcg=round(order, 4), moved=round(moved, 4),
            )
        )  # fmt: skip
    return findings


def _shares(reference: Importance, seen: Influences, held: NDArray[np.bool_]) -> _Shares | None:
    """Shares of the whole by ratio of sums, with an error from days, beside those of the reference with theirs."""
    sizes = seen.sizes[held]
    total = float(sizes.sum())
    days = np.unique(seen.times[held] // DAY, return_inverse=True)[1]
    count = int(days.max(initial=-1)) + 1
    known = {given.name: given for given in reference.inputs}
    if len(sizes) < FEWEST_ROWS or count < FEWEST_DAYS["attribution"] or total <= 0 or set(known) != set(seen.names):
        return None
    share = sizes.sum(axis=0) / total
    residual = sizes - share * sizes.sum(axis=1, keepdims=True)
    by_day = np.zeros((count, sizes.shape[1]))
    np.add.at(by_day, days, residual)
    rows = np.square(residual).sum(axis=0)  # days may seem more alike than rows are by chance: the larger of both
    error = np.sqrt(np.maximum(np.square(by_day).sum(axis=0) * count / (count - 1), rows)) / total
    value = np.array([known[name].value for name in seen.names])
    upper = np.array([np.inf if (top := known[name].upper) is None else top for name in seen.names])
    whole = float(value.sum())
    if whole <= 0:
        return None
    before, variance = value / whole, np.square((upper - value) / 1.96)
    of_reference = np.square(1 - before) * variance + np.square(before) * (variance.sum() - variance)
    return _Shares(share, before, np.sqrt(np.square(error) + of_reference / whole**2), count, len(sizes))


def gain(before: Floats, now: Floats) -> float:
    """How much of an order is left, in (0, 1]: the discounted gain of ranking by ``now`` what ``before`` says each is
    worth, over that of the order ``before`` itself.

    >>> gain(np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.35, 0.25]))
    1.0
    >>> round(gain(np.array([0.9, 0.1]), np.array([0.1, 0.9])), 3)
    0.693
    """
    discount = 1 / np.log2(np.arange(len(before)) + 2)
    best = float(np.sort(before)[::-1] @ discount)
    return float(before[np.argsort(-now, kind="stable")] @ discount) / best if best > 0 else 1.0
