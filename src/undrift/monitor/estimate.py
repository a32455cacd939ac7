"""The loss before the labels are there: an estimate, judged like a loss, checked against the labels when they come.

Classifiers: a row's loss is expected under calibrated probabilities (confidence-based performance estimation, after
NannyML). Regression: a model of the loss learnt on labelled rows (direct loss estimation). Both see inputs move and are
blind to a changed world; where matured labels show that they were wrong, they say so and do not judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from undrift.deploy.traffic import values_of
from undrift.develop.bundle import Interface
from undrift.develop.performance import loss_arrays
from undrift.finding import Finding, Interval, Verdict, Window
from undrift.ids import to_micros
from undrift.monitor.days import DAY, FEWEST_ROWS
from undrift.monitor.evidence import Evidence, metric_of
from undrift.monitor.frames import column, columns_of, inside, numeric
from undrift.monitor.monitors import FEWEST_DAYS, Monitor, found
from undrift.stats.calibration import CalibrationMap

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CHECKED", "estimated_losses", "judge_estimate"]

CHECKED: Final = 4
"""Windows with matured labels on which an estimate is checked."""
MATURE: Final = 0.8
"""Share of labelled rows from which a window counts as matured."""
FEWEST_LABELLED: Final = 500
"""Labelled rows from which a calibration, or a model of the loss, is learnt."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class _Check(NamedTuple):
    estimated: float
    measured: float
    tolerance: float
    window: Window


def estimated_losses(interface: Interface, metric: str, rows: pa.Table, learn: Bools) -> Floats | None:
    """The expected loss of each row, NaN where nothing was answered; None where too few labels are there to learn from.

    Parameters
    ----------
    rows : predictions with the labels known, as `data.outcomes` gives them.
    learn : rows whose labels may be looked at.
    """
    loss = values_of(rows, interface, [metric])[metric]
    known = learn & np.isfinite(loss)
    if int(known.sum()) < FEWEST_LABELLED:
        return None
    if interface.task == "regression":
        return _modelled(rows, loss, known)
    answered = np.isfinite(column(rows["score"]))
    result = np.full(rows.num_rows, np.nan)
    picked = rows.filter(answered)
    if interface.task == "binary":
        score = column(picked["score"])
        scores: Floats | None = None
        stated = np.column_stack([1 - score, score])
    else:
        scores = np.asarray(picked["scores"].to_pylist(), dtype=np.float64).reshape(picked.num_rows, -1)
        score, stated = None, scores
    places = {name: place for place, name in enumerate(interface.classes)}
    truth = np.array([places.get(str(v), -1) for v in picked["label"].to_pylist()])
    taught = known[answered] & (truth >= 0)
    rates = np.zeros_like(stated)
    for code in range(1 if interface.task == "binary" else 0, stated.shape[1]):
        rates[:, code] = CalibrationMap.of(stated[taught, code], truth[taught] == code)(stated[:, code])
    if interface.task == "binary":
        rates[:, 0] = 1 - rates[:, 1]
    else:
        total = rates.sum(axis=1, keepdims=True)
        rates = np.where(total > 0, rates / np.where(total > 0, total, 1.0), stated)
    given = picked["prediction"].to_pylist()
    said = given if None not in given else None
    whole = np.zeros(picked.num_rows)
    for code in range(stated.shape[1]):
        codes = np.full(picked.num_rows, code, dtype=np.int64)
        whole += rates[:, code] * loss_arrays(interface, codes, score=score, scores=scores, prediction=said)[metric]
    result[answered] = whole
    return result


def _modelled(rows: pa.Table, loss: Floats, known: Bools) -> Floats:
    """The loss as a function of the inputs and the answer, by boosted trees."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    parts = []
    for name, values in columns_of(rows).items():
        if name == "label":
            continue
        if numeric(values):
            parts.append(column(values))
        else:
            codes = values.cast("string").combine_chunks().dictionary_encode().indices
            parts.append(np.asarray(codes.cast("float64").to_numpy(zero_copy_only=False), dtype=np.float64))
    x = np.column_stack(parts)
    model = HistGradientBoostingRegressor(max_iter=60, learning_rate=0.1, min_samples_leaf=50, random_state=0)
    model.fit(x[known], loss[known])
    answered = np.isfinite(column(rows["score"]))
    return np.where(answered, model.predict(x), np.nan)


def judge_estimate(monitor: Monitor, evidence: Evidence) -> list[Finding]:
    """Judge the estimated loss of the last window; pure.

    Parameters
    ----------
    evidence : of at least `CHECKED` + 2 windows.
    """
    interface, rows, expected = evidence.interface, evidence.rows, evidence.expected
    metric = metric_of(monitor, interface)
    window = evidence.window(monitor)

    def unsure(why: str, n: int = 0, **detail: Any) -> list[Finding]:
        return [
            found(
                monitor, Verdict.INCONCLUSIVE, f"estimated {metric}: {why}", name=f"estimated {metric}", value=0.0, n=n,
                window=window, **detail,
            )
        ]  # fmt: skip

    if not rows.num_rows:
        return unsure(f"no answers in {window}")
    if metric not in expected:
        return unsure(f"version {evidence.version} has no expected loss to be compared with")
    mine, fresh = evidence.mine, evidence.mine & evidence.within(window)
    losses = estimated_losses(interface, metric, rows, mine & ~fresh)
    if losses is None:
        return unsure(f"fewer than {FEWEST_LABELLED} labelled rows before the window to learn from", int(fresh.sum()))
    checks = _checks(monitor, metric, evidence, window)
    tolerated = expected[metric].value * monitor.size
    wrong = [c for c in checks if abs(c.estimated - c.measured) > tolerated + c.tolerance]
    if wrong:
        worst = max(wrong, key=lambda c: abs(c.estimated - c.measured))
        why = (
            f"not trustworthy: it said {worst.estimated:.4g} for {worst.window}, labels say {worst.measured:.4g} "
            f"({len(wrong)} of {len(checks)} checks were wrong)"
        )
        return unsure(why, int(fresh.sum()), trusted=False, checks=len(checks))
    return [_judged(monitor, metric, evidence, losses, len(checks), window)]


def _checks(monitor: Monitor, metric: str, evidence: Evidence, window: Window) -> list[_Check]:
    """Estimates of past windows, learnt from what was before them, beside what their labels say."""
    times, mine, loss = evidence.times, evidence.mine, evidence.losses(metric)
    made: list[_Check] = []
    for back in range(1, CHECKED + 1):
        past = Window(window.start - back * monitor.span, window.end - back * monitor.span)
        held = mine & evidence.within(past)
        labelled = held & np.isfinite(loss)
        if int(labelled.sum()) < FEWEST_ROWS or labelled.sum() < MATURE * held.sum():
            continue
        before = mine & (times < to_micros(past.start))
        said = estimated_losses(evidence.interface, metric, evidence.rows, before)
        if said is None:
            continue
        gap = said[labelled] - loss[labelled]
        _, error, days = _by_days(times[labelled], gap)
        if days >= FEWEST_DAYS["performance"]:
            made.append(_Check(float(said[labelled].mean()), float(loss[labelled].mean()), 3 * error, past))
    return made


def _by_days(times: NDArray[np.int64], values: Floats) -> tuple[float, float, int]:
    """Mean, its standard error by days, days."""
    days = np.unique(times // DAY, return_inverse=True)[1]
    count = int(days.max(initial=-1)) + 1
    if count < 2:
        return float("nan"), float("inf"), count
    mean = float(values.mean())
    sums = np.bincount(days, weights=values - mean)
    return mean, float(np.sqrt(np.square(sums).sum() * count / (count - 1)) / len(values)), count


def _judged(monitor: Monitor, metric: str, evidence: Evidence, losses: Floats, checks: int, window: Window) -> Finding:
    from scipy.special import stdtrit

    times, expected = evidence.times, evidence.expected[metric]
    alpha = monitor.alpha(1, evidence.ticks)
    bound = expected.value * (1 + monitor.size)
    beyond, first = 0, None
    value = lower = float("nan")
    n = 0
    for back in reversed(range(monitor.lasting.n)):
        end = window.end - back * evidence.tick
        held = evidence.mine & inside(times, end - monitor.span, end) & np.isfinite(losses)
        n = int(held.sum())
        value, error, days = _by_days(times[held], losses[held])
        if n < FEWEST_ROWS or days < FEWEST_DAYS["performance"]:
            value = lower = float("nan")
            continue
        lower = value - float(stdtrit(days - 1, 1 - alpha)) * float(
            np.hypot(error, expected.error * (1 + monitor.size))
        )
        if lower > bound:
            beyond += 1
            first = first or end
    name = f"estimated {metric}"
    if not np.isfinite(value):
        why = f"{name}: {n} answers in {window}, too few to say"
        return found(monitor, Verdict.INCONCLUSIVE, why, name=name, value=0.0, n=n, window=window)
    bad = lower > bound and beyond >= monitor.lasting.k
    trust = f"right in {checks} checks" if checks else "not checked against labels yet"
    why = (
        f"{name} is {value:.4g} without labels ({trust}; at least {lower:.4g}; {n} rows, expected "
        f"{expected.value:.4g}, tolerated {bound:.4g})"
    )
    return found(
        monitor,
        Verdict.FAIL if bad else Verdict.PASS,
        why,
        name=name,
        value=value,
        n=n,
        window=window,
        interval=Interval(lower, float("inf"), 1 - alpha),
        onset=first,
        cause=f"{name} rose" if bad else "",
        expected=expected.value,
        checks=checks,
        lingers=bool(value > bound),
    )
