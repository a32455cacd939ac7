"""The verbs of release: promote, roll out, roll back, and what people may say to a rollout under way.

Each records what was decided in the event log and lets servers follow by the routing table. Judging a rollout is the
worker's business (tick.py); here a person speaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from undrift.declarations import Model
from undrift.deploy import people, rollout
from undrift.deploy.rollout import Decision, Rollout, RolloutState
from undrift.deploy.routes import running
from undrift.deploy.strategy import frozen_until
from undrift.errors import ConflictError, NotFoundError
from undrift.event import Draft, Event
from undrift.finding import Report, Verdict
from undrift.ids import content_hash, new_id
from undrift.project import Project

__all__ = ["SAYINGS", "freeze_of", "promote", "roll_back", "roll_out", "say", "start_rollout"]

ATTEMPTS: Final = 3


def promote(
    project: Project, model: str = "", version: int | None = None, *, actor: str, why: str = "", force: bool = False
) -> Event:
    """Make a version champion at once, without a rollout: for the first champion, or when a person insists.

    Raises
    ------
    ConflictError : its gate did not pass, it was taken back before, or something is frozen, and it is not forced;
        forcing without a reason; it is champion already.
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
    before = (project.route(name) or {}).get("withdrawn", {}).get(row["revision"])
    frozen = freeze_of(project.model(name), project.model(name).rollout, project.now().now())
    if (before or frozen) and not force:
        seen = f"version {row['version']} of {name} was taken back before: {before}"
        raise ConflictError(
            seen if before else f"nothing advances now: {frozen}.", hint="--force --why '...' overrules it, on record."
        )
    if force and not why:
        raise ConflictError("overruling the gate needs a reason.", hint="Add --why '...'.")
    route = project.route(name)
    if route is not None and route["champion"] == row["revision"]:
        raise ConflictError(f"version {row['version']} of {name} is champion already.")
    _no_rollout(project, name)
    text = why or ("first champion" if route is None or not route["champion"] else "promoted by a person")
    (event,) = _record(project, name, [_crown(project, name, row, actor=actor, why=text, forced=force)])
    project.mirror_champion(name, row["version"])
    return event


def _crown(
    project: Project, model: str, row: dict[str, Any], *, actor: str, why: str, forced: bool = False, back: bool = False
) -> Draft:
    project.artifacts.get(row["bundle"])  # files that are not those registered get no traffic, and no event says so
    payload = {"model": model, "revision": row["revision"], "version": row["version"], "forced": forced}
    if back:
        payload["withdrawn"] = (project.route(model) or {}).get("champion", "")
    return Draft(
        kind="revision.promoted",
        subject=f"model:{model}",
        at=project.now().now(),
        actor=actor,
        why=why,
        payload=payload,
    )


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
    ConflictError : no champion yet, a rollout is under way, the gate did not pass, or it was taken back before and
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
    before = route.get("withdrawn", {}).get(row["revision"])
    if before and not why:
        raise ConflictError(
            f"version {row['version']} of {name} was taken back before: {before}",
            hint="Say why it deserves another try: --why '...'.",
        )
    decision = start_rollout(project, declared, row, actor=actor, why=why)
    _record(project, name, decision.drafts)
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
        frozen=freeze_of(declared, declared.rollout, moment),
    )


def _rollout_id(project: Project, model: str, versions: tuple[int, int], at: datetime) -> str:
    """An id of what is rolled out and when, so that a replay of the same events assigns the same units.

    The id salts the assignment (inference/router.py); the count makes that of each rollout another one.
    """
    before = sum(row["model"] == model for row in project.journal.items("rollout").values())
    named = content_hash([model, *versions, before, at.isoformat()])
    return new_id(at, bytes.fromhex(named)[:10])


def _record(project: Project, model: str, drafts: Sequence[Draft]) -> list[Event]:
    """Record what was decided if nothing changed meanwhile, and let servers follow at once."""
    expect = {("route", model): project.journal.seq_of("route", model)}
    events = project.journal.record(drafts, expect=expect)
    project.publish_routes()
    return events


def roll_back(project: Project, model: str = "", *, to: int | str | None = None, actor: str, why: str = "") -> Event:
    """Take a release back, also in a freeze: end the rollout under way; without one, the former champion is back.

    A revision brings its contract, feature versions and threshold along. What was taken back gets traffic again only
    when a person says why.

    Parameters
    ----------
    to : the version (number) or revision that is to be champion; ends a rollout under way as well.

    Raises
    ------
    ConflictError : there is nothing to go back to, or it is champion already.
    """
    name = project.model(model).name
    under_way = [s for s in running(project.journal) if s.model == name]
    now = project.now().now()
    drafts = [
        draft
        for state in under_way
        for draft in people.roll_back(state, now, actor=actor, why=why or "rolled back by a person").drafts
    ]
    crowned = None
    if to is not None or not under_way:
        crowned = _former(project, name, to)
        text = why or f"rolled back to version {crowned['version']}"
        drafts.append(_crown(project, name, crowned, actor=actor, why=text, back=True))
    events = _record(project, name, drafts)
    if crowned is not None:
        project.mirror_champion(name, crowned["version"])
    return events[-1]


def _former(project: Project, model: str, to: int | str | None) -> dict[str, Any]:
    """The version to go back to: the one asked for, else the last champion that was not taken back itself."""
    route = project.route(model) or {"champion": "", "previous": [], "withdrawn": {}}
    if to is None:
        before = [name for name in route["previous"] if name not in route.get("withdrawn", {})]
        if not before:
            raise ConflictError(f"{model} has no former champion to go back to.")
        return project.version(model, revision=before[0])
    number = int(to) if str(to).isdigit() else None
    row = project.version(model, number, revision="" if number is not None else str(to))
    if route["champion"] == row["revision"]:
        raise ConflictError(f"version {row['version']} of {model} is champion already.")
    return row


SAYINGS: Final = {
    "approve": (people.approve, "approved"),
    "pause": (people.pause, "paused by a person"),
    "resume": (people.resume, "resumed by a person"),
    "skip": (people.skip, ""),
    "abort": (people.abort, "aborted by a person"),
}
"""What a person may say to the rollout under way, and the reason on record where none is given."""


def say(
    project: Project, word: str, model: str = "", *, actor: str, why: str = "", rollout_id: str = ""
) -> RolloutState:
    """Say one of SAYINGS to the rollout under way; `people` tells what each does.

    Parameters
    ----------
    rollout_id : the rollout that is meant, where the one under way may have changed since it was looked at.

    Raises
    ------
    ConflictError : it is not allowed from where the rollout stands, or another rollout is under way by now.
    NotFoundError : none is under way.
    """
    verb, reason = SAYINGS[word]
    name = project.model(model).name
    for attempt in range(ATTEMPTS):
        read = {("route", name): project.journal.seq_of("route", name)}
        state = _current(project, name)
        read[("rollout", state.id)] = project.journal.seq_of("rollout", state.id)
        if rollout_id and state.id != rollout_id:
            raise ConflictError(f"rollout {rollout_id} of {name} is over; {state.id} is under way now.")
        now = project.now().now()
        frozen = freeze_of(project.model(name), state.declared, now)
        decision = verb(state, now, actor=actor, why=why or reason, frozen=frozen)
        try:
            project.journal.record(decision.drafts, expect=read)
            break
        except ConflictError:  # a tick judged it at the same moment: what is said is said to what stands now
            if attempt == ATTEMPTS - 1:
                raise
    project.publish_routes()
    return decision.state


def freeze_of(model: Model, under_way: Rollout, now: datetime) -> str:
    """Why nothing may advance now: a freeze declared today, or with the rollout when it began; empty if it may."""
    return frozen_until((*model.rollout.freezes, *under_way.freezes), now)
