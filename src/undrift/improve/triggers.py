"""When a challenger is trained, and when not: a pure decision over incidents, with cool-down and budget.

A retrain is refused while a fault explains the decay, because it would learn the fault. Every refusal is logged once
with its reason; doing nothing is a decision too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from undrift.errors import DeclarationError
from undrift.event import Draft, Event
from undrift.ids import duration
from undrift.monitor.alerts import open_incidents, spoiled_windows
from undrift.state.journal import Reducer

__all__ = ["RETRAIN_REDUCERS", "Retrain", "RetrainDecision", "consider", "finished"]

MOST_SPOILED: Final = 0.25
"""Share of the training window that faults may have spoiled."""
REMEMBERED: Final = 20

State = Mapping[str, Any]


class Retrain(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a challenger is trained by itself.

    Parameters
    ----------
    monitors : monitors whose incidents may ask; all whose actions name ``retrain`` if empty.
    window : how much of the past it is trained on: captured traffic and, before that, the model's own training data.
    fresh : the newest part of it, held out: there the challenger must beat the champion.
    minimum_rows : labelled rows without which nothing is trained.
    cooldown : shortest time between two requests.
    maximum_age : ask when the champion is older, whatever monitors say; never if empty.
    refuse_while : kinds of incidents that, while open, make a retrain pointless.
    at_most, per : budget, requests per span.
    """

    monitors: tuple[str, ...] = ()
    window: str = "60d"
    fresh: str = "14d"
    minimum_rows: int = 1000
    cooldown: str = "14d"
    maximum_age: str = ""
    refuse_while: tuple[str, ...] = ("silent", "feed")
    at_most: int = 6
    per: str = "90d"

    def __post_init__(self) -> None:
        for name in ("window", "fresh", "cooldown", "per", "maximum_age"):
            text = getattr(self, name)
            try:
                duration(text) if text or name != "maximum_age" else None
            except ValueError as error:
                raise DeclarationError(f"retrain: {name}: {error}.") from error
        if self.at_most < 1 or self.minimum_rows < 1:
            raise DeclarationError("retrain: at_most and minimum_rows must be at least 1.")


class RetrainDecision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a challenger is wanted, why or why not, and the events to record (none where nothing asked)."""

    wanted: bool
    why: str = ""
    drafts: tuple[Draft, ...] = ()


def consider(
    declared: Retrain,
    model: str,
    state: State | None,
    incidents: Mapping[str, dict[str, Any]],
    *,
    under_way: bool,
    now: datetime,
) -> RetrainDecision:
    """Decide whether to train a challenger now; pure.

    Parameters
    ----------
    state : the projection ``retrain`` of the model.
    incidents : the projection ``incident``, with what this tick decided.
    under_way : a rollout of the model is running.
    """
    faults = open_incidents(incidents, model, declared.refuse_while)
    asking = [i for i in open_incidents(incidents, model) if _asks(declared, i)]
    damaged = [i for i in faults if i.get("damage")]
    old = _old(declared, state, now)
    if not asking and not damaged and not old:
        return RetrainDecision(wanted=False, why="nothing asks for it")
    if state is not None and state.get("pending"):
        return RetrainDecision(wanted=False, why="one is under way")
    reason = asking[0]["title"] if asking else str(damaged[0]["damage"]) if damaged else old
    about = asking[0] if asking else damaged[0] if damaged else None
    refused = _refusal(declared, model, state, incidents, faults, under_way, now)
    if refused is not None:
        code, text = refused
        occasion = (
            f"{about['fingerprint']}|{about['opened_at']}" if about else f"age|{(state or {}).get('trained_at', '')}"
        )
        key = f"{model}|retrain.refused|{occasion}|{code}"
        why = f"{reason}: not retrained, {text}"
        payload = {"model": model, "reason": code, "asked_by": reason}
        return RetrainDecision(
            wanted=False, why=why, drafts=(_draft("retrain.refused", model, now, why, payload, key),)
        )
    payload = {
        "model": model,
        "by": "work",
        "asked_by": reason,
        "incident": about["fingerprint"] if about else "",
        "window": [(now - duration(declared.window)).isoformat(), now.isoformat()],
    }
    key = f"{model}|retrain.requested|{now.isoformat()}"
    return RetrainDecision(
        wanted=True, why=reason, drafts=(_draft("retrain.requested", model, now, reason, payload, key),)
    )


def _asks(declared: Retrain, incident: Mapping[str, Any]) -> bool:
    named = not declared.monitors or incident["monitor"] in declared.monitors
    return bool(named and "retrain" in incident["actions"])


def _old(declared: Retrain, state: State | None, now: datetime) -> str:
    if not declared.maximum_age or state is None or not state.get("trained_at"):
        return ""
    age = now - datetime.fromisoformat(state["trained_at"])
    return f"the last training is {age.days} days old" if age >= duration(declared.maximum_age) else ""


def _refusal(
    declared: Retrain,
    model: str,
    state: State | None,
    incidents: Mapping[str, dict[str, Any]],
    faults: list[dict[str, Any]],
    under_way: bool,
    now: datetime,
) -> tuple[str, str] | None:
    """A short code and the reason in words, or None."""
    if faults:
        titles = "; ".join(str(i["title"]) for i in faults)
        return "fault", f"because a fault explains it and its data are not to be learnt from ({titles})"
    window = duration(declared.window)
    spoiled = _covered(spoiled_windows(incidents, model, now, kinds=declared.refuse_while), now - window, now)
    if spoiled > MOST_SPOILED * window:
        return "spoiled", f"because faults spoiled {spoiled / window:.0%} of the last {declared.window}"
    if under_way:
        return "rollout", "because a rollout is under way"
    past = [datetime.fromisoformat(at) for at in (state or {}).get("requests", ())]
    if past and now - past[-1] < duration(declared.cooldown):
        return (
            "cooldown",
            f"because the last request was {(now - past[-1]).days} days ago (cool-down {declared.cooldown})",
        )
    recent = [at for at in past if now - at < duration(declared.per)]
    if len(recent) >= declared.at_most:
        return "budget", f"because there were {len(recent)} requests in {declared.per} already"
    return None


def _covered(windows: Iterable[Any], start: datetime, end: datetime) -> timedelta:
    """How much of [start, end) the windows (sorted by start) cover."""
    total, reached = timedelta(), start
    for window in windows:
        begin, stop = max(window.start, reached), min(window.end, end)
        if stop > begin:
            total, reached = total + (stop - begin), stop
    return total


def finished(
    model: str,
    accepted: bool,
    now: datetime,
    why: str,
    *,
    version: int = 0,
    report: Any = None,
    trained_until: str = "",
) -> Draft:
    """The event that ends a retrain job: a challenger was registered, or none was worth it."""
    payload = {
        "model": model,
        "accepted": accepted,
        "version": version,
        "gate": msgspec.to_builtins(report) if report is not None else None,
        "trained_until": trained_until or now.isoformat(),
    }
    return _draft("retrain.finished", model, now, why, payload, f"{model}|retrain.finished|{now.isoformat()}")


def _draft(kind: str, model: str, now: datetime, why: str, payload: dict[str, Any], key: str) -> Draft:
    return Draft(kind=kind, subject=f"model:{model}", at=now, actor="work", why=why, payload=payload, key=key)


def _key(event: Event) -> Iterable[str]:
    return (str(event.payload.get("model", "")),)


def _apply(value: dict[str, Any] | None, event: Event, key: str) -> dict[str, Any] | None:
    state: dict[str, Any] = {
        "pending": False,
        "requests": [],
        "refused": [],
        "accepted": 0,
        "rejected": 0,
        "trained_at": "",
        **(value or {}),
    }
    at = event.at.isoformat()
    if event.kind == "retrain.requested":
        return {**state, "pending": True, "requests": [*state["requests"], at][-REMEMBERED:], "why": event.why}
    if event.kind == "retrain.refused":
        return {**state, "refused": [*state["refused"], [at, event.why]][-REMEMBERED:]}
    if event.kind == "retrain.finished":
        won = bool(event.payload.get("accepted"))
        counted = "accepted" if won else "rejected"
        trained = event.payload.get("trained_until", at) if won else state["trained_at"]
        return {**state, "pending": False, counted: state[counted] + 1, "trained_at": trained, "why": event.why}
    if event.kind == "job.failed":
        return {**state, "pending": False} if event.payload.get("job") == "retrain" else value
    return {**state, "trained_at": at}


RETRAIN_REDUCERS: Final = (
    Reducer(
        "retrain",
        frozenset({"retrain.requested", "retrain.refused", "retrain.finished", "revision.promoted", "job.failed"}),
        _key,
        _apply,
    ),
)
