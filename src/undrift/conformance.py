"""One conformance suite per port: what every backend, ours or a third party's, must do. Public through undrift.testing.

Each suite is a class to be subclassed in a test file, with a fixture that gives an empty backend. Importable without
numpy, pyarrow and pytest.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from undrift.errors import ConflictError, DataError, DeliveryError, NotFoundError
from undrift.ids import hash_tree
from undrift.monitor.notices import Notice, Sink
from undrift.state.ports import Artifacts, Lake, Online, Store

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ArtifactsConformance",
    "LakeConformance",
    "OnlineConformance",
    "Receiver",
    "SinkConformance",
    "StoreConformance",
]


@contextmanager
def _refused(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was expected")


class StoreConformance:
    """What every Store must do. Subclass it in a test file and give the fixture ``store``: an empty store."""

    def test_what_is_written_can_be_read(self, store: Store) -> None:
        """A named statement writes, a named query reads."""
        with store.write() as transaction:
            transaction.execute("put_setting", {"name": "a", "value": "1"})
            assert transaction.query("setting", {"name": "a"}) == [{"value": "1"}], "it sees its own writes"
        assert store.read("setting", {"name": "a"}) == [{"value": "1"}]
        assert store.read("setting", {"name": "b"}) == []

    def test_a_block_that_raises_leaves_nothing(self, store: Store) -> None:
        """All of a transaction happens, or nothing."""

        def fail() -> None:
            with store.write() as transaction:
                transaction.execute("put_setting", {"name": "a", "value": "1"})
                raise ZeroDivisionError

        with _refused(ZeroDivisionError):
            fail()
        assert store.read("setting", {"name": "a"}) == []

    def test_changed_rows_are_counted(self, store: Store) -> None:
        """One mapping or many; a row that is there already is not changed."""
        rows = [{"id": "x", "at": 1}, {"id": "y", "at": 2}]
        with store.write() as transaction:
            assert transaction.execute("mark_seen", rows) == 2
            assert transaction.execute("mark_seen", [*rows, {"id": "z", "at": 3}]) == 1
            assert transaction.execute("mark_seen", []) == 0
            assert transaction.execute("forget_seen", {"before": 2}) == 1
        assert {row["id"] for row in store.read("seen", {"ids": '["x", "y", "z"]'})} == {"y", "z"}

    def test_a_second_row_with_a_unique_key_is_a_conflict(self, store: Store) -> None:
        """The database enforces keys, and says so with our error."""
        row = {"seq": 1, "kind": "k", "subject": "s", "at": 0, "key": None, "body": "{}"}
        with _refused(ConflictError), store.write() as transaction:
            transaction.execute("insert_event", [row, row])

    def test_writers_take_turns(self, store: Store) -> None:
        """Read, add one, write: from four threads at once no addition is lost."""

        def add(times: int) -> None:
            for _ in range(times):
                with store.write() as transaction:
                    found = transaction.query("setting", {"name": "n"})
                    number = int(found[0]["value"]) if found else 0
                    transaction.execute("put_setting", {"name": "n", "value": str(number + 1)})

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, [20] * 4))
        assert store.read("setting", {"name": "n"}) == [{"value": "80"}]


def _day(day: int, *ids: int, **more: Any) -> pa.Table:
    import pyarrow as pa

    when = [datetime(2013, 4, day, tzinfo=UTC)] * len(ids)
    columns = {"date": pa.array([w.date() for w in when], pa.date32()), "id": pa.array(ids, pa.int64())}
    return pa.table({**columns, "at": pa.array(when, pa.timestamp("us", "UTC")), **more})


def _ids(lake: Lake, *where: tuple[str, str, Any], version: int | None = None) -> list[int]:
    found = lake.scan("t", columns=["id"], where=where, version=version)
    return [] if found is None else sorted(found["id"].to_pylist())


class LakeConformance:
    """What every Lake must do. Subclass it in a test file and give the fixture ``lake``: an empty lake."""

    def test_a_table_that_is_not_there_is_none(self, lake: Lake) -> None:
        """Absence is no error, and nobody has written."""
        assert lake.scan("t") is None
        assert lake.marks("t", ["w"]) == {"w": -1}
        assert lake.tables() == []

    def test_rows_come_back_with_their_types(self, lake: Lake) -> None:
        """Text, numbers, times, lists and structs, null or not."""
        import pyarrow as pa

        inputs = pa.struct([pa.field("distance", pa.float64()), pa.field("carrier", pa.string())])
        rows = _day(
            1, 1, 2,
            scores=pa.array([[0.1, 0.9], None], pa.list_(pa.float64())),
            inputs=pa.array([{"distance": 1.5, "carrier": "UA"}, {"distance": None, "carrier": "é"}], inputs),
            broken=pa.array([["a"], []], pa.list_(pa.string())),
            late=pa.array([True, None]),
            error=pa.array([None, None], pa.string()),
            version=pa.array([1, None], pa.int32()),
        )  # fmt: skip
        lake.append("t", rows)
        assert (found := lake.scan("t", columns=rows.column_names)) is not None
        assert found.sort_by("id").to_pylist() == rows.to_pylist()
        assert found.schema.types == rows.schema.types

    def test_the_same_marks_land_once(self, lake: Lake) -> None:
        """A repeated append changes nothing; the next one does."""
        version = lake.append("t", _day(1, 1), marks={"w": 4, "v": 0})
        assert lake.append("t", _day(1, 1), marks={"w": 4, "v": 0}) == version
        lake.append("t", _day(1, 2), marks={"w": 9})
        lake.append("t", _day(1), marks={"v": 1})  # what was read held nothing new
        assert (_ids(lake), lake.marks("t", ["w", "v", "u"])) == ([1, 2], {"w": 9, "v": 1, "u": -1})

    def test_rows_read_before_somebody_else_appended_are_refused(self, lake: Lake) -> None:
        """Half of these rows are in already: appending them would double that half."""
        lake.append("t", _day(1, 1), marks={"w": 1}, since={"w": -1})
        with _refused(ConflictError):
            lake.append("t", _day(1, 1, 2), marks={"w": 2}, since={"w": -1})
        lake.append("t", _day(1, 2), marks={"w": 2}, since={"w": 1})
        assert _ids(lake) == [1, 2]

    def test_columns_may_come_and_stay_away_but_not_change(self, lake: Lake) -> None:
        """New columns are null before; missing ones are null after; another type is refused."""
        lake.append("t", _day(1, 1))
        lake.append("t", _day(1, 2, more=["x"]))
        lake.append("t", _day(1, 3))
        with _refused(DataError):
            lake.append("t", _day(1, 4, more=[1.5]))
        assert (found := lake.scan("t", columns=["id", "more"])) is not None
        assert found.sort_by("id")["more"].to_pylist() == [None, "x", None]

    def test_conditions_choose_rows(self, lake: Lake) -> None:
        """Every operator, over days, numbers, times and text with a quote in it."""
        import pyarrow as pa

        for day in (1, 2, 3):
            lake.append("t", _day(day, day, name=pa.array(["O'Hare" if day == 2 else None], pa.string())))
        second = datetime(2013, 4, 2, tzinfo=UTC)
        assert _ids(lake, ("date", ">=", date(2013, 4, 2)), ("date", "<", date(2013, 4, 3))) == [2]
        assert _ids(lake, ("at", "<=", second)) == _ids(lake, ("id", "in", [1, 2])) == [1, 2]
        assert _ids(lake, ("at", ">", second.astimezone(UTC) - timedelta(microseconds=1))) == [2, 3]
        assert _ids(lake, ("name", "==", "O'Hare")) == _ids(lake, ("id", "not in", [1, 3])) == [2]
        assert _ids(lake, ("name", "==", None)) == _ids(lake, ("id", "!=", 2)) == [1, 3]

    def test_old_versions_stay(self, lake: Lake) -> None:
        """A dataset is a version of a table, for ever."""
        first, second = lake.append("t", _day(1, 1)), lake.append("t", _day(1, 2))
        assert (_ids(lake, version=first), _ids(lake, version=second)) == ([1], [1, 2])
        with _refused(NotFoundError):
            _ids(lake, version=second + 100)

    def test_appends_at_once_lose_nothing(self, lake: Lake) -> None:
        """Four threads, each a writer of its own."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: lake.append("t", _day(1, i), marks={f"w{i}": 0}), range(12)))
        assert _ids(lake) == list(range(12))


class ArtifactsConformance:
    """What every artifact store must do. Subclass it and give the fixture ``artifacts``: an empty one."""

    def test_what_was_put_is_got(self, artifacts: Artifacts, tmp_path: Path) -> None:
        """The same bytes under the same names, named by their hash, once."""
        (tmp_path / "made" / "code").mkdir(parents=True)
        (tmp_path / "made" / "code" / "a.py").write_bytes(b"A = 1\n")
        (tmp_path / "made" / "model.onnx").write_bytes(bytes(range(256)))
        digest = artifacts.put(tmp_path / "made")
        assert digest == artifacts.put(tmp_path / "made") == hash_tree(tmp_path / "made")
        assert hash_tree(found := artifacts.get(digest)) == digest
        assert (found / "code" / "a.py").stat().st_mode & 0o222 == 0, "what was registered is not written to"
        (tmp_path / "made" / "model.onnx").write_bytes(b"other")
        assert artifacts.put(tmp_path / "made") != digest

    def test_what_never_was_put_is_not_found(self, artifacts: Artifacts, tmp_path: Path) -> None:
        """Neither an unknown digest, nor a path in disguise, nor an empty directory."""
        with _refused(NotFoundError):
            artifacts.put(tmp_path / "nothing")
        for digest in ("0" * 64, "../" + "0" * 61, ""):
            with _refused(NotFoundError):
                artifacts.get(digest)


class OnlineConformance:
    """What every online store must do. Subclass it and give the fixture ``online``: an empty one."""

    def test_the_newest_row_of_each_entity_counts(self, online: Online) -> None:
        """In the order asked for, None where there is nothing, whatever order rows arrive in."""
        online.put("weather", [("JFK", 20, {"wind": 2.0}), ("EWR", 10, {"wind": None, "sky": "grey", "wet": True})])
        online.put("weather", [("JFK", 10, {"wind": 1.0}), ("EWR", 30, {"wind": 3.5})])
        online.put("weather", [])
        found = online.get("weather", ["EWR", "LGA", "JFK", "EWR"])
        assert found == [(30, {"wind": 3.5}), None, (20, {"wind": 2.0}), (30, {"wind": 3.5})]
        assert online.get("weather", []) == []

    def test_values_come_back_as_they_were(self, online: Online) -> None:
        """Numbers, text, truth and absence; entities in any script."""
        values = {"number": 0.1, "count": 3, "text": "Zürich 東京", "yes": True, "absent": None}
        online.put("v", [("東京 'x'", 1, values)])
        assert online.get("v", ["東京 'x'"]) == [(1, values)]
        assert online.get("w", ["東京 'x'"]) == [None], "the same entity in another view is another row"

    def test_many_at_once(self, online: Online) -> None:
        """More entities than a statement has parameters."""
        online.put("v", [(f"e{i}", i, {"x": i}) for i in range(3000)])
        assert [row[1]["x"] for row in online.get("v", [f"e{i}" for i in range(3000)]) if row] == list(range(3000))


class Receiver(Protocol):
    """The other end of a sink under test: a real server, or the file a sink writes to."""

    def told(self) -> list[str]:
        """The title of each thing it holds now, in any order; a thing sent twice and known again counts once."""
        ...

    def over(self) -> list[str]:
        """The titles of what it was told is over."""
        ...

    def break_down(self) -> None:
        """From now on it refuses or is gone."""
        ...


def a_notice(**changes: Any) -> Notice:
    """A notice as `monitor.notices.notice_of` makes them, with parts as given."""
    at = datetime(2013, 9, 3, tzinfo=UTC)
    notice = Notice(
        id="0123456789abcdef0123456789abcdef-opened",
        stage="opened",
        model="flights",
        monitor="feeds",
        kind="feed",
        fingerprint="flights/feeds/weather",
        episode=at.isoformat(),
        severity="high",
        title="weather: temp changed from Fahrenheit to Celsius",
        text="weather: temp changed from Fahrenheit to Celsius; log_loss was 0.51 since",
        at=at,
        onset=at - timedelta(hours=9),
        owner="operations",
        runbook="https://wiki.example.org/weather",
        link="https://undrift.example.org/incidents/flights/feeds/weather",
        columns=("temp", "dewp"),
        details=(("all", "temp: 18.2 from 71 rows, 64.4 were usual"),),
    )
    return msgspec.structs.replace(notice, **changes)


class SinkConformance:
    """What every sink of alerts must do. Subclass it and give the fixtures ``sink`` and its ``receiver``.

    ``known_again``: whether the receiver's protocol has a key by which it knows a message that is sent twice.
    ``can_refuse``: whether there is anything that could refuse it.
    """

    known_again: bool = True
    can_refuse: bool = True

    def test_a_notice_arrives(self, sink: Sink, receiver: Receiver) -> None:
        """With its title, whatever characters stand in it."""
        odd = a_notice(title='temp <b>&"moved\\" \u6771\u4eac', fingerprint="flights/inputs", monitor="inputs")
        sink.send(odd)
        assert receiver.told() == [odd.title]

    def test_the_end_arrives(self, sink: Sink, receiver: Receiver) -> None:
        """As the end of what had been told."""
        sink.send(a_notice())
        assert receiver.over() == []
        sink.send(a_notice(stage="resolved", id="0123456789abcdef0123456789abcdef-resolved"))
        assert receiver.over() == [a_notice().title]

    def test_what_is_sent_twice_is_known_again(self, sink: Sink, receiver: Receiver) -> None:
        """Where the protocol allows it, and another incident is another one."""
        sink.send(a_notice())
        sink.send(a_notice())
        assert len(receiver.told()) == (1 if self.known_again else 2)
        sink.send(a_notice(id="f" * 32 + "-opened", fingerprint="flights/answers", monitor="answers", title="another"))
        assert "another" in receiver.told()

    def test_a_receiver_that_is_gone_is_an_error_that_names_no_secret(self, sink: Sink, receiver: Receiver) -> None:
        """So that it is tried again; and the message may be shown."""
        receiver.break_down()
        said = ""
        try:
            sink.send(a_notice())
        except DeliveryError as error:
            said = str(error)
        assert bool(said) == self.can_refuse, "DeliveryError was expected"
        assert "hush" not in said
