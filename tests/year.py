"""A year of events as a run of the demo logs them, with dates and figures chosen by hand, for tests of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from undrift.event import GENESIS, Draft, Event, seal

__all__ = ["Log", "on"]

DAY = timedelta(days=1)
WALL = datetime(2031, 7, 9, 11, 22, 33, tzinfo=UTC)


def on(month: int, day: int, hour: int = 0) -> datetime:
    """A moment of 2013, UTC."""
    return datetime(2013, month, day, hour, tzinfo=UTC)


class Log:
    """Events in their order, sealed; each method adds what a run would log."""

    def __init__(self, wall: datetime = WALL) -> None:
        self.events: list[Event] = []
        self._wall = wall

    def add(
        self,
        kind: str,
        at: datetime,
        why: str,
        payload: dict[str, Any],
        *,
        subject: str = "model:flights",
        actor: str = "work",
    ) -> None:
        draft = Draft(kind=kind, subject=subject, at=at, actor=actor, why=why, payload=payload)
        seq = len(self.events) + 1
        prev = self.events[-1].hash if self.events else GENESIS
        self.events.append(seal(draft, seq, prev, self._wall + seq * timedelta(seconds=1)))

    def first_champion(self) -> None:
        """By a person, before the story begins, by the clock on the wall."""
        payload = {"model": "flights", "revision": "r-1", "version": 1, "forced": False}
        self.add("revision.promoted", self._wall, "first champion: it passed the gate", payload, actor="person:demo")

    def alert(
        self,
        at: datetime,
        monitor: str,
        kind: str,
        title: str,
        *,
        columns: Sequence[str] = (),
        source: str = "",
        what: str = "opened",
        evidence: str = "",
        opened: datetime | None = None,
    ) -> None:
        incident = {
            "fingerprint": "/".join(part for part in ("flights", monitor, source) if part),
            "model": "flights",
            "monitor": monitor,
            "kind": kind,
            "source": source,
            "status": "resolved" if what == "resolved" else "open",
            "severity": "high",
            "columns": list(columns),
            "opened_at": (opened or at).isoformat(),
            "title": title,
        }
        why = f"over: {title}" if what == "resolved" else title
        found = [{"verdict": "FAIL", "why": evidence, "where": "all"}] if evidence else []
        self.add(f"alert.{what}", at, why, {"incident": incident, "evidence": found})

    def rollout(
        self,
        rollout: str,
        version: int,
        against: int,
        spans: Sequence[tuple[float, datetime]],
        *,
        started: datetime,
        status: str,
        why: str,
        exposed: int = 0,
        findings: Sequence[dict[str, Any]] = (),
        actor: str = "work",
    ) -> None:
        """Its start and its end; the last span is the end, as deploy/rollout.py writes it."""
        state: dict[str, Any] = {
            "id": rollout,
            "candidate_version": version,
            "champion_version": against,
            "status": "running",
            "started_at": started.isoformat(),
            "exposed_units": 0,
            "reason": "",
            "spans": [],
        }
        subject = f"rollout:{rollout}"
        told = f"version {version} against version {against}, in shadow"
        self.add(
            "rollout.started",
            started,
            told,
            {"model": "flights", "state": state, "evidence": {}},
            subject=subject,
            actor=actor,
        )
        for place, (weight, at) in enumerate(spans):
            over = place == len(spans) - 1 and status != "running"
            so_far = [{"weight": w, "start": t.isoformat()} for w, t in spans[: place + 1]]
            state = {**state, "spans": so_far, "reason": why if over else ""}
            if over:
                state |= {"status": status, "exposed_units": exposed}
            evidence = {"findings": list(findings)} if over else {}
            kind = f"rollout.{status}" if over else "rollout.advanced"
            text = why if over else f"every guardrail held: on to {weight:g} %"
            self.add(kind, at, text, {"model": "flights", "state": state, "evidence": evidence}, subject=subject)

    def retrain(self, at: datetime, why: str, *, accepted: bool | None) -> None:
        """``accepted`` None: not tried at all."""
        if accepted is None:
            self.add("retrain.refused", at, why, {"model": "flights", "reason": "cooldown"})
        else:
            self.add("retrain.finished", at, why, {"model": "flights", "accepted": accepted})
