"""Whether a monitor may page: after a recorded backtest within its budget, or by the word of a person.

The permission belongs to the monitor as it was declared when it was earned: a changed monitor has to earn it again.
Until then its alerts go to the log and the dashboard only. Pure; the backtest itself runs in backtest.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from undrift.event import Draft, Event
from undrift.finding import Finding, Interval, Measurement, Verdict, Window
from undrift.ids import content_hash
from undrift.monitor.monitors import Monitor
from undrift.state.journal import Reducer

__all__ = [
    "FEWEST_DAYS",
    "PAGING_REDUCERS",
    "Permission",
    "backtested",
    "declared_hash",
    "judge_budget",
    "may_page",
    "said",
]

FEWEST_DAYS: Final = 28
"""Judged days below which a backtest proves nothing."""
SIGNIFICANT: Final = 0.05
"""Probability, under the stated budget, of so many alarms, below which the budget counts as broken."""


class Permission(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a monitor may page, and why or why not."""

    may: bool
    why: str


def declared_hash(monitor: Monitor) -> str:
    """What a permission is tied to: everything that decides when the monitor alarms, not whom it tells."""
    told = {"severity", "runbook", "owner", "actions", "value_per_error"}
    plain = {name: value for name, value in msgspec.to_builtins(monitor).items() if name not in told}
    return content_hash(plain)


def may_page(model: str, monitor: Monitor, records: Mapping[str, Mapping[str, Any]]) -> Permission:
    """Whether a monitor may page now.

    Parameters
    ----------
    records : the projection ``paging``.
    """
    record = records.get(f"{model}/{monitor.name}")
    how = "undrift watch --backtest 60d 0d"
    if record is None:
        return Permission(may=False, why=f"no backtest is on record ({how})")
    if record["hash"] != declared_hash(monitor):
        return Permission(may=False, why=f"it was changed since its last backtest ({how})")
    return Permission(may=bool(record["may"]), why=str(record["why"]))


def judge_budget(monitor: Monitor, alarms: int, days: float, window: Window) -> Finding:
    """Judge the false alarms of a backtest by the stated budget; pure.

    FAIL where the budget would give so many alarms, or more, with a probability below 5 % (Poisson); INCONCLUSIVE
    below 28 judged days; PASS otherwise: the history does not contradict the budget. The interval is Garwood's exact
    one (Biometrika 28, 1936), in alarms per 30 days.
    """
    from scipy.stats import chi2, poisson

    expected = monitor.budget * days / 30
    rate = alarms / days * 30 if days > 0 else 0.0
    low = float(chi2.ppf(0.025, 2 * alarms)) / 2 if alarms else 0.0
    high = float(chi2.ppf(0.975, 2 * alarms + 2)) / 2
    interval = Interval(low / days * 30, high / days * 30) if days > 0 else None
    spread = f" [{interval.lower:.2f}, {interval.upper:.2f}]" if interval else ""
    text = f"{alarms} false alarms in {days:.0f} judged days: {rate:.2f}{spread} in 30 days, {monitor.budget:g} allowed"
    if days > 0 and alarms and float(poisson.sf(alarms - 1, expected)) < SIGNIFICANT:
        verdict = Verdict.FAIL
    elif days < FEWEST_DAYS:
        verdict, text = Verdict.INCONCLUSIVE, f"{text}; at least {FEWEST_DAYS} judged days are needed"
    else:
        verdict = Verdict.PASS
    seen = Measurement(
        name="false alarms in 30 days",
        value=rate,
        n=int(days),
        interval=interval,
        window=window,
        detail={"monitor": monitor.name, "kind": monitor.kind, "alarms": alarms, "budget": monitor.budget},
    )
    return Finding(verdict=verdict, why=f"{monitor.name}: {text}", measurement=seen)


def backtested(model: str, monitor: Monitor, found: Finding, now: datetime, *, actor: str) -> Draft:
    """The event that records a monitor's backtest; it may page if the verdict is PASS."""
    passed = found.verdict is Verdict.PASS
    return _draft(
        "monitor.backtested",
        model,
        monitor,
        now,
        actor,
        f"{found.verdict.name}: {found.why}",
        {"may": passed, "finding": msgspec.to_builtins(found)},
    )


def said(model: str, monitor: Monitor, may: bool, now: datetime, *, actor: str, why: str) -> Draft:
    """The event by which a person lets a monitor page without a backtest, or forbids it."""
    return _draft("monitor.paging", model, monitor, now, actor, why, {"may": may})


def _draft(
    kind: str, model: str, monitor: Monitor, now: datetime, actor: str, why: str, payload: dict[str, Any]
) -> Draft:
    full = {"model": model, "monitor": monitor.name, "hash": declared_hash(monitor), **payload}
    return Draft(kind=kind, subject=f"model:{model}", at=now, actor=actor, why=why, payload=full)


def _key(event: Event) -> Iterable[str]:
    return (f"{event.payload['model']}/{event.payload['monitor']}",)


def _apply(value: dict[str, Any] | None, event: Event, key: str) -> dict[str, Any]:
    """The last word counts; a backtest that could not tell is none, where there was one on the same declaration."""
    open_still = event.payload.get("finding", {}).get("verdict") == Verdict.INCONCLUSIVE
    if open_still and value is not None and value["hash"] == event.payload["hash"]:
        return value
    told = event.why if event.kind == "monitor.backtested" else f"{event.actor}: {event.why}"
    parts = {name: event.payload[name] for name in ("model", "monitor", "hash", "may")}
    return {**parts, "why": told, "at": event.at.isoformat(), "actor": event.actor}


PAGING_REDUCERS: Final = (Reducer("paging", frozenset({"monitor.backtested", "monitor.paging"}), _key, _apply),)
