"""From the event log to what servers do: the projections `route` and `rollout`, and the routing table built of them.

Reducers are pure; the table is a function of the projections and is replaced atomically, only when it changed. Servers
read the file and nothing else, so they need none of this to go on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from undrift.data.features import FeatureView, Source
from undrift.deploy.rollout import RolloutState
from undrift.errors import NotFoundError, StateError
from undrift.event import Event
from undrift.inference.router import Placed, Route, RoutingTable
from undrift.state.journal import Reducer

if TYPE_CHECKING:
    from undrift.state.journal import Journal
    from undrift.state.ports import Artifacts

__all__ = ["ROUTE_REDUCERS", "build_table", "publish", "rollout_of", "running"]

KEPT_WARM: Final = 1
"""How many former champions servers keep loaded, so that going back needs no loading."""
REMEMBERED: Final = 10
"""How many former champions the route remembers, for `roll-back --to`."""

_ROLLOUT_KINDS: Final = frozenset(
    f"rollout.{kind}"
    for kind in (
        "started",
        "judged",
        "advanced",
        "paused",
        "resumed",
        "approved",
        "skipped",
        "succeeded",
        "rolled_back",
        "aborted",
    )
)
_MOVING_KINDS: Final = _ROLLOUT_KINDS - {"rollout.judged", "rollout.paused", "rollout.resumed"}
_EMPTY: Final[dict[str, Any]] = {
    "champion": "",
    "champion_version": 0,
    "candidate": "",
    "candidate_version": 0,
    "weight": 0.0,
    "salt": "",
    "rollout": "",
    "unit": "",
    "without_unit": "prediction",
    "previous": [],
    "withdrawn": {},
}


def _model_of(event: Event) -> Iterable[str]:
    return (str(event.payload["model"]),)


def _rollout_of(event: Event) -> Iterable[str]:
    return (str(event.payload["state"]["id"]),)


def _crown(route: dict[str, Any], revision: str, version: int) -> dict[str, Any]:
    """The route with another champion; the former one goes to the front of those remembered."""
    former = [route["champion"], *route["previous"]]
    previous = [r for r in dict.fromkeys(former) if r and r != revision][:REMEMBERED]
    return {**route, "champion": revision, "champion_version": version, "previous": previous}


def _no_candidate(route: dict[str, Any]) -> dict[str, Any]:
    kept = ("champion", "champion_version", "previous", "withdrawn")
    return {**_EMPTY, **{name: route[name] for name in kept}}


def _withdrawn(route: dict[str, Any], revision: str, why: str) -> dict[str, Any]:
    """The route with a revision that was taken back: it gets traffic again only when a person says why."""
    return {**route, "withdrawn": {**route["withdrawn"], revision: why}}


def _forgiven(route: dict[str, Any], revision: str) -> dict[str, Any]:
    return {**route, "withdrawn": {name: why for name, why in route["withdrawn"].items() if name != revision}}


def reduce_route(value: dict[str, Any] | None, event: Event, key: str) -> dict[str, Any] | None:
    """Who serves a model after an event; see `Route` for the fields. ``salt`` is the rollout's id."""
    route = {**_EMPTY, **(value or {})}
    if event.kind == "revision.promoted":
        revision, version = str(event.payload["revision"]), int(event.payload["version"])
        if revision == route["candidate"]:
            route = _no_candidate(route)
        if event.payload.get("withdrawn"):
            route = _withdrawn(route, str(event.payload["withdrawn"]), event.why)
        return _forgiven(_crown(route, revision, version), revision)
    state = event.payload["state"]
    if event.kind == "rollout.succeeded":
        crowned = _crown(_no_candidate(route), state["candidate"], state["candidate_version"])
        return _forgiven(crowned, state["candidate"])
    ended = event.kind in ("rollout.rolled_back", "rollout.aborted")
    if ended:
        route = _no_candidate(route) if route["rollout"] == state["id"] else route
        return _withdrawn(route, state["candidate"], event.why) if event.kind == "rollout.rolled_back" else route
    if event.kind != "rollout.started" and route["rollout"] != state["id"]:
        return route
    return {
        **route,
        "candidate": state["candidate"],
        "candidate_version": state["candidate_version"],
        "weight": state["weight"],
        "salt": state["id"],
        "rollout": state["id"],
        "unit": state["declared"].get("unit", ""),
        "without_unit": state["declared"].get("without_unit", "prediction"),
    }


def reduce_rollout(value: dict[str, Any] | None, event: Event, key: str) -> dict[str, Any] | None:
    """The state an event of a rollout carries; a terminal one stays."""
    if value is not None and msgspec.convert(value, RolloutState).over:
        return value
    state: dict[str, Any] = event.payload["state"]
    return state


ROUTE_REDUCERS: Final = (
    # without the judgements that move nothing, so that the table's epoch stands still while nothing changes
    Reducer("route", _MOVING_KINDS | {"revision.promoted"}, _model_of, reduce_route),
    Reducer("rollout", _ROLLOUT_KINDS, _rollout_of, reduce_rollout),
)


def rollout_of(journal: Journal, rollout_id: str) -> RolloutState:
    """The state of a rollout.

    Raises
    ------
    NotFoundError : there is none of that id.
    """
    value = journal.get("rollout", rollout_id)
    if value is None:
        raise NotFoundError(f"there is no rollout {rollout_id!r}.", hint="`undrift status` lists them.")
    return msgspec.convert(value, RolloutState)


def running(journal: Journal) -> list[RolloutState]:
    """All rollouts that are not over, the oldest first."""
    states = [msgspec.convert(value, RolloutState) for value in journal.items("rollout").values()]
    return sorted((s for s in states if not s.over), key=lambda s: (s.started_at, s.id))


def build_table(
    journal: Journal, artifacts: Artifacts, sources: Sequence[Source] = (), views: Sequence[FeatureView] = ()
) -> RoutingTable:
    """The routing table that follows from the log; equal logs give equal tables.

    Placed are the champion, the candidate (in the shadow stage already, so that it is warm when its turn comes) and the
    last former champion.

    Raises
    ------
    NotFoundError : a route names a revision that no registered version has.
    CorruptModelError : a bundle is not what was stored.
    """
    versions = {
        (v["model"], v["revision"]): v for v in sorted(journal.items("version").values(), key=lambda v: v["version"])
    }
    routes, epoch = [], 0
    for model, route in sorted(journal.items("route").items()):
        epoch = max(epoch, journal.seq_of("route", model) or 0)
        if not route["champion"]:
            continue
        warm = route["previous"][:KEPT_WARM]
        names = [r for r in dict.fromkeys([route["champion"], route["candidate"], *warm]) if r]
        routes.append(
            Route(
                model=model,
                champion=route["champion"],
                revisions=tuple(_place(artifacts, versions, model, name) for name in names),
                candidate=route["candidate"],
                weight=float(route["weight"]),
                salt=route["salt"],
                rollout=route["rollout"],
                unit=route.get("unit", ""),
                without_unit=route.get("without_unit", "prediction"),
            )
        )
    return RoutingTable(epoch=epoch, routes=tuple(routes), sources=tuple(sources), views=tuple(views))


def _place(artifacts: Artifacts, versions: dict[tuple[str, str], dict[str, Any]], model: str, revision: str) -> Placed:
    version = versions.get((model, revision))
    if version is None:
        raise NotFoundError(f"the route of {model} names revision {revision}, which no registered version has.")
    folder = artifacts.get(version["bundle"])
    return Placed(revision=revision, version=int(version["version"]), bundle=version["bundle"], path=str(folder))


def publish(table: RoutingTable, path: Path) -> bool:
    """Write the table where servers look, atomically; False if it stood there already.

    Raises
    ------
    StateError : the file cannot be written.
    """
    data = msgspec.json.encode(table)
    try:
        if path.exists() and path.read_bytes() == data:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        scratch.write_bytes(data)
        os.replace(scratch, path)
    except OSError as error:
        raise StateError(
            f"the routing table cannot be written to {path}: {error}.",
            hint="Servers go on with the last one they read.",
        ) from error
    return True
