"""From the spool to the lake: exactly once, typed, and a watermark that never runs ahead of what is in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute
import pytest

from undrift.capture.capture import (
    EventRecord,
    LabelRecord,
    PredictionRecord,
    SourceRecord,
    SpoolWriter,
    WatermarkRecord,
)
from undrift.capture.ingest import TAKEN_IN, Ingest, Ingested
from undrift.capture.spool import TAKEN, Chunk, SpoolReader
from undrift.data.contract import Contract, Field
from undrift.data.features import Feature, FeatureView, Source, Transform
from undrift.develop.bundle import Interface, Manifest
from undrift.errors import ConflictError, NotFoundError
from undrift.ids import FixedClock, from_micros, to_micros
from undrift.settings import TimeSettings
from undrift.state.journal import Journal
from undrift.state.lake import DeltaLake
from undrift.state.sql import SqliteStore

START = datetime(2013, 4, 1, tzinfo=UTC)
AT = to_micros(START)
CLOCK = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
EVENT = TimeSettings(mode="event", lateness="1h")

ARRIVALS = Source(
    name="arrivals",
    contract=Contract(
        name="arrivals",
        fields=(Field(name="carrier", type="string"), Field(name="landed", type="timestamp")),
    ),
    time="landed",
)


def manifest(*more: Field, task: str = "binary") -> Manifest:
    interface = Interface(
        model="flights",
        task=task,  # type: ignore[arg-type]
        contract=Contract(name="c", fields=(Field(name="x", type="number", nullable=True), *more)),
        label="late",
        classes=("0", "1") if task == "binary" else (),
        views=(FeatureView(name="w", source="weather", entity="x", features=(Feature(name="temp"),)),),
        transforms=(Transform(name="t", function="m:f", inputs=("x",), outputs=(Feature(name="on", type="boolean"),)),),
    )
    return Manifest(interface=interface, format="onnx", native="skops", files={})


MANIFESTS = {"r-1": manifest(), "r-2": manifest(Field(name="code", type="string"))}


def prediction(number: int, **changes: Any) -> PredictionRecord:
    known = PredictionRecord(
        id=f"f{number}", request_id="q", model="flights", revision="r-1", version=1, variant="champion", unit="u",
        propensity=1.0, event_time=AT + number, received_at=AT + number + 5, inputs={"x": 1.5},
        features={"temp": None, "on": True}, feature_times={"w": None}, score=0.25, prediction="0", scores=None,
        violations=[], latency_us=9,
    )  # fmt: skip
    return msgspec.structs.replace(known, **changes)


def label(number: int, value: str | float = "1") -> LabelRecord:
    return LabelRecord(model="flights", prediction_id=f"f{number}", label=value, event_time=AT + number, received_at=AT)


def arrival(number: int, name: str = "") -> SourceRecord:
    row = {"carrier": "UA", "landed": START + timedelta(seconds=number)}
    return SourceRecord(source="arrivals", row=row, received_at=AT, id=name)


def purchase(number: int, **changes: Any) -> EventRecord:
    made = EventRecord(
        model="flights", id=f"e{number}", unit=f"u{number}", name="purchase", value=2.5, event_time=AT + number,
        received_at=AT + number + 5,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


class Place:
    """A spool with one writer, a lake and a journal; ingests are made anew to play a restart."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.writer = SpoolWriter(root / "spool", segment_bytes=2000)
        self.lake = DeltaLake(root / "lake")
        self.journal = Journal(SqliteStore(root / "undrift.db"), CLOCK)

    def ingest(self, **options: Any) -> Ingest:
        given: dict[str, Any] = {
            "spool": self.root / "spool", "lake": self.lake, "journal": self.journal,
            "manifest_of": MANIFESTS.__getitem__, "sources": {"arrivals": ARRIVALS}, "clock": CLOCK, **options,
        }  # fmt: skip
        return Ingest(**given)

    def column(self, table: str, name: str) -> list[Any]:
        rows = self.lake.scan(table)
        return [] if rows is None else sorted(rows[name].to_pylist())


@pytest.fixture
def place(tmp_path: Path) -> Any:
    place = Place(tmp_path)
    yield place
    place.writer.close()


def test_records_land_in_their_tables_with_the_types_of_the_contract(place: Place) -> None:
    place.writer.append([prediction(1, violations=["x>1"], feature_times={"w": AT}), label(1), arrival(1)])
    assert place.ingest().cycle() == Ingested(predictions=1, labels=1, sources=1, watermark=to_micros(CLOCK.now()))
    predictions, labels, arrivals = (
        place.lake.scan(name) for name in ("predictions_flights", "labels_flights", "source_arrivals")
    )
    assert predictions is not None
    assert labels is not None
    assert arrivals is not None
    (row,) = predictions.to_pylist()
    assert row["date"] == START.date()
    assert row["event_time"] == from_micros(AT + 1)
    assert (row["inputs"], row["features"]) == ({"x": 1.5}, {"temp": None, "on": True})
    assert row["feature_times"] == {"w": START}
    assert (row["violations"], row["error"], row["scores"]) == (["x>1"], None, None)
    assert predictions.schema.field("version").type == pa.int32()
    assert predictions.schema.field("features").type.field("temp").type == pa.float64()
    (row,) = labels.to_pylist()
    assert (row["prediction_id"], row["label"], row["value"]) == ("f1", "1", None)
    (row,) = arrivals.to_pylist()
    assert (row["carrier"], row["landed"]) == ("UA", START + timedelta(seconds=1))


def test_nothing_new_lands_nothing(place: Place) -> None:
    ingest = place.ingest()
    assert ingest.cycle().rows == 0
    place.writer.append([prediction(1)])
    assert ingest.cycle().predictions == 1
    assert ingest.cycle().rows == 0
    assert place.ingest().cycle() == Ingested(repeated=1, watermark=to_micros(CLOCK.now()))


def test_a_request_that_was_repeated_counts_once(place: Place) -> None:
    ingest = place.ingest()
    place.writer.append([prediction(1), prediction(1), label(1), arrival(1, "k/0")])
    ingest.cycle()
    place.writer.append([prediction(1), prediction(2), label(1), label(1, "0"), arrival(1, "k/0"), arrival(1)])
    assert ingest.cycle().repeated == 3
    assert place.column("predictions_flights", "prediction_id") == ["f1", "f2"]
    assert place.column("labels_flights", "label") == ["0", "1"]
    assert len(place.column("source_arrivals", "carrier")) == 2


def test_the_failure_of_a_candidate_and_the_answer_of_the_champion_are_two_rows(place: Place) -> None:
    failed = prediction(1, variant="candidate", revision="r-2", score=None, prediction=None, features={}, error="no")
    place.writer.append([failed, prediction(1)])
    place.writer.append([failed])
    assert place.ingest().cycle().predictions == 2


def test_revisions_with_other_fields_share_the_table(place: Place) -> None:
    ingest = place.ingest()
    place.writer.append([prediction(1)])
    ingest.cycle()
    newer = prediction(2, revision="r-2", inputs={"x": None, "code": "A"})
    place.writer.append([prediction(3), newer])
    ingest.cycle()
    rows = place.lake.scan("predictions_flights")
    assert rows is not None
    found = {row["prediction_id"]: row["inputs"] for row in rows.to_pylist()}
    assert found == {"f1": {"x": 1.5, "code": None}, "f2": {"x": None, "code": "A"}, "f3": {"x": 1.5, "code": None}}


def test_labels_of_a_regression_are_numbers(place: Place) -> None:
    place.writer.append([label(1, 2.5)])
    place.ingest().cycle()
    assert place.column("labels_flights", "value") == [2.5]


class Dying:
    """A lake, or a journal, that dies around one of its calls, as a killed process would."""

    def __init__(self, inner: Any, method: str, call: int, *, after: bool) -> None:
        self._inner, self._method, self._call, self._after = inner, method, call, after
        self._calls = count(1)  # tables are appended to by several threads

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name != self._method:
            return method

        def counted(*args: Any, **options: Any) -> Any:
            dies = next(self._calls) == self._call
            if dies and not self._after:
                raise KeyboardInterrupt
            result = method(*args, **options)
            if dies:
                raise KeyboardInterrupt
            return result

        return counted


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("what", "method", "call"), [
    ("lake", "append", 1), ("lake", "append", 2), ("lake", "append", 3),
    ("journal", "mark_seen", 1),
])  # fmt: skip
def test_dying_between_any_two_commits_loses_and_doubles_nothing(
    place: Place, what: str, method: str, call: int, after: bool
) -> None:
    numbers = range(60)  # several segments
    for number in numbers:
        place.writer.append([prediction(number), label(number), arrival(number)])
    dying = Dying(getattr(place, what), method, call, after=after)
    with pytest.raises(KeyboardInterrupt):
        place.ingest(**{what: dying}).cycle()
    place.writer.append([prediction(0), label(0), prediction(99)])  # a caller that got no answer tries again
    ingest = place.ingest()
    ingest.cycle()
    ingest.cycle()
    assert place.column("predictions_flights", "prediction_id") == sorted(f"f{n}" for n in (*numbers, 99))
    assert place.column("labels_flights", "prediction_id") == sorted(f"f{n}" for n in numbers)
    assert place.column("source_arrivals", "landed") == [START + timedelta(seconds=n) for n in numbers]


def test_one_that_lost_its_lease_unawares_can_double_nothing(place: Place) -> None:
    slow, quick = place.ingest(), place.ingest()
    place.writer.append([arrival(1)])
    slow.cycle()
    quick.cycle()
    place.writer.append([arrival(2)])
    quick.cycle()
    place.writer.append([arrival(3)])
    with pytest.raises(ConflictError):
        slow.cycle()
    slow.cycle()  # it reads the marks again
    quick.cycle(fence=2)
    assert place.column("source_arrivals", "landed") == [START + timedelta(seconds=n) for n in (1, 2, 3)]


def test_read_segments_and_ended_writers_are_removed(place: Place) -> None:
    ingest = place.ingest()
    for number in range(60):
        place.writer.append([prediction(number)])
    assert len(list((place.root / "spool").rglob("*.seg"))) > 3
    ingest.cycle()
    assert len(list((place.root / "spool").rglob("*.seg"))) == 1
    place.writer.close()
    ingest.cycle()
    assert [each.name for each in (place.root / "spool").iterdir()] == [TAKEN]


def test_a_large_backlog_comes_in_by_pieces(place: Place) -> None:
    for number in range(60):
        place.writer.append([prediction(number)])
    ingest = place.ingest(limit_bytes=3000)
    first = ingest.cycle()
    assert first.more
    assert 0 < first.predictions < 60
    assert first.watermark is None  # not all of what came before now is in
    while ingest.cycle().more:
        pass
    assert len(place.column("predictions_flights", "prediction_id")) == 60


def test_a_damaged_segment_is_said_and_the_rest_comes_in(place: Place) -> None:
    for number in range(30):
        place.writer.append([prediction(number)])
    first = min((place.root / "spool").rglob("*.seg"))
    data = bytearray(first.read_bytes())
    data[40] ^= 0xFF
    first.write_bytes(bytes(data))
    done = place.ingest().cycle()
    assert done.damaged == (str(first),)
    assert 0 < done.predictions < 30
    assert [path.read_bytes() for path in (place.root / "spool/damaged").iterdir()] == [bytes(data)]


def test_rows_of_a_source_that_is_not_declared_stay_in_the_spool(place: Place) -> None:
    place.writer.append([arrival(1)])
    ingest = place.ingest(sources={})
    with pytest.raises(NotFoundError, match="'arrivals'"):
        ingest.cycle()
    sources: Mapping[str, Source] = {"arrivals": ARRIVALS}
    ingest.sources = sources
    assert ingest.cycle().sources == 1


def test_in_wall_time_how_far_rows_are_in_is_kept_once_a_second(place: Place) -> None:
    clock = FixedClock(CLOCK.now())
    ingest = place.ingest(clock=clock)
    kept = []
    for _ in range(5):
        ingest.cycle()
        kept.append(place.journal.get_setting(TAKEN_IN))
        clock.move(timedelta(milliseconds=400))
    first = to_micros(CLOCK.now())
    assert kept == [first, first, first, first + 1_200_000, first + 1_200_000]
    clock.move(-timedelta(hours=1))
    ingest.cycle()
    assert place.journal.get_setting(TAKEN_IN) == to_micros(clock.now()), "a clock that was set right is followed"
    assert place.journal.get_setting("watermark") is None, "event time is not the wall clock's business"


def test_in_wall_time_what_is_not_yet_read_is_not_said_to_be_in(place: Place) -> None:
    place.writer.append([prediction(number) for number in range(200)])
    place.writer.append([prediction(number) for number in range(200, 400)])
    ingest = place.ingest(limit_bytes=1000)
    assert ingest.cycle().more
    assert place.journal.get_setting(TAKEN_IN) is None
    while ingest.cycle().more:
        pass
    assert place.journal.get_setting(TAKEN_IN) == to_micros(CLOCK.now())


def test_an_announced_watermark_counts_when_a_whole_cycle_came_after_it(place: Place) -> None:
    ingest = place.ingest(time=EVENT)
    place.writer.append([prediction(5), WatermarkRecord(event_time=AT + 10, received_at=AT)])
    assert ingest.cycle().watermark is None
    assert ingest.cycle().watermark == AT + 10
    place.writer.append([WatermarkRecord(event_time=AT + 3, received_at=AT)])
    ingest.cycle()
    assert ingest.cycle().watermark == AT + 10  # never back


def test_an_announced_watermark_survives_a_restart_at_any_point(place: Place) -> None:
    place.writer.append([WatermarkRecord(event_time=AT + 10, received_at=AT)])
    place.ingest(time=EVENT).cycle()
    place.writer.close()
    assert place.ingest(time=EVENT).cycle().watermark == AT + 10
    assert [each.name for each in (place.root / "spool").iterdir()] == [TAKEN]
    assert place.ingest(time=EVENT).cycle().watermark == AT + 10


def test_without_announcements_event_time_follows_the_newest_event_less_the_lateness(place: Place) -> None:
    ingest = place.ingest(time=EVENT)
    assert ingest.cycle().watermark is None
    place.writer.append([prediction(7), arrival(3600)])
    assert ingest.cycle().watermark == AT  # the arrival, an hour after the start
    place.writer.append([prediction(8)])
    assert ingest.cycle().watermark == AT


def test_a_business_event_lands_once_whoever_sends_it_again_and_whatever_it_says_then(place: Place) -> None:
    place.writer.append([purchase(1), purchase(2), purchase(1)])
    assert place.ingest().cycle().events == 2
    place.writer.append([purchase(2, value=99.0), purchase(3)])
    seen = place.ingest().cycle()
    assert seen.events == 1
    rows = place.lake.scan("events_flights")
    assert rows is not None
    assert sorted(zip(*(rows[name].to_pylist() for name in ("event_id", "unit", "name", "value")), strict=True)) == [
        (f"e{n}", f"u{n}", "purchase", 2.5) for n in (1, 2, 3)
    ]
    assert rows.filter(pa.compute.equal(rows["event_id"], "e3"))["event_time"].to_pylist() == [from_micros(AT + 3)]


def test_an_event_that_landed_before_a_crash_is_not_taken_again(place: Place) -> None:
    place.writer.append([purchase(1)])
    dying = place.ingest()

    def dies_before_it_remembers(placed: Any) -> None:
        if placed:
            raise ConflictError("died here")

    dying._remember = dies_before_it_remembers  # type: ignore[method-assign]
    with pytest.raises(ConflictError):
        dying.cycle()
    assert place.column("events_flights", "event_id") == ["e1"]
    place.writer.append([purchase(1)])
    assert place.ingest().cycle().events == 0
    assert place.column("events_flights", "event_id") == ["e1"]


def test_a_few_records_wait_for_more_are_read_once_and_land_with_what_ends_the_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[int] = []
    read = SpoolReader.read

    def watched(self: SpoolReader, writer: str, after: int = -1, limit: int = 64 << 20) -> Chunk:
        chunk = read(self, writer, after, limit)
        frames.extend(frame.position for frame in chunk.frames)
        return chunk

    monkeypatch.setattr(SpoolReader, "read", watched)
    ingest = place.ingest(time=EVENT, linger=timedelta(hours=1))
    place.writer.append([prediction(1)])
    assert ingest.cycle().predictions == 1
    for number in range(2, 30):  # over several segments
        place.writer.append([prediction(number), label(number)])
        assert ingest.cycle().rows == 0
    assert place.column("predictions_flights", "prediction_id") == ["f1"]
    place.writer.append([WatermarkRecord(event_time=AT + 100, received_at=AT)])
    landed = ingest.cycle()
    assert (landed.predictions, landed.labels, landed.repeated) == (28, 28, 0)
    assert len(frames) == len(set(frames)) == 30
    assert place.column("predictions_flights", "prediction_id") == sorted(f"f{number}" for number in range(1, 30))
    assert ingest.cycle().watermark == AT + 100
    assert len(list((place.root / "spool").glob("*/*.seg"))) == 1  # only the segment that is being written is left


def test_what_waited_when_the_worker_was_killed_is_read_again_by_the_next(place: Place) -> None:
    ingest = place.ingest(time=EVENT, linger=timedelta(hours=1))
    place.writer.append([prediction(1)])
    ingest.cycle()
    place.writer.append([prediction(2)])
    assert ingest.cycle().rows == 0
    assert place.ingest(time=EVENT).cycle().predictions == 1
    assert place.column("predictions_flights", "prediction_id") == ["f1", "f2"]
