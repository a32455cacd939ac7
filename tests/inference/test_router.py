"""The routing table: refused when it contradicts itself, and an assignment that is sticky, fair and monotone."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from undrift.errors import StateError
from undrift.inference.router import Choice, Placed, Route, RoutingTable, TableFile, assign, bucket, pick, read_table


def route(**changes: object) -> Route:
    placed = tuple(Placed(revision=r, version=v, bundle="b" * 64, path="/nowhere") for r, v in (("r-1", 1), ("r-2", 2)))
    known = {"model": "m", "champion": "r-1", "candidate": "r-2", "revisions": placed, "weight": 10.0, "salt": "s"}
    return Route(**{**known, **changes})  # type: ignore[arg-type]


def write(path: Path, table: RoutingTable) -> None:
    scratch = path.with_suffix(".new")
    scratch.write_bytes(msgspec.json.encode(table))
    os.replace(scratch, path)


UNITS = [f"unit-{number}" for number in range(20_000)]


def test_the_share_of_units_on_the_candidate_is_the_weight() -> None:
    on = sum(pick(route(), unit).variant == "candidate" for unit in UNITS) / len(UNITS)
    assert abs(on - 0.10) < 4 * (0.1 * 0.9 / len(UNITS)) ** 0.5


def test_a_unit_stays_on_the_candidate_while_the_weight_grows() -> None:
    chosen: set[str] = set()
    for weight in (5.0, 10.0, 25.0, 50.0, 100.0):
        now = {unit for unit in UNITS[:2000] if pick(route(weight=weight), unit).revision == "r-2"}
        assert chosen <= now
        chosen = now
    assert chosen == set(UNITS[:2000])


def test_two_salts_assign_independently() -> None:
    both = sum(bucket("a", unit) < 50 and bucket("b", unit) < 50 for unit in UNITS) / len(UNITS)
    assert abs(both - 0.25) < 4 * (0.25 * 0.75 / len(UNITS)) ** 0.5


def test_the_propensity_is_the_probability_of_the_choice_made() -> None:
    for unit in UNITS[:200]:
        choice = pick(route(), unit)
        assert choice.propensity == pytest.approx({"candidate": 0.1, "champion": 0.9}[choice.variant])
    assert pick(route(weight=100.0), "u").propensity == 1.0


@pytest.mark.parametrize("changes", [{"candidate": ""}, {"weight": 0.0}])
def test_without_a_candidate_or_weight_all_get_the_champion(changes: dict[str, object]) -> None:
    assert {pick(route(**changes), unit) for unit in UNITS[:500]} == {Choice("champion", "r-1", 1.0)}


def test_a_file_is_read_when_it_is_replaced_and_only_then(tmp_path: Path) -> None:
    file = TableFile(tmp_path / "routing.json")
    assert file.poll() is None
    write(file.path, RoutingTable(epoch=1, routes=(route(),)))
    assert file.poll() == RoutingTable(epoch=1, routes=(route(),))
    assert file.poll() is None
    write(file.path, RoutingTable(epoch=2, routes=(route(),)))
    table = file.poll()
    assert table is not None
    assert table.epoch == 2


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (RoutingTable(epoch=1, routes=(route(champion="r-9"),)), "champion 'r-9'"),
        (RoutingTable(epoch=1, routes=(route(candidate="r-9"),)), "candidate 'r-9'"),
        (RoutingTable(epoch=1, routes=(route(weight=101.0),)), "weight of model 'm' is 101"),
        (RoutingTable(epoch=1, format=7), "format 7"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, table: RoutingTable, words: str) -> None:
    write(tmp_path / "routing.json", table)
    with pytest.raises(StateError, match=words):
        read_table(tmp_path / "routing.json")


def test_a_broken_file_is_said_once_per_change(tmp_path: Path) -> None:
    file = TableFile(tmp_path / "routing.json")
    file.path.write_text('{"epoch": 1, "rou')
    with pytest.raises(StateError, match="no routing table"):
        file.poll()
    assert file.poll() is None
    write(file.path, RoutingTable(epoch=3))
    assert file.poll() == RoutingTable(epoch=3)


def test_a_missing_file_is_an_error_to_who_asks_for_it(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot be read"):
        read_table(tmp_path / "routing.json")


def test_a_row_without_its_unit_is_its_own_unit_or_the_champions_as_declared() -> None:
    values, ids = ["ann", 0, None, ""], ["p1", "p2", "p3", "p4"]
    by_id = route(weight=99.9, unit="account")
    units, choices = assign(by_id, "account", values, ids)
    assert units == ["ann", "0", "p3", "p4"], "0 is a value like any other"
    assert choices == [pick(by_id, unit) for unit in units]
    champion = msgspec.structs.replace(by_id, without_unit="champion")
    _, choices = assign(champion, "account", values, ids)
    assert choices[:2] == [pick(by_id, "ann"), pick(by_id, "0")]
    assert choices[2:] == [Choice("champion", "r-1", 1.0)] * 2, "certain, so part of no comparison"
    _, choices = assign(champion, "", [None], ["p1"])
    assert choices == [pick(by_id, "p1")], "where no field is declared every prediction is a unit"
