"""A window against the same hours of the days or weeks before, for what has a strong rhythm; by kept profiles alone.

Training says what hours look like together, and a night is unlike that by nature. Windows that were alarmed or known to
be wrong are no reference. How much windows differ from what came before them is learnt from how each earlier one
differed from those before it (prediction errors), so days that follow each other and a slow trend are in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from undrift.finding import Finding, Interval, Verdict, Window
from undrift.ids import to_micros
from undrift.monitor.cells import Reference, Slots
from undrift.monitor.monitors import Monitor, found
from undrift.monitor.noise import shares_of
from undrift.monitor.windows import WindowProfile, kept_profiles
from undrift.state.ports import Lake
from undrift.stats.calibration import step_up

__all__ = [
    "FEWEST_COMPARABLE",
    "Usual",
    "comparable_windows",
    "judge_seasonal",
    "seasonal_profiles",
    "seasonal_traffic",
    "usual_of",
]

FEWEST_COMPARABLE: Final = 3
"""Comparable windows without which nothing is said."""
FEWEST_ERRORS: Final = 10
"""Earlier windows whose difference from what came before them must be known."""
FEWEST_ROWS: Final = 100
SPARE: Final = 4
"""Comparable windows more than asked for that are looked through, in place of those that are left out."""
FEWEST_TRAFFIC: Final = 30
"""Usual requests of a window below which their number says nothing."""
NOISE_DAYS: Final = 56

Floats = NDArray[np.float64]


def comparable_windows(monitor: Monitor, window: Window) -> list[Window]:
    """The same hours of each day before, the window itself first, so far back as the monitor looks.

    Hours are those of the monitor's time zone: where clocks were changed in between, the same time of day is an hour
    earlier or later in UTC. An hour that a change of clocks leaves out is taken as the one after, one that comes twice
    as the first. Windows of a whole day hold all hours and are days of UTC.
    """
    days = max((monitor.comparable + SPARE) * _period(monitor), NOISE_DAYS)
    if not monitor.timezone or monitor.span == timedelta(days=1):
        return [Window(window.start - d * timedelta(days=1), window.end - d * timedelta(days=1)) for d in range(days)]
    zone, span = ZoneInfo(monitor.timezone), window.end - window.start
    local = window.start.astimezone(zone)
    starts = [(local - d * timedelta(days=1)).astimezone(window.start.tzinfo) for d in range(days)]
    return [Window(start, start + span) for start in starts]


def _period(monitor: Monitor) -> int:
    """Days from one comparable window to the next."""
    return 7 if monitor.season == "week" else 1


def seasonal_profiles(
    lake: Lake, model: str, monitors: Iterable[Monitor], now: datetime, tick: timedelta
) -> dict[str, list[WindowProfile]]:
    """For each monitor with a season the kept profiles of its windows and of comparable ones, and no others."""
    found = {}
    for monitor in (m for m in monitors if m.season):
        ends = [now - back * monitor.every(tick) for back in range(monitor.lasting.n)]
        windows = [w for end in ends for w in comparable_windows(monitor, Window(end - monitor.span, end))]
        start = min(w.start for w in windows)
        found[monitor.name] = kept_profiles(lake, model, start, now, within=windows)
    return found


class Usual(NamedTuple):
    """What a window is compared with: the days back of its comparable windows, and the days whose own are known."""

    comparable: list[int]
    earlier: list[tuple[int, list[int]]]


def usual_of(monitor: Monitor, windows: Sequence[Window], sound: NDArray[np.bool_]) -> Usual:
    """The last comparable windows of each of the windows.

    Parameters
    ----------
    windows : of `comparable_windows`.
    sound : which of them have data that may be a reference.
    """
    since = monitor.first_day
    held = sound & np.array([since is None or w.start >= since for w in windows])
    period = _period(monitor)

    def before(day: int) -> list[int]:
        return [d for d in range(day + period, len(windows), period) if held[d]][: monitor.comparable]

    earlier = [(d, before(d)) for d in range(1, len(windows)) if held[d]]
    return Usual(before(0), [(d, past) for d, past in earlier if len(past) >= FEWEST_COMPARABLE])


class _Column(NamedTuple):
    """A column at one window: what was usual, what came, and the standard error of each share's gap."""

    usual: Floats
    now: Floats
    gap: Floats
    error: Floats
    days: int
    comparable: int

    def lower(self, alpha: float) -> float:
        """The least gap of the distributions with confidence, all shares and both sides looked at together."""
        from scipy.special import stdtrit

        reach = float(stdtrit(self.days, 1 - alpha / (2 * len(self.gap)))) * self.error
        return max(0.0, float((self.gap - reach).max()))


def judge_seasonal(
    monitor: Monitor,
    series: Mapping[str, Slots],
    reference: Mapping[str, Reference],
    now: datetime,
    *,
    tick: timedelta,
    spoiled: tuple[Window, ...] = (),
    answers_spoiled: tuple[Window, ...] = (),
    alarmed: tuple[Window, ...] = (),
) -> list[Finding]:
    """Judge the columns of the last window against comparable ones; pure.

    Parameters
    ----------
    series : what kept profiles hold of each column, in the cells of its reference, by begin of the profile.
    reference : gives the cells; its counts are not looked at.
    tick : time between two judgements; windows that end so far apart count for persistence.
    spoiled : windows of faults of feeds, left out of what is judged and of what it is compared with.
    answers_spoiled : windows of silent failures, left out of ``score``.
    alarmed : windows that this monitor told about, which are no reference.
    """
    window = Window(now - monitor.span, now)
    watched = [
        name
        for name in sorted(series)
        if (monitor.watches(name) if monitor.columns else name.partition("[")[0] != "label")
        or (monitor.by_segment and monitor.watches(name.partition("[")[0]))
    ]
    if not monitor.by_segment:
        watched = [name for name in watched if "[" not in name]
    if not watched:
        why = f"no profile of {window} is kept: profiles are made from the first tick after the monitor was applied"
        return [found(monitor, Verdict.INCONCLUSIVE, why, name="drift", value=0.0, n=0, window=window)]
    faults = {name: spoiled + (answers_spoiled if name.partition("[")[0] == "score" else ()) for name in watched}

    def at(end: datetime, names: Sequence[str]) -> dict[str, _Column | int]:
        parts = {name: (series[name], reference[name.partition("[")[0]], faults[name]) for name in names}
        windows = comparable_windows(monitor, Window(end - monitor.span, end))
        return _columns(monitor, parts, windows, alarmed)

    seen = {now: at(now, watched)}
    told = {name: each for name, each in seen[now].items() if isinstance(each, _Column)}
    level = monitor.alpha(len(watched), max(1, int(timedelta(days=30) / tick)))
    level = step_up(lambda a: sum(each.lower(a) > monitor.size for each in told.values()), level, len(watched))
    if any(each.lower(level) > monitor.size for each in told.values()):  # earlier windows matter only then
        seen |= {now - back * tick: at(now - back * tick, watched) for back in range(1, monitor.lasting.n)}
    return [_judged(monitor, name, reference[name.partition("[")[0]], seen, level, window) for name in watched]


def _columns(
    monitor: Monitor,
    series: Mapping[str, tuple[Slots, Reference, tuple[Window, ...]]],
    windows: Sequence[Window],
    alarmed: tuple[Window, ...],
) -> dict[str, _Column | int]:
    """Each column at a window; how many comparable windows there are where these are too few to say."""
    held: dict[str, _Column | int] = {}
    parts: dict[str, tuple[Usual, Floats]] = {}
    noise: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for name, (slots, reference, faults) in series.items():
        counts = _within(slots, windows)
        rows = counts.sum(axis=1)
        bad = np.array([_overlaps(w, faults) for w in windows])
        told = np.array([_overlaps(w, alarmed) for w in windows])
        usual = usual_of(monitor, windows, (rows > 0) & ~bad & ~told)
        if len(usual.comparable) < FEWEST_COMPARABLE or len(usual.earlier) < FEWEST_ERRORS or bad[0]:
            held[name] = len(usual.comparable) if not bad[0] else 0
            continue
        if rows[0] < FEWEST_ROWS:
            held[name] = len(usual.comparable)
            continue
        share = shares_of(reference, counts) / np.maximum(rows, 1)[:, None]
        noise[bool(reference.edges)].append(_errors(share, rows, usual))
        parts[name] = (usual, counts)
    common = {kind: _ratio(sum(a for a, _ in each), sum(b for _, b in each)) for kind, each in noise.items()}
    places = {True: 0, False: 0}
    for name, (usual, counts) in parts.items():
        reference = series[name][1]
        kind = bool(reference.edges)
        own = _ratio(*noise[kind][places[kind]])
        places[kind] += 1
        held[name] = _column(reference, counts, usual, max(own, common[kind]))
    return held


def _errors(share: Floats, rows: Floats, usual: Usual) -> tuple[float, float]:
    """How far earlier windows lay from what was usual before them beyond chance, squared, and what that is in units of
    a variance on the logit scale.
    """
    days = [day for day, _ in usual.earlier]
    weight = np.zeros((len(days), len(rows)))
    for place, (_, past) in enumerate(usual.earlier):
        weight[place, past] = rows[past]
    total = weight.sum(axis=1)
    weight /= total[:, None]
    before = weight @ share
    spread = before * (1 - before)
    chance = spread * (1 / rows[days] + 1 / total)[:, None]
    beyond = float((np.square(share[days] - before) - chance).sum())
    return beyond, float((np.square(spread).sum(axis=1) * (1 + np.square(weight).sum(axis=1))).sum())


def _ratio(beyond: float, unit: float) -> float:
    return max(0.0, beyond / unit) if unit > 0 else 0.0


def _column(reference: Reference, counts: Floats, usual: Usual, noise: float) -> _Column:
    before = counts[usual.comparable]
    sizes = before.sum(axis=1)
    whole, n, m = before.sum(axis=0), float(sizes.sum()), float(counts[0].sum())
    p, q = shares_of(reference, whole) / n, shares_of(reference, counts[0]) / m
    share = (shares_of(reference, counts[0]) + 1) / (m + 2)  # a share of none has an error too
    apart = 1 + float(np.square(sizes / n).sum())
    wild = np.maximum(np.square(p * (1 - p)), np.square(share * (1 - share)))
    error = np.sqrt(noise * wild * apart + share * (1 - share) * (1 / m + 1 / n))
    # windows of one hour that follow each other by days are alike, so errors say less than their number
    days = max(FEWEST_ERRORS // 2, len(usual.earlier) // 2)
    return _Column(whole, counts[0], np.abs(q - p), error, days, len(usual.comparable))


def _within(slots: Slots, windows: Sequence[Window]) -> Floats:
    """The counts of each window, shape (windows, cells)."""
    bounds = np.array([[to_micros(window.start), to_micros(window.end)] for window in windows])
    first, last = np.searchsorted(slots.at, bounds).T
    reached = np.vstack([np.zeros((1, slots.cells.shape[1])), np.cumsum(slots.cells, axis=0)])
    total: Floats = reached[last] - reached[first]
    return total


def _overlaps(window: Window, others: Sequence[Window]) -> bool:
    return any(other.start < window.end and window.start < other.end for other in others)


def _judged(
    monitor: Monitor,
    name: str,
    reference: Reference,
    seen: Mapping[datetime, Mapping[str, _Column | int]],
    level: float,
    window: Window,
) -> Finding:
    base, _, where = name.partition("[")
    segment = dict([where.rstrip("]").split("=", 1)]) if where else {}
    this = seen[window.end][name]
    hours = f"the same hours of {'a week' if monitor.season == 'week' else 'a day'} before"
    if isinstance(this, int):
        why = (
            f"{name}: {this} comparable windows ({hours}) and what is kept of {window} are too few to say; "
            f"{FEWEST_COMPARABLE} are needed, {FEWEST_ROWS} values now, and {FEWEST_ERRORS} earlier windows that have "
            f"comparable ones themselves"
        )
        return found(
            monitor, Verdict.INCONCLUSIVE, why, name="drift", value=0.0, n=0, window=window, column=base,
            segment=segment,
        )  # fmt: skip
    value = float(this.gap.max()) if reference.edges else float(this.gap.sum() / 2)
    lower = min(value, this.lower(level))
    beyond = [
        end for end, each in seen.items() if isinstance(c := each[name], _Column) and c.lower(level) > monitor.size
    ]
    bad = lower > monitor.size and len(beyond) >= monitor.lasting.k
    what = "largest gap of distribution functions" if reference.edges else "share that moved"
    why = (
        f"{name}: {what} is {value:.3f} from {this.comparable} comparable windows ({hours}; at least {lower:.3f}; "
        f"tolerated {monitor.size:g}; {window}, {_moved(reference, this)})"
    )
    if bad:
        why += (
            "; look at what sends this column and at who asks at these hours; if it is the new normal, say so with "
            f'since="{window.end:%Y-%m-%d}" in the monitor'
        )
    return found(
        monitor, Verdict.FAIL if bad else Verdict.PASS, why, name="drift", value=value, n=int(this.now.sum()),
        window=window, column=base, segment=segment, interval=Interval(lower, 1.0, 1 - level),
        onset=min(beyond) - monitor.span if bad else None,
        cause=f"{name} is unlike {hours}" if bad else "", lingers=bool(value > monitor.size),
    )  # fmt: skip


def _moved(reference: Reference, seen: _Column) -> str:
    """In words: which category moved most, or where the middle of the numbers lies now."""
    p, q = seen.usual / seen.usual.sum(), seen.now / seen.now.sum()
    if not reference.edges:
        top = int(np.abs(q - p).argmax())
        label = reference.labels[top] if top < len(reference.labels) else "other values"
        return f"{label}: {p[top]:.1%} usually, {q[top]:.1%} now"
    old, new = (min(int(np.searchsorted(np.cumsum(x), 0.5)), len(reference.edges) - 1) for x in (p, q))
    return f"median near {reference.edges[old]:.4g} usually, {reference.edges[new]:.4g} now"


def seasonal_traffic(
    monitor: Monitor,
    kept: Sequence[WindowProfile],
    n: int,
    window: Window,
    *,
    tick: timedelta,
    spoiled: tuple[Window, ...] = (),
) -> Finding | None:
    """Whether far fewer requests came than in comparable windows; pure. None where nothing is wrong.

    Numbers are compared on the logarithmic scale, where they vary alike by day and by night.

    Parameters
    ----------
    kept : profiles of comparable windows, of all variants.
    n : requests of the window.
    spoiled : windows that were alarmed or known to be wrong, which are no reference.
    """
    from scipy.special import stdtrit

    windows = comparable_windows(monitor, window)
    at = np.array(sorted({to_micros(each.start) for each in kept}), dtype=np.int64)
    sizes = np.zeros((len(at), 1))
    for each in kept:
        sizes[np.searchsorted(at, to_micros(each.start)), 0] += each.profile.n
    rows = _within(Slots(at, sizes), windows)[:, 0]
    usual = usual_of(monitor, windows, (rows > 0) & ~np.array([_overlaps(w, spoiled) for w in windows]))
    if len(usual.comparable) < FEWEST_COMPARABLE or len(usual.earlier) < FEWEST_ERRORS:
        why = (
            f"traffic: {len(usual.comparable)} comparable windows of {window} are kept, too few to say what is usual "
            f"({FEWEST_COMPARABLE} are needed, and {FEWEST_ERRORS} earlier ones that have their own)"
        )
        return found(monitor, Verdict.INCONCLUSIVE, why, name="volume", value=float(n), n=n, window=window)
    size = np.log(rows + 0.5)
    errors = np.array([(size[d] - size[past].mean()) ** 2 / (1 + 1 / len(past)) for d, past in usual.earlier])
    centre = float(size[usual.comparable].mean())
    reach = float(np.sqrt(errors.mean() * (1 + 1 / len(usual.comparable))))
    days = max(FEWEST_ERRORS // 2, len(errors) // 2)
    reach *= float(stdtrit(days, 1 - monitor.alpha(1, max(1, int(timedelta(days=30) / tick)))))
    if np.exp(centre) < FEWEST_TRAFFIC or np.log(n + 0.5) + reach >= centre + np.log(1 - min(monitor.size, 0.99)):
        return None
    cause = "no requests arrived" if not n else "requests are missing"
    why = (
        f"{cause}: {n} in {window}, {np.exp(centre):.0f} are usual in {len(usual.comparable)} comparable windows (at "
        f"least {np.exp(centre - reach):.0f} by chance); look whether the callers are up and where their requests go"
    )
    return found(
        monitor, Verdict.FAIL, why, name="volume", value=float(n), n=n, window=window, cause=cause, lingers=True
    )
