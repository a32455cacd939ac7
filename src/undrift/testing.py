"""What tests of undrift, of its backends and of systems built on it stand on.

A clock that stands still, a stream of predictions and labels whose truth is known, a predictor that misbehaves on
command, and one conformance suite per port. Importable in a serving process: numpy, pyarrow and pytest stay outside.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from undrift.errors import ConflictError, DataError, NotFoundError, PredictionError, SettingsError
from undrift.ids import FixedClock, duration, hash_tree, to_micros
from undrift.state.ports import Artifacts, Lake, Online, Store

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ArtifactsConformance",
    "Faults",
    "FaultyPredictor",
    "FixedClock",
    "LakeConformance",
    "OnlineConformance",
    "Population",
    "StoreConformance",
    "population",
]

FAULTS_VARIABLE: Final = "UNDRIFT_FAULTS"


class Population(msgspec.Struct, frozen=True, kw_only=True):
    """A stream of predictions whose truth is known.

    ``rows`` has the columns ``id``, ``unit``, ``event_time``, ``segment`` (``a``, ``b`` or ``c``), ``x`` (the input),
    ``champion`` and ``candidate`` (their scores), ``probability`` (of label 1, the truth), ``label`` (0 or 1) and
    ``labelled_at`` (null for the rows whose label never comes). ``onset`` is when the world changes. ``lift`` is by
    how much the candidate's Brier score is lower than the champion's, in expectation.
    """

    rows: pa.Table
    onset: datetime | None
    lift: float


def population(
    n: int,
    *,
    seed: int,
    start: datetime = datetime(2013, 1, 1, tzinfo=UTC),
    spacing: str = "1m",
    onset: float | None = None,
    shift: float = 0.0,
    concept: float = 1.0,
    lift: float = 0.0,
    delay: str = "1d",
    unlabelled: float = 0.0,
) -> Population:
    """Draw a stream with known truth.

    The input is x ~ N(0, 1) and P(label = 1) = 0.2 + 0.6 / (1 + exp(-x)). A model's score is that probability plus
    independent noise, uniform on [-h, h] with h <= 0.2, so its Brier score exceeds the best possible one by h^2 / 3.

    Parameters
    ----------
    n : rows, one every ``spacing`` from ``start``.
    onset : share of the rows, [0, 1], after which the world changes; None for never.
    shift : x ~ N(shift, 1) after the onset (drift of the input; scores follow).
    concept : after it, x counts ``concept`` times in the true probability, but not in the scores (-1 reverses it).
    lift : expected Brier score of the champion minus that of the candidate, [0, 0.0133].
    delay : mean of the exponential time from event to label.
    unlabelled : share of the rows whose label never comes, [0, 1].

    Raises
    ------
    ValueError : a lift outside its range.
    """
    import numpy as np
    import pyarrow as pa

    widest = 0.2
    if not 0 <= lift <= widest**2 / 3:
        raise ValueError(f"lift is {lift}; it must be in [0, {widest**2 / 3:.4f}]")
    rng = np.random.default_rng(seed)
    first = n if onset is None else round(n * onset)
    after = np.arange(n) >= first
    x = rng.normal(size=n) + shift * after
    believed = 0.2 + 0.6 / (1 + np.exp(-x))
    probability = 0.2 + 0.6 / (1 + np.exp(-np.where(after, concept, 1.0) * x))
    step, mean = (duration(text) // timedelta(microseconds=1) for text in (spacing, delay))
    times = to_micros(start) + step * np.arange(n)
    waits = rng.exponential(mean, size=n).astype(np.int64)
    utc = pa.timestamp("us", "UTC")
    columns = {
        "id": [f"p{i:08d}" for i in range(n)],
        "unit": [f"u{u}" for u in rng.integers(0, max(n // 4, 1), size=n)],
        "event_time": pa.array(times).cast(utc),
        "segment": rng.choice(["a", "b", "c"], size=n, p=[0.6, 0.3, 0.1]).tolist(),
        "x": x,
        "champion": believed + rng.uniform(-widest, widest, size=n),
        "candidate": believed + rng.uniform(-1, 1, size=n) * np.sqrt(widest**2 - 3 * lift),
        "probability": probability,
        "label": (rng.random(n) < probability).astype(np.int64),
        "labelled_at": pa.array(times + waits, mask=rng.random(n) < unlabelled).cast(utc),
    }
    changed = None if onset is None else start + duration(spacing) * first
    return Population(rows=pa.table(columns), onset=changed, lift=lift)


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to go wrong, as the JSON of the file named by UNDRIFT_FAULTS; ``{}`` for nothing.

    ``constant``: answer this score whatever comes (multiclass: the first class's probability, the others share the
    rest). ``error``: raise with this text. ``delay_ms``: answer so much later. ``where``: only for rows with one of
    these values (any, if none) in each of these inputs, as ``{"carrier": ["UA"]}``; models without them are spared.
    """

    constant: float | None = None
    error: str = ""
    delay_ms: float = 0.0
    where: dict[str, list[Any]] = {}


class FaultyPredictor:
    """A predictor that does as another one does, except for the faults in a file that it looks at on every call.

    Set ``serve.wrapper = "undrift.testing:FaultyPredictor"`` and UNDRIFT_FAULTS to the path; a missing file means no
    faults. Everything but ``predict`` is passed on.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._seen: tuple[int, int, int] | None = None
        self._faults = Faults()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def predict(self, columns: Mapping[str, Sequence[Any]]) -> Any:
        """The inner answers, with the faults of the moment.

        Raises
        ------
        PredictionError : the fault ``error``.
        SettingsError : the file holds no faults that are known here.
        """
        faults = self._present()
        if faults == Faults():
            return self._inner.predict(columns)
        n = len(next(iter(columns.values()), ()))
        hit = [all(k in columns and (not v or columns[k][i] in v) for k, v in faults.where.items()) for i in range(n)]
        time.sleep(faults.delay_ms / 1000 if any(hit) else 0)
        if faults.error and any(hit):
            raise PredictionError(faults.error)
        answers = self._inner.predict(columns)
        return answers if faults.constant is None else self._constant(answers, faults.constant, hit)

    def _present(self) -> Faults:
        path = os.environ.get(FAULTS_VARIABLE, "")
        try:
            found = os.stat(path)
        except OSError:
            return Faults()
        if (mark := (found.st_mtime_ns, found.st_size, found.st_ino)) != self._seen:
            try:
                self._faults = msgspec.json.decode(Path(path).read_bytes(), type=Faults)
            except msgspec.DecodeError as error:
                raise SettingsError(f"{path}, named by {FAULTS_VARIABLE}, holds no faults: {error}.") from error
            self._seen = mark
        return self._faults

    def _constant(self, answers: Any, value: float, hit: Sequence[bool]) -> Any:
        interface = self._inner.manifest.interface
        classes, scores, label, given, best = interface.classes, None, None, [value], ""
        if interface.task == "multiclass":
            given = [value] + [(1 - value) / (len(classes) - 1)] * (len(classes) - 1)
            scores = [given if h else s for h, s in zip(hit, answers.scores, strict=True)]
            best = classes[given.index(max(given))]
        elif interface.task == "binary":
            best = classes[1] if value >= interface.threshold else classes[0]
        if answers.label is not None:
            label = [best if h else one for h, one in zip(hit, answers.label, strict=True)]
        score = [max(given) if h else s for h, s in zip(hit, answers.score, strict=True)]
        return type(answers)(score=score, scores=scores, label=label)


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
