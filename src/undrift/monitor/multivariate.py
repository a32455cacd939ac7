"""What no single column shows: columns that no longer go together, and embeddings that moved.

The correlation of each pair of numbers stands in correlation.py. The reconstruction error: how far rows lie from the
principal components of earlier weeks (NannyML's multivariate drift; Rabanser and others 2019, "Failing loudly"). The
domain classifier: how well a model tells rows of the window from earlier ones (Lopez-Paz and Oquab 2017). Of an
embedding, the shift of its mean, and the maximum mean discrepancy (Gretton and others 2012). All are judged against how
earlier windows of the same length came out.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from undrift.finding import Finding, Interval, Verdict, Window
from undrift.ids import to_micros
from undrift.monitor.correlation import judge_correlation
from undrift.monitor.frames import column, columns_of, inside, micros, numeric, outside
from undrift.monitor.monitors import FEWEST_DAYS, Monitor, found
from undrift.stats.calibration import level_per_test

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "PAST_WINDOWS",
    "domain_auc",
    "judge_multivariate",
    "matrix",
    "maximum_mean_discrepancy",
    "mean_shift",
    "reconstruction",
]

PAST_WINDOWS: Final = 5
"""Earlier windows that are looked at: one to learn from at least, the others show what is natural."""
FEWEST_ROWS: Final = 300
SAMPLE: Final = 1_000
EXPLAINED: Final = 0.65
"""Share of the variance that the components kept explain (as in NannyML)."""
MOST_LEVELS: Final = 20
DAY: Final = 86_400_000_000

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def matrix(columns: Mapping[str, Any]) -> Floats:
    """Numbers as they are, nulls as the mean; categories as the share of rows that hold them; shape (n, columns)."""
    parts = []
    for values in columns.values():
        if numeric(values):
            x = column(values)
        else:
            codes = values.cast("string").combine_chunks().dictionary_encode().indices
            places = codes.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
            x = (np.bincount(places, minlength=1) / max(len(places), 1))[places]
        held = np.isfinite(x)
        parts.append(np.where(held, x, float(x[held].mean()) if held.any() else 0.0))
    return np.column_stack(parts) if parts else np.zeros((0, 0))


def reconstruction(past: Floats, now: Floats, kept: int = 0) -> Floats:
    """The distance of each row of ``now`` from the principal components of ``past``, in standard deviations.

    ``kept`` components; if 0, as many as explain `EXPLAINED` of the variance.
    """
    centre, spread = past.mean(axis=0), past.std(axis=0)
    used = spread > 0
    if int(used.sum()) < 2:
        return np.zeros(len(now))
    x, y = ((part[:, used] - centre[used]) / spread[used] for part in (past, now))
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    main = vectors[:, ::-1][:, : min(kept or _explaining(values[::-1]), int(used.sum()) - 1)]
    return np.asarray(np.sqrt(np.square(y - y @ main @ main.T).sum(axis=1)), dtype=np.float64)


def _explaining(values: NDArray[np.floating[Any]]) -> int:
    """How many of these eigenvalues, largest first, explain as much as is asked for."""
    return int(np.searchsorted(np.cumsum(values) / values.sum(), EXPLAINED)) + 1


def domain_auc(past: Floats, now: Floats, days: tuple[NDArray[np.int64], NDArray[np.int64]], seed: int = 0) -> float:
    """How well boosted trees tell ``now`` from ``past``, on days they did not see: ROC AUC, 0.5 if not at all.

    Whole days are left out, or rows would be told by their day and not by what changed.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    n = min(SAMPLE, len(past), len(now))
    a, b = rng.choice(len(past), n, replace=False), rng.choice(len(now), n, replace=False)
    x = np.vstack([past[a], now[b]])
    y = np.repeat([0, 1], n)
    fold = np.concatenate([days[0][a], days[1][b]]) % 2
    score = np.full(2 * n, np.nan)
    for part in (0, 1):
        train, test = fold != part, fold == part
        if np.unique(y[train]).size == 2:
            model = HistGradientBoostingClassifier(max_iter=25, learning_rate=0.3, random_state=seed)
            score[test] = model.fit(x[train], y[train]).predict_proba(x[test])[:, 1]
    held = np.isfinite(score)
    return float(roc_auc_score(y[held], score[held])) if np.unique(y[held]).size == 2 else 0.5


def mean_shift(past: Floats, now: Floats) -> float:
    """How far the mean moved, in root mean square distances of ``past`` from its own mean; 0 for no move.

    What means of so many rows differ by chance is taken off the squared distance, so that rows that spread more, or
    fewer rows, are no move.
    """
    spread, wide = float(past.var(axis=0).sum()), float(now.var(axis=0).sum())
    squared = float(np.square(now.mean(axis=0) - past.mean(axis=0)).sum()) - spread / len(past) - wide / len(now)
    return float(np.sqrt(max(0.0, squared) / spread)) if spread > 0 else 0.0


def maximum_mean_discrepancy(past: Floats, now: Floats, *, features: int = 512, seed: int = 0) -> float:
    """The distance of two samples' means under a Gaussian kernel, in [0, 2**0.5]: it sees more than the mean's shift.

    By random Fourier features (Rahimi and Recht 2007), so that it costs a pass over the rows; the kernel's width is the
    median distance between rows of ``past`` (the median heuristic).
    """
    rng = np.random.default_rng(seed)
    a, b = (past[rng.integers(0, len(past), 500)] for _ in range(2))
    apart = np.linalg.norm(a - b, axis=1)
    width = float(np.median(apart[apart > 0])) if (apart > 0).any() else 1.0
    ways = rng.normal(size=(past.shape[1], features)) / width
    turn = rng.uniform(0, 2 * np.pi, features)
    means = [np.cos(part @ ways + turn).mean(axis=0) for part in (past, now)]
    return float(np.sqrt(2 / features) * np.linalg.norm(means[1] - means[0]))


EMBEDDING: Final = {"mean_shift": mean_shift, "mmd": maximum_mean_discrepancy}


def judge_multivariate(
    monitor: Monitor, rows: pa.Table, now: datetime, *, tick: timedelta = timedelta(days=1),
    spoiled: tuple[Window, ...] = (),
) -> list[Finding]:  # fmt: skip
    """Judge the inputs of the last window together; pure.

    A pair of numbers fails where its correlation differs by more than the practical size with confidence; the
    reconstruction error where it is beyond what earlier windows show with confidence, and beyond a quarter of the
    practical size as a share of the usual error; the domain classifier where its AUC is beyond what
    earlier windows show with confidence, and exceeds that of each by the practical size.

    Parameters
    ----------
    monitor : its ``metric`` may name one: ``correlation``, ``reconstruction`` or ``domain_auc`` (all if empty, a third
        of the budget each), or of ``columns`` that hold an embedding ``mean_shift`` or ``mmd``.
    rows : captured predictions of at least `PAST_WINDOWS` + 1 windows.
    """
    window = Window(now - monitor.span, now)
    times = micros(rows, "event_time")
    sound = outside(times, spoiled)
    named = {
        name: values
        for name, values in columns_of(rows).items()
        if name not in ("score", "label") and (not monitor.columns or name in monitor.columns)
    }
    fresh = sound & inside(times, window.start, window.end)
    windows = [
        Window(window.start - k * monitor.span, window.end - k * monitor.span) for k in range(1, PAST_WINDOWS + 1)
    ]
    past = [p for p in (sound & inside(times, w.start, w.end) for w in windows) if int(p.sum()) >= FEWEST_ROWS]
    days = np.unique((times[fresh] - 1) // DAY).size
    n = int(fresh.sum())
    if n < FEWEST_ROWS or days < FEWEST_DAYS["multivariate"] or len(past) < 3 or len(named) < 2:
        why = f"{n} rows in {window} and {len(past)} earlier windows, too few to say how columns go together"
        return [found(monitor, Verdict.INCONCLUSIVE, why, name="multivariate", value=0.0, n=n, window=window)]
    x = matrix(named)
    ticks = max(1, int(timedelta(days=30) / tick))
    alpha = monitor.alpha(2, ticks)
    findings = []
    if not monitor.metric:  # each of three keeps a third of the budget
        monitor = msgspec.structs.replace(monitor, budget=monitor.budget / 3)
        alpha = monitor.alpha(2, ticks)
    if monitor.metric in ("", "correlation"):
        before = np.logical_or.reduce(past)
        findings.append(judge_correlation(monitor, named, times, (fresh, before), window, ticks))
    if monitor.metric in ("", "reconstruction"):
        findings.append(_reconstructed(monitor, x, times, (fresh, past), alpha, window))
    if monitor.metric in EMBEDDING:
        each = level_per_test(monitor.budget, ticks, 2)  # means of few rows go their own way: each window for itself
        findings.append(_moved_together(monitor, x, (fresh, past), each, window))
    if monitor.metric in ("", "domain_auc"):
        each = level_per_test(monitor.budget, ticks)
        findings.append(_told_apart(monitor, x, times, (fresh, past), each, window))
    return findings


def _reconstructed(
    monitor: Monitor,
    x: Floats,
    times: NDArray[np.int64],
    parts: tuple[Bools, list[Bools]],
    alpha: float,
    window: Window,
) -> Finding:
    """Each window's mean error under the components of all earlier rows but its own, as many components for all."""
    from scipy.special import stdtrit

    fresh, past = parts
    all_past = np.logical_or.reduce(past)
    used = x[:, x[all_past].std(axis=0) > 0]
    kept = 0
    if used.shape[1] > 1:
        kept = _explaining(np.linalg.eigvalsh(np.corrcoef(used[all_past], rowvar=False))[::-1])
    error = np.full(len(x), np.nan)
    error[fresh] = reconstruction(x[all_past], x[fresh], kept)
    for held in past:
        error[held] = reconstruction(x[all_past & ~held], x[held], kept)
    value = float(error[fresh].mean())
    past = _custom(value, [float(error[held].mean()) for held in past], past)
    usual = _of_windows(error, times, past, window)
    centre, spread = float(error[np.logical_or.reduce(past)].mean()), float(np.std(usual)) * _short(len(past))
    spread = max(spread, float(np.std(error[fresh])) / float(np.sqrt(fresh.sum())))  # of independent rows at least
    reach = float(stdtrit(len(past) - 1, 1 - alpha)) * spread * float(np.sqrt(1 + 1 / len(past)))
    size = value / centre - 1 if centre else 0.0
    lower = abs(value - centre) - reach
    bad = lower > 0 and abs(size) > monitor.size / 4
    why = (
        f"rows lie {value:.3f} from the usual planes, {centre:.3f} +- {reach:.3f} in {len(past)} windows before "
        f"({size:+.1%}; tolerated {monitor.size / 4:.1%})"
    )
    return found(
        monitor, Verdict.FAIL if bad else Verdict.PASS, why, name="reconstruction", value=value, n=int(fresh.sum()),
        window=window, interval=Interval(max(0.0, value - reach), value + reach, 1 - alpha),
        cause="inputs no longer go together as before" if bad else "", lingers=bool(bad),
    )  # fmt: skip


def _custom(value: float, means: list[float], past: list[Bools]) -> list[Bools]:
    """Earlier windows, the latest first, without those directly before this one that are unlike all before on the same
    side as it: what has begun already is no custom. At least three are left.
    """
    from scipy.special import stdtrit

    first = 0
    while len(means) - first > 3:
        older = np.asarray(means[first + 1 :])
        reach = float(stdtrit(len(older) - 1, 0.95)) * float(np.std(older, ddof=1) * np.sqrt(1 + 1 / len(older)))
        gap = means[first] - float(older.mean())
        if abs(gap) <= reach or gap * (value - float(older.mean())) <= 0:
            break
        first += 1
    return past[first:]


def _of_windows(error: Floats, times: NDArray[np.int64], past: list[Bools], window: Window) -> Floats:
    """The mean error of earlier windows that end on any day, where these are whole; else of those that share no day."""
    held = np.logical_or.reduce(past)
    age = (to_micros(window.start) - 1 - times[held]) // DAY
    length = (window.end - window.start) // timedelta(days=1)
    first = int(age.min())
    rows = np.bincount(age - first)
    sums = np.bincount(age - first, weights=error[held])
    if length * timedelta(days=1) != window.end - window.start or not rows.all():
        return np.array([float(error[each].mean()) for each in past])
    rows, sums = (np.concatenate([[0], np.cumsum(each)]) for each in (rows, sums))
    return np.asarray((sums[length:] - sums[:-length]) / (rows[length:] - rows[:-length]), dtype=np.float64)


def _short(windows: int) -> float:
    """What a standard deviation about the mean of so few windows is raised by."""
    return float(np.sqrt(windows / (windows - 1)))


def _moved_together(
    monitor: Monitor, x: Floats, parts: tuple[Bools, list[Bools]], alpha: float, window: Window
) -> Finding:
    """An embedding's distance from the windows before, against each of these from the others."""
    from scipy.special import stdtrit

    fresh, past = parts
    measure = EMBEDDING[monitor.metric]
    all_past = np.logical_or.reduce(past)
    usual = [measure(x[all_past & ~held], x[held]) for held in past]
    value = measure(x[all_past], x[fresh])
    centre, spread = float(np.mean(usual)), float(np.std(usual, ddof=1))
    reach = float(stdtrit(len(usual) - 1, 1 - alpha)) * spread * float(np.sqrt(1 + 1 / len(usual)))
    bad = value - reach > centre and value - centre > monitor.size
    why = (
        f"{monitor.metric.replace('_', ' ')} of {x.shape[1]} columns is {value:.3f}, {centre:.3f} +- {reach:.3f} in "
        f"{len(usual)} windows before (tolerated {monitor.size:g} more)"
    )
    return found(
        monitor, Verdict.FAIL if bad else Verdict.PASS, why, name=monitor.metric, value=value, n=int(fresh.sum()),
        window=window, interval=Interval(max(0.0, value - reach), value + reach, 1 - alpha),
        cause="the embedding moved" if bad else "", lingers=bool(bad),
    )  # fmt: skip


def _told_apart(
    monitor: Monitor,
    x: Floats,
    times: NDArray[np.int64],
    parts: tuple[Bools, list[Bools]],
    alpha: float,
    window: Window,
) -> Finding:
    """How well the window is told from the weeks before, against how well each of these was from those before it."""
    from scipy.special import stdtrit

    fresh, past = parts
    days = times // DAY
    usual = []
    for place, held in enumerate(past[:-1]):
        before = np.logical_or.reduce(past[place + 1 :])
        usual.append(domain_auc(x[before], x[held], (days[before], days[held])))
    before = np.logical_or.reduce(past)
    value = domain_auc(x[before], x[fresh], (days[before], days[fresh]))
    n = min(SAMPLE, int(before.sum()), int(fresh.sum()))
    by_chance = float(np.sqrt((2 * n + 1) / (12 * n * n)))  # of the area of independent rows (Mann and Whitney 1947)
    spread = max(float(np.std(usual, ddof=1)), by_chance)
    reach = float(stdtrit(len(usual) - 1, 1 - alpha)) * spread * float(np.sqrt(1 + 1 / len(usual)))
    natural = max(usual)
    bad = value - reach > float(np.mean(usual)) and value > natural + monitor.size
    why = (
        f"a classifier tells the window from the weeks before with AUC {value:.3f} (at least {value - reach:.3f}); "
        f"{natural:.3f} at most was natural in {len(usual)} windows before (tolerated {monitor.size:g} more)"
    )
    return found(
        monitor, Verdict.FAIL if bad else Verdict.PASS, why, name="domain_auc", value=value, n=int(fresh.sum()),
        window=window, interval=Interval(max(0.0, value - reach), min(1.0, value + reach), 1 - alpha),
        cause="inputs are not those of the weeks before" if bad else "", lingers=bool(bad),
    )  # fmt: skip
