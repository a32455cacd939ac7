"""Routes follow from events, and the table that servers read follows from routes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from undrift.deploy.people import abort
from undrift.deploy.rollout import Rollout, start
from undrift.deploy.routes import ROUTE_REDUCERS, build_table, publish, rollout_of, running
from undrift.errors import NotFoundError, StateError
from undrift.event import Draft
from undrift.ids import FixedClock
from undrift.inference.router import RoutingTable
from undrift.state.journal import Journal, Reducer
from undrift.state.sql import SqliteStore

NOW = datetime(2013, 6, 1, tzinfo=UTC)


class Folders:
    """Bundles that are just folders."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, folder: Path) -> str:
        return folder.name

    def get(self, digest: str) -> Path:
        return self.root / digest


def version_reducer() -> Reducer:
    return Reducer(
        "version",
        frozenset({"version.registered"}),
        lambda e: (f"{e.payload['model']}/{e.payload['version']:06d}",),
        lambda old, e, key: e.payload,
    )


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    store = SqliteStore(str(tmp_path / "undrift.db"))
    journal = Journal(store, FixedClock(NOW), (*ROUTE_REDUCERS, version_reducer()))
    for number, revision in enumerate(("r-old", "r-new"), 1):
        payload = {"model": "flights", "version": number, "revision": revision, "bundle": f"b{number}"}
        say(journal, "version.registered", payload)
    say(journal, "revision.promoted", {"model": "flights", "revision": "r-old", "version": 1})
    return journal


def say(journal: Journal, kind: str, payload: dict[str, object]) -> None:
    journal.record([Draft(kind=kind, subject="model:flights", at=NOW, actor="person:ann", why="", payload=payload)])


def begin(journal: Journal, rollout_id: str = "r1") -> None:
    decision = start(Rollout(), rollout_id, "flights", ("r-new", 2), ("r-old", 1), NOW)
    journal.record(decision.drafts)


def test_a_promoted_revision_serves_alone(journal: Journal, tmp_path: Path) -> None:
    route = build_table(journal, Folders(tmp_path)).routes[0]
    assert (route.champion, route.candidate, route.weight) == ("r-old", "", 0.0)
    assert [(p.revision, p.version, p.path) for p in route.revisions] == [("r-old", 1, str(tmp_path / "b1"))]


def test_a_rollout_places_its_candidate_salted_by_its_own_id(journal: Journal, tmp_path: Path) -> None:
    begin(journal)
    route = build_table(journal, Folders(tmp_path)).routes[0]
    assert (route.candidate, route.weight, route.salt, route.rollout) == ("r-new", 5.0, "r1", "r1")
    assert [p.revision for p in route.revisions] == ["r-old", "r-new"]
    assert [s.id for s in running(journal)] == ["r1"]


def test_an_aborted_rollout_leaves_the_champion_alone_and_is_over(journal: Journal, tmp_path: Path) -> None:
    begin(journal)
    state = rollout_of(journal, "r1")
    journal.record(abort(state, NOW + timedelta(days=1), actor="person:ann", why="no").drafts)
    route = build_table(journal, Folders(tmp_path)).routes[0]
    assert (route.champion, route.candidate, route.weight) == ("r-old", "", 0.0)
    assert running(journal) == []
    assert rollout_of(journal, "r1").status == "aborted"


def test_the_former_champion_is_kept_warm(journal: Journal, tmp_path: Path) -> None:
    say(journal, "revision.promoted", {"model": "flights", "revision": "r-new", "version": 2})
    assert journal.get("route", "flights")["previous"] == ["r-old"]  # type: ignore[index]
    route = build_table(journal, Folders(tmp_path)).routes[0]
    assert (route.champion, [p.revision for p in route.revisions]) == ("r-new", ["r-new", "r-old"])


def test_projections_are_what_a_rebuild_from_the_log_gives(journal: Journal) -> None:
    begin(journal)
    before = (journal.items("route"), journal.items("rollout"))
    journal.rebuild()
    assert (journal.items("route"), journal.items("rollout")) == before


def test_the_table_is_written_only_when_it_changed(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "routing.json"
    table = build_table(journal, Folders(tmp_path))
    assert publish(table, path)
    assert not publish(build_table(journal, Folders(tmp_path)), path)
    assert msgspec.json.decode(path.read_bytes(), type=RoutingTable) == table
    begin(journal)
    assert publish(build_table(journal, Folders(tmp_path)), path)
    assert [p.name for p in path.parent.iterdir()] == ["routing.json"]


def test_the_epoch_is_the_event_the_routes_follow_from(journal: Journal, tmp_path: Path) -> None:
    before = build_table(journal, Folders(tmp_path)).epoch
    begin(journal)
    after = build_table(journal, Folders(tmp_path)).epoch
    assert (before, after) == (3, 4)


def test_a_folder_that_is_a_file_is_one_clear_error(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be written"):
        publish(build_table(journal, Folders(tmp_path)), tmp_path / "file" / "routing.json")


def test_a_route_to_an_unknown_revision_and_an_unknown_rollout_are_said(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no rollout 'nope'"):
        rollout_of(journal, "nope")
    say(journal, "revision.promoted", {"model": "flights", "revision": "r-ghost", "version": 9})
    with pytest.raises(NotFoundError, match="r-ghost"):
        build_table(journal, Folders(tmp_path))
