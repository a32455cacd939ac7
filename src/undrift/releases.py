"""The verbs of release: promote, roll out, roll back, and what people may say to a rollout under way.

Each records what was decided in the event log and lets servers follow by the routing table. Judging a rollout is the
worker's business (tick.py); here a person speaks.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from undrift.declarations import Model
from undrift.deploy import people, rollout
from undrift.deploy.rollout import Decision, RolloutState
from undrift.deploy.routes import running
from undrift.errors import ConflictError, NotFoundError
from undrift.event import Draft, Event
from undrift.finding import Report, Verdict
from undrift.ids import content_hash, new_id
from undrift.project import Project

__all__ = ["abort", "approve", "pause", "promote", "resume", "roll_back", "roll_out", "start_rollout"]


def promote(
    project: Project, model: str = "", version: int | None = None, *, actor: str, why: str = "", force: bool = False
) -> Event:
    """Make a version champion at once, without a rollout: for the first champion, or when a person insists.

    Raises
    ------
    ConflictError : its gate did not pass and it is not forced; forcing without a reason; it is champion already.
    CorruptModelError : its files are not those that were registered.
    """
    name = project.model(model).name
    row = project.version(name, version)
    report = msgspec.convert(row["gate"], Report)
    if report.verdict is not Verdict.PASS and not force:
        worst = report.worse_than(Verdict.PASS)
        raise ConflictError(
            f"version {row['version']} of {name} did not pass its gate ({report.verdict.name}): "
            f"{worst[0].why if worst else 'nothing was judged'}.",
            hint="`undrift gate` shows all findings; --force --why '...' overrules it, and is recorded with your name.",
        )
    if force and not why:
        raise ConflictError("overruling the gate needs a reason.", hint="Add --why '...'.")
    route = project.route(name)
    if route is not None and route["champion"] == row["revision"]:
        raise ConflictError(f"version {row['version']} of {name} is champion already.")
    _no_rollout(project, name)
    text = why or ("first champion" if route is None or not route["champion"] else "promoted by a person")
    event = _crown(project, name, row, actor=actor, why=text, forced=force)
    project.publish_routes()
    project.mirror_champion(name, row["version"])
    return event


def _crown(project: Project, model: str, row: dict[str, Any], *, actor: str, why: str, forced: bool = False) -> Event:
    project.artifacts.get(row["bundle"])  # files that are not those registered get no traffic, and no event says so
    draft = Draft(
        kind="revision.promoted",
        subject=f"model:{model}",
        at=project.now().now(),
        actor=actor,
        why=why,
        payload={"model": model, "revision": row["revision"], "version": row["version"], "forced": forced},
    )
    expect = {("route", model): project.journal.seq_of("route", model)}
    return project.journal.record([draft], expect=expect)[0]


def _no_rollout(project: Project, model: str) -> None:
    for state in running(project.journal):
        if state.model == model:
            raise ConflictError(
                f"{model} has a rollout under way: version {state.candidate_version} against {state.champion_version} "
                f"({state.status}, {state.weight:g} %).",
                hint="Let it end, or end it: `undrift abort`, `undrift roll-back`.",
            )


def _current(project: Project, model: str) -> RolloutState:
    for state in running(project.journal):
        if state.model == model:
            return state
    raise NotFoundError(f"{model} has no rollout under way.", hint="`undrift roll-out` starts one.")


def roll_out(
    project: Project, model: str = "", version: int | None = None, *, actor: str, why: str = ""
) -> RolloutState:
    """Start the declared rollout of a version against the champion.

    Raises
    ------
    ConflictError : no champion yet, a rollout is under way, the gate did not pass, or it was rolled back before and
        `why` gives no reason to try again.
    """
    declared = project.model(model)
    name = declared.name
    row = project.version(name, version)
    route = project.route(name)
    if route is None or not route["champion"]:
        raise ConflictError(f"{name} has no champion to roll out against.", hint=f"`undrift promote {name}` makes one.")
    _no_rollout(project, name)
    if msgspec.convert(row["gate"], Report).verdict is not Verdict.PASS:
        raise ConflictError(
            f"version {row['version']} of {name} did not pass its gate, so it gets no traffic.", hint="`undrift gate`."
        )
    before = [r for r in project.journal.items("rollout").values() if r["candidate"] == row["revision"]]
    if any(r["status"] == "rolled_back" for r in before) and not why:
        raise ConflictError(
            f"version {row['version']} of {name} was rolled back before: {before[-1]['reason']}",
            hint="Say why it deserves another try: --why '...'.",
        )
    decision = start_rollout(project, declared, row, actor=actor, why=why)
    _record(project, name, decision)
    return decision.state


def start_rollout(
    project: Project, declared: Model, row: dict[str, Any], *, actor: str, why: str = "", at: datetime | None = None
) -> Decision:
    """The decision that starts the declared rollout of a version against the champion; the caller records it."""
    project.artifacts.get(row["bundle"])
    route = project.route(declared.name) or {}
    moment = at or project.now().now()
    return rollout.start(
        declared.rollout,
        _rollout_id(project, declared.name, (row["version"], route["champion_version"]), moment),
        declared.name,
        (row["revision"], row["version"]),
        (route["champion"], route["champion_version"]),
        moment,
        actor=actor,
        why=why,
    )


def _rollout_id(project: Project, model: str, versions: tuple[int, int], at: datetime) -> str:
    """An id of what is rolled out and when, so that a replay of the same events assigns the same units.

    The id salts the assignment (inference/router.py); the count makes that of each rollout another one.
    """
    before = sum(row["model"] == model for row in project.journal.items("rollout").values())
    named = content_hash([model, *versions, before, at.isoformat()])
    return new_id(at, bytes.fromhex(named)[:10])


def _record(project: Project, model: str, decision: Decision) -> list[Event]:
    expect = {("route", model): project.journal.seq_of("route", model)}
    events = project.journal.record(decision.drafts, expect=expect)
    project.publish_routes()
    if decision.state.status == "succeeded":
        project.mirror_champion(model, decision.state.candidate_version)
    return events


def roll_back(project: Project, model: str = "", *, to: int | None = None, actor: str, why: str = "") -> Event:
    """Take a release back: end the rollout under way, or make the former champion (or version `to`) champion again.

    Raises
    ------
    ConflictError : there is nothing to go back to.
    """
    name = project.model(model).name
    under_way = [s for s in running(project.journal) if s.model == name]
    if under_way and to is None:
        decision = people.abort(under_way[0], project.now().now(), actor=actor, why=why or "rolled back by a person")
        return _record(project, name, decision)[0]
    _no_rollout(project, name)
    route = project.route(name)
    if to is not None:
        row = project.version(name, to)
        if route is not None and route["champion"] == row["revision"]:
            raise ConflictError(f"version {to} of {name} is champion already.")
    elif route is None or not route["previous"]:
        raise ConflictError(f"{name} has no former champion to go back to.")
    else:
        row = project.version(name, revision=route["previous"][0])
    event = _crown(project, name, row, actor=actor, why=why or f"rolled back to version {row['version']}")
    project.publish_routes()
    project.mirror_champion(name, row["version"])
    return event


def approve(project: Project, model: str = "", *, actor: str, why: str = "") -> RolloutState:
    """Approve the rollout that waits for it."""
    return _say(project, model, people.approve, actor, why or "approved")


def pause(project: Project, model: str = "", *, actor: str, why: str = "") -> RolloutState:
    """Stop the clock of the rollout under way; a FAIL still rolls it back."""
    return _say(project, model, people.pause, actor, why or "paused by a person")


def resume(project: Project, model: str = "", *, actor: str, why: str = "") -> RolloutState:
    """Let a paused rollout go on."""
    return _say(project, model, people.resume, actor, why or "resumed by a person")


def abort(project: Project, model: str = "", *, actor: str, why: str = "") -> RolloutState:
    """End the rollout under way; all units go back to the champion."""
    return _say(project, model, people.abort, actor, why or "aborted by a person")


def _say(project: Project, model: str, verb: Callable[..., Decision], actor: str, why: str) -> RolloutState:
    name = project.model(model).name
    decision = verb(_current(project, name), project.now().now(), actor=actor, why=why)
    _record(project, name, decision)
    return decision.state
