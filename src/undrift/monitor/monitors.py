"""What a person wants watched: the Monitor declaration, and the shape of what monitors find.

A monitor speaks only beyond a practical size, then only when chance is excluded at a level that follows from its
false-alarm budget, then only when it lasts. How each kind measures stands in its own file.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import msgspec

from undrift.data.difference import MEASURES
from undrift.data.text import MEASURED
from undrift.errors import DeclarationError
from undrift.finding import Finding, Interval, Measurement, Verdict, Window
from undrift.ids import duration
from undrift.stats.calibration import Persistence, level_per_overlapping_test, level_per_test

__all__ = ["FEWEST_DAYS", "ROC_AUC", "Monitor", "found", "healthy"]

Kind = Literal[
    "feed",
    "silent",
    "integrity",
    "drift",
    "multivariate",
    "performance",
    "change",
    "estimate",
    "slices",
    "service",
    "skew",
    "golden",
    "labels",
    "freshness",
    "attribution",
]
FEWEST_DAYS: Final[dict[str, int]] = {
    "drift": 5,
    "multivariate": 5,
    "performance": 3,
    "change": 5,
    "estimate": 3,
    "slices": 7,
    "attribution": 5,
}
"""Days of data a window must hold before these kinds judge it: they estimate from sums per day how days differ."""
ROC_AUC: Final = "roc_auc"
"""What a performance monitor of two classes may judge instead of a loss."""
TOGETHER: Final = ("correlation", "reconstruction", "domain_auc", "mean_shift", "mmd")
SHORTEST: Final[dict[str, int]] = {"drift": 1, "multivariate": 1, "performance": 4}
"""Kinds that alarm only if their last window is beyond, and the share of it (one in so many) that is judged too."""
LASTING: Final = ("drift", "performance", "estimate", "attribution")
"""Kinds whose alarms may be asked to last."""
ACTIONS: Final = frozenset({"freeze", "retrain", "roll_back"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DEFAULTS: dict[str, dict[str, Any]] = {
    "feed": {"window": "1d", "practical": 0.3, "severity": "high"},
    "silent": {"window": "1d", "practical": 0.3, "severity": "critical"},
    "integrity": {"window": "1d", "practical": 0.05, "severity": "high"},
    "drift": {"window": "7d", "practical": 0.2, "persistence": (2, 3), "severity": "low"},
    "multivariate": {"window": "7d", "practical": 0.1, "severity": "low"},
    "performance": {
        "window": "14d",
        "practical": 0.1,
        "persistence": (2, 3),
        "severity": "high",
        "actions": ("retrain",),
    },
    "change": {"window": "60d", "practical": 0.1, "severity": "high"},
    "estimate": {"window": "7d", "practical": 0.1, "persistence": (2, 3), "severity": "low"},
    "slices": {"window": "28d", "practical": 0.2, "severity": "high"},
    "service": {"window": "1d", "practical": 0.0, "severity": "high"},
    "skew": {"window": "1d", "practical": 0.01, "severity": "critical"},
    "freshness": {"window": "1d", "practical": 0.05, "severity": "high"},
    "labels": {"window": "1d", "practical": 0.3, "severity": "high"},
    "attribution": {"window": "14d", "practical": 0.1, "persistence": (2, 3), "severity": "low"},
    "golden": {"window": "1h", "practical": 0.0, "severity": "critical"},
}


class Monitor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something to be watched.

    Parameters
    ----------
    name : unique in the model; names its incidents.
    kind : ``feed`` (a source: changed units, nulls, stuck columns, missing rows), ``silent`` (answers: constant,
        collapsed, failing; nulls that surge; traffic that stops), ``drift`` (inputs, features, ``score``, ``label``
        against the reference profile of the version), ``performance`` (loss on labelled rows against the loss the
        version was expected to have), ``integrity`` (rows unlike those in training: missing, unseen, out of range, one
        value too often, looked up in vain), ``change`` (the day from which the loss rose), ``multivariate`` (inputs
        that no longer go together), ``estimate`` (the loss before labels are there), ``slices`` (the worst parts of the
        rows, found by search), ``service`` (failed and late answers against an objective; memory, load and cost against
        limits), ``skew`` (features served against features computed offline), ``golden`` (running workers asked again
        what their models answered when they were registered, and files of bundles that changed),
        ``attribution`` (inputs that the answers rest on more, or less, than where the version was measured),
        ``labels`` (labels that stop coming, or come late), ``freshness`` (looked-up values that are old or gone).
    columns : which columns; all if empty. Of free text (drift) ``note`` stands for all that is measured of it,
        ``note.words`` for one of it.
    source : which source (feed); all the model's views use if empty.
    metric : which loss (performance, estimate, slices); empty for ``log_loss`` of classifiers and ``absolute_error`` of
        regression. Of two classes also ``roc_auc`` (performance): how well scores rank the rows of a day. Which measure
        (multivariate): ``correlation``, ``reconstruction`` or ``domain_auc``, all if empty; of an embedding in
        ``columns``, ``mean_shift`` or ``mmd``.
    history : how far back kept profiles tell how days and weeks naturally differ (drift), as ``60d``; empty for none:
        then the days of the window alone have to.
    distance : which one (drift): a name of `undrift.data.difference.MEASURES`; empty for Kolmogorov-Smirnov of numbers
        and total variation of categories, both shares of rows in [0, 1], which ``practical`` is then too.
    season, comparable : ``"day"`` or ``"week"``: a window of at most a day is compared with the same hours of the last
        ``comparable`` days or weeks, instead of training (drift) or the week before (silent: the traffic). Their
        profiles are kept; windows that were alarmed or known to be wrong are left out.
    timezone : whose hours are the same ones (season), as ``Europe/Paris``; UTC if empty.
    since : from which day (UTC), as ``2026-03-01``, windows are what is normal (season): earlier ones are no reference
        and earlier alarms no reason to leave one out. Empty for all.
    sample, seconds : how many requests are explained at each judgement, drawn by the hash of their ids, and how long
        that may take (attribution).
    objective, limit_ms : share of answers that must be good (service), and the milliseconds above which an answer is
        not; 0 for no limit, so that only failures count.
    limit_memory_mb, limit_busy, limit_cost : what a worker process may hold (MB), the share of a core it may use over a
        quarter of an hour, and what a million predictions may cost over an hour at ``serve.price_per_cpu_hour``
        (service); 0 for no limit.
    oldest : the age, as ``3h``, above which a looked-up value is stale (freshness); each view's time to live if empty.
    by_segment : also each declared segment (performance; drift where ``history`` is kept).
    window : span of event time that is judged together; at least five days for ``drift`` and three for ``performance``,
        which would otherwise never see enough days to judge. The kind's default if empty: 1d (feed, silent), 7d
        (drift), 14d (performance).
    practical : size below which nothing is said: a distance in [0, 1] (drift), a share of rows (feed, silent: nulls), a
        share of the expected loss (performance: 0.1 is ten per cent worse; of ``roc_auc`` a share of what is expected
        above 0.5). None for the kind's default.
    persistence : an alarm needs k of the last n ticks.
    budget : false alarms tolerated in 30 days for this monitor, all columns and segments together.
    severity, actions : of its incidents; ``retrain`` lets the trigger act on them, ``freeze`` keeps rollouts from
        advancing while one is open, ``roll_back`` ends a rollout under way, or takes back the release that came last
        before the incident.
    runbook : a link or a sentence for the person who is called.
    owner : who is called; the model's owner if empty.
    value_per_error : money that one error more than expected costs (performance): for one wrong class, or for one unit
        of absolute error in regression. 0 if unknown.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...] = ()
    source: str = ""
    metric: str = ""
    distance: str = ""
    history: str = ""
    season: str = ""
    comparable: int = 8
    timezone: str = ""
    since: str = ""
    sample: int = 200
    seconds: float = 10.0
    objective: float = 0.99
    oldest: str = ""
    limit_ms: float = 0.0
    limit_memory_mb: float = 0.0
    limit_busy: float = 0.0
    limit_cost: float = 0.0
    by_segment: bool = False
    window: str = ""
    practical: float | None = None
    persistence: tuple[int, int] | None = None
    budget: float = 1.0
    severity: str = ""
    actions: tuple[str, ...] | None = None
    runbook: str = ""
    owner: str = ""
    value_per_error: float = 0.0

    def __post_init__(self) -> None:
        try:
            span = self.span
            rule = self.lasting
            for text in (self.history, self.oldest):
                duration(text) if text else None
        except ValueError as error:
            raise DeclarationError(f"monitor {self.name!r}: {error}.") from error
        if self.distance and self.distance not in MEASURES:
            raise DeclarationError(
                f"monitor {self.name!r}: unknown distance {self.distance!r}; known: {', '.join(MEASURES)}."
            )
        limits = {name: getattr(self, name) for name in ("limit_ms", "limit_memory_mb", "limit_busy", "limit_cost")}
        if not 0 < self.objective < 1 or min(limits.values()) < 0:
            raise DeclarationError(
                f"monitor {self.name!r}: the objective must lie between 0 and 1 and each limit be at least 0, got "
                f"{self.objective} and {', '.join(f'{name}={value:g}' for name, value in limits.items())}."
            )
        if span <= timedelta(0) or self.budget <= 0 or self.size < 0 or not rule.n:
            raise DeclarationError(
                f"monitor {self.name!r}: window and budget must be above 0, the practical size at least 0."
            )
        self._check_season()
        if self.sample < 1 or self.seconds <= 0:
            raise DeclarationError(f"monitor {self.name!r}: sample must be at least 1 and seconds above 0.")
        fewest = 0 if self.season else FEWEST_DAYS.get(self.kind, 0)
        if span < timedelta(days=fewest):
            raise DeclarationError(
                f"monitor {self.name!r}: a window of {self.window} can never be judged: kind {self.kind!r} compares "
                f"days and needs at least {fewest} of them.",
                hint=f'Say window="{fewest}d" or longer, or leave it out: the default is '
                f"{_DEFAULTS[self.kind]['window']}.",
            )
        if self.persistence is not None and not (self.kind in LASTING or self.season):
            raise DeclarationError(
                f"monitor {self.name!r}: kind {self.kind!r} judges its last window alone, so persistence says nothing "
                f"of it; it belongs to {', '.join(LASTING)} and to monitors with a season.",
                hint="Leave persistence out.",
            )
        if self.kind == "multivariate" and self.metric not in ("", *TOGETHER):
            raise DeclarationError(
                f"monitor {self.name!r}: unknown metric {self.metric!r} of kind multivariate; known: "
                f"{', '.join(TOGETHER)}."
            )
        if self.metric == ROC_AUC and self.kind in ("change", "estimate", "slices"):
            raise DeclarationError(
                f"monitor {self.name!r}: kind {self.kind!r} judges losses of rows, and {ROC_AUC} is no row's.",
                hint=f'Say kind="performance" for {ROC_AUC}, or leave the metric out.',
            )
        unknown = set(self.acts) - ACTIONS
        if unknown:
            raise DeclarationError(
                f"monitor {self.name!r}: unknown action {sorted(unknown)[0]!r}; known: {', '.join(sorted(ACTIONS))}."
            )

    def _check_season(self) -> None:
        where = f"monitor {self.name!r}"
        if not self.season:
            if self.timezone or self.since:
                raise DeclarationError(f"{where}: timezone and since say what a season is; say season too.")
            return
        if self.season not in ("day", "week") or self.kind not in ("drift", "silent"):
            raise DeclarationError(
                f"{where}: season is 'day' or 'week', of kinds drift and silent; got {self.season!r} of {self.kind}."
            )
        if not timedelta(0) < self.span <= timedelta(days=1) or not 3 <= self.comparable <= 52:
            raise DeclarationError(
                f"{where}: with a season the window is at most a day (got {self.window}) and comparable lies between "
                f"3 and 52 (got {self.comparable})."
            )
        if self.history or self.distance:
            raise DeclarationError(
                f"{where}: history and distance belong to a comparison with training; with a season leave them out."
            )
        if self.timezone and timedelta(hours=1) < self.span < timedelta(days=1):
            raise DeclarationError(
                f"{where}: with a timezone the window is at most an hour, or a day, so that clocks may change between "
                f"profiles; got {self.window}."
            )
        try:
            ZoneInfo(self.timezone or "UTC")
            self.first_day  # noqa: B018  raises where it is no day
        except (ValueError, KeyError, OSError) as error:
            raise DeclarationError(
                f"{where}: timezone is a name like 'Europe/Paris' and since a day like '2026-03-01'; got "
                f"{self.timezone!r} and {self.since!r}."
            ) from error

    @property
    def first_day(self) -> datetime | None:
        """The beginning of the day ``since``; None for no such day."""
        return datetime.fromisoformat(self.since).replace(tzinfo=UTC) if self.since else None

    @property
    def span(self) -> timedelta:
        """The window as a span of time."""
        return duration(self.window or ("1d" if self.season else _DEFAULTS[self.kind]["window"]))

    @property
    def size(self) -> float:
        """The practical size."""
        return float(_DEFAULTS[self.kind]["practical"] if self.practical is None else self.practical)

    @property
    def lasting(self) -> Persistence:
        """How often of how many ticks an alarm needs."""
        k, n = self.persistence or _DEFAULTS[self.kind].get("persistence", (1, 1))
        return Persistence(k, n)

    @property
    def level(self) -> str:
        """The severity of its incidents."""
        return self.severity or str(_DEFAULTS[self.kind]["severity"])

    @property
    def acts(self) -> tuple[str, ...]:
        """What its incidents may set off; feed, silent and golden ones freeze rollouts unless said otherwise."""
        if self.actions is not None:
            return self.actions
        default = ("freeze",) if self.kind in ("feed", "silent", "golden") else ()
        return tuple(_DEFAULTS[self.kind].get("actions", default))

    def watches(self, column: str) -> bool:
        """Whether a column is one of ``columns``, or is measured of free text that is."""
        text, _, what = column.rpartition(".")
        return column in self.columns or (what in MEASURED and text in self.columns)

    def every(self, tick: timedelta) -> timedelta:
        """How often it judges: at each tick, once a day where it compares days, once a window where it has a season,
        if ticks are shorter.
        """
        if self.season:
            return max(tick, self.span)
        return max(tick, timedelta(days=1)) if self.kind in FEWEST_DAYS else tick

    def due(self, now: datetime, tick: timedelta) -> bool:
        """Whether it judges at the tick that ends now: at the first one of a UTC day where it does so once a day."""
        every = self.every(tick)
        return (now - _EPOCH) // every != (now - tick - _EPOCH) // every

    def alpha(self, tests: int, ticks: int = 30) -> float:
        """The error rate of each test, so that ``tests`` tests at each of ``ticks`` ticks (30 days) keep the budget.

        Windows longer than the time between ticks overlap: one that is beyond by chance is so for days, which is one
        alarm (`level_per_overlapping_test`, by the shortest part of the window that is judged). Kinds that are not in
        `SHORTEST`, and hours that follow each other (``season``), which are alike too, take each window for an alarm.
        """
        steps = self.span / (timedelta(days=30) / ticks)
        if self.season or (steps > 1 and self.kind not in SHORTEST):
            return level_per_test(self.budget, ticks, max(tests, 1))
        if steps <= 1:
            return level_per_test(self.budget, ticks, max(tests, 1), self.lasting)
        length = max(int(steps / SHORTEST[self.kind]), min(FEWEST_DAYS[self.kind], int(steps)))
        if self.kind == "performance" and self.metric == ROC_AUC:
            length = 1  # its latest day is judged too
        return level_per_overlapping_test(self.budget, ticks, max(tests, 1), length, self.lasting)


def found(
    monitor: Monitor,
    verdict: Verdict,
    why: str,
    *,
    name: str,
    value: float | None,
    n: int,
    window: Window,
    column: str = "",
    segment: dict[str, str] | None = None,
    interval: Interval | None = None,
    onset: datetime | None = None,
    cause: str = "",
    problem: str = "",
    **detail: Any,
) -> Finding:
    """A finding of a monitor: the column, the cause in words and its onset stand in ``measurement.detail``."""
    shown: dict[str, Any] = {"monitor": monitor.name, "kind": monitor.kind}
    if column:
        shown["column"] = column
    if cause:
        shown["cause"] = cause
    if verdict is Verdict.FAIL:
        shown["onset"] = (onset or window.start).isoformat()
    seen = Measurement(
        name=name,
        value=value,
        n=n,
        window=window,
        segment=segment or {},
        interval=interval,
        problem=problem,
        detail={**shown, **detail},
    )
    return Finding(verdict=verdict, why=why, measurement=seen)


def healthy(at: datetime, spoiled: tuple[Window, ...]) -> bool:
    """Whether a moment lies outside all windows whose data are not to be trusted."""
    return not any(at in window for window in spoiled)
