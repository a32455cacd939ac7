"""The world against a real HTTP server that writes down what it is sent, in the order in which it comes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from undrift.demo.build import Material
from undrift.demo.story import celsius, quick_story
from undrift.demo.world import BATCH, Client, Day, World, split_days
from undrift.errors import ServeError
from undrift.ids import to_micros

START = datetime(2013, 7, 4, tzinfo=UTC)


class Listener:
    """What came, and what is answered next (200 unless said otherwise; 0 closes the connection without an answer)."""

    def __init__(self) -> None:
        self.came: list[tuple[str, Any, dict[str, str]]] = []
        self.answers: list[int] = []
        self.connections: set[Any] = set()
        self.lock = threading.Lock()


@contextmanager
def listening() -> Iterator[tuple[Listener, int]]:
    listener = Listener()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with listener.lock:
                status = listener.answers.pop(0) if listener.answers else 200
                listener.connections.add(self.client_address)
                if status == 200:
                    listener.came.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
            if not status:
                self.close_connection = True
                return
            content = json.dumps({"status": status}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield listener, server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def served() -> Iterator[tuple[Listener, int]]:
    with listening() as both:
        yield both


def at(hour: float) -> int:
    return to_micros(START + timedelta(hours=hour))


def day() -> Day:
    """Flights at 6:10, 6:20 and 6:40, a weather report and an arrival at 6:30, an outcome at 7:00 and one at 23:50."""
    return Day(
        START,
        [{"flight_id": f"f{place}", "prediction_time": at(hour)} for place, hour in enumerate((6.1, 6.2, 6.6))],
        [{"id": "e0", "label": "1", "event_time": at(7)}, {"id": "e1", "label": "0", "event_time": at(23.9)}],
        {
            "weather": [{"origin": "JFK", "temp": 70.0, "known_at": at(6.5)}],
            "arrivals": [{"carrier": "UA", "known_at": at(6.5)}],
        },
    )


def play(port: int, what: Day, connections: int = 3) -> World:
    world = World("127.0.0.1", port, connections=connections)
    try:
        world.begin(START)
        world.play("flights", what)
    finally:
        world.close()
    return world


def test_a_day_comes_in_the_order_in_which_things_became_known(served: tuple[Listener, int]) -> None:
    listener, port = served
    world = play(port, day())
    assert [path for path, _, _ in listener.came] == [
        "/v1/watermark",
        "/v1/models/flights:predict",  # 6:10 and 6:20, before the report of 6:30
        "/v1/sources/weather",
        "/v1/models/flights:predict",  # 6:40
        "/v1/models/flights/labels",  # of 7:00, with what has landed by then
        "/v1/sources/arrivals",
        "/v1/models/flights/labels",  # of 23:50
        "/v1/watermark",
    ]
    bodies = [body for _, body, _ in listener.came]
    assert [row["flight_id"] for row in bodies[1]["instances"]] == ["f0", "f1"]
    assert [row["flight_id"] for row in bodies[3]["instances"]] == ["f2"]
    assert [label["id"] for label in bodies[4]["labels"]] == ["e0"]
    assert bodies[0] == {"event_time": at(0)}
    assert bodies[-1] == {"event_time": at(24)}
    assert (world.sent, world.requests) == (3, 8)


def test_nothing_of_a_crowded_day_is_lost_or_sent_twice_and_batches_stay_within_their_size(
    served: tuple[Listener, int],
) -> None:
    listener, port = served
    asked = [{"flight_id": f"f{place}", "prediction_time": at(24 * place / 1000)} for place in range(1000)]
    told = [{"id": f"f{place}", "label": "0", "event_time": at(24 * place / 1000)} for place in range(1000)]
    play(port, Day(START, asked, told, {}))
    batches = [body["instances"] for path, body, _ in listener.came if path.endswith(":predict")]
    labels = [label["id"] for path, body, _ in listener.came if path.endswith("labels") for label in body["labels"]]
    names = [row["flight_id"] for batch in batches for row in batch]
    assert sorted(names) == sorted(row["flight_id"] for row in asked)
    assert sorted(labels) == sorted(names)
    assert max(map(len, batches)) <= BATCH
    times = [batch[0]["prediction_time"] for batch in batches]
    assert times == sorted(times)  # slots of one batch each, so their order is the order of time


def test_requests_of_one_slot_are_in_flight_together_on_so_many_connections(served: tuple[Listener, int]) -> None:
    listener, port = served
    asked = [{"flight_id": f"f{place}", "prediction_time": at(6.1)} for place in range(5 * BATCH)]
    play(port, Day(START, asked, [], {}), connections=3)
    assert len(listener.connections) == 3
    assert sum(len(body["instances"]) for path, body, _ in listener.came if "predict" in path) == 5 * BATCH


def test_each_request_bears_a_key_so_that_sending_it_again_counts_once(served: tuple[Listener, int]) -> None:
    listener, port = served
    play(port, day())
    keys = {path: headers for path, _, headers in listener.came}
    assert keys["/v1/models/flights:predict"]["x-request-id"] == "f2-r"
    assert keys["/v1/sources/weather"]["idempotency-key"] == f"weather-{(START + timedelta(hours=6.5)).isoformat()}"
    assert "idempotency-key" in keys["/v1/sources/arrivals"]


def test_the_client_tries_again_while_the_server_is_away_or_busy(served: tuple[Listener, int]) -> None:
    listener, port = served
    listener.answers = [503, 0, 503]
    with closing(Client("127.0.0.1", port)) as client:
        assert client.post("/v1/x", {"a": 1}) == {"status": 200}
    assert [body for _, body, _ in listener.came] == [{"a": 1}]
    assert listener.answers == []


def test_an_error_of_the_request_is_told_at_once_with_what_the_server_said(served: tuple[Listener, int]) -> None:
    listener, port = served
    listener.answers = [400]
    with (
        closing(Client("127.0.0.1", port)) as client,
        pytest.raises(ServeError, match=r"POST /v1/x .* failed: 400: .*status"),
    ):
        client.post("/v1/x", {})
    assert listener.came == []


def test_a_failure_in_one_of_many_requests_is_raised(served: tuple[Listener, int]) -> None:
    listener, port = served
    listener.answers = [200, 200, 422]
    asked = [{"flight_id": f"f{place}", "prediction_time": at(6.1)} for place in range(3 * BATCH)]
    with pytest.raises(ServeError, match="422"):
        play(port, Day(START, asked, [], {}))


# -- the year of the demo -----------------------------------------------------------------------------------------


def test_rows_fall_on_the_day_of_their_time_in_utc() -> None:
    moments = [START - timedelta(seconds=1), START, START + timedelta(hours=23.99), START + timedelta(days=1)]
    table = pa.table({"n": [0, 1, 2, 3], "t": pa.array(moments, pa.timestamp("us", "UTC"))})
    days = split_days(table.take([3, 2, 0, 1]), "t", START, START + timedelta(days=3))
    assert [[row["n"] for row in rows] for rows in days.values()] == [[1, 2], [3], []]
    assert days[START][0]["t"] == to_micros(START)


@pytest.fixture(scope="module")
def material() -> Material:
    return Material(quick_story())


def test_a_day_of_the_year_tells_only_what_was_known_by_then(material: Material) -> None:
    played = material.day(START, delays=False)
    low, high = to_micros(START), to_micros(START + timedelta(days=1))
    assert len(played.asked) > 100
    assert all(low <= row["prediction_time"] < high for row in played.asked)
    assert all(low <= row["event_time"] < high for row in played.outcomes)
    assert all(low <= row["known_at"] < high for rows in played.reports.values() for row in rows)
    assert all(row["observed_at"] <= row["known_at"] for row in played.reports["weather"])
    assert set(played.asked[0]) & {"late", "arr_delay", "landed_at", "outcome"} == set()
    assert set(played.reports) == {"weather", "arrivals"}


def test_the_weather_is_in_celsius_from_the_planted_day_on_and_only_then(material: Material) -> None:
    story = material.story
    first, last = story.celsius.start, story.celsius.end - timedelta(days=1)
    means = {}
    for moment in (first - timedelta(days=1), first, last, last + timedelta(days=1)):
        temps = [row["temp"] for row in material.day(moment, delays=False).reports["weather"]]
        means[moment] = sum(temps) / len(temps)
    outside, inside = [means[first - timedelta(days=1)], means[last + timedelta(days=1)]], [means[first], means[last]]
    assert min(outside) > 60  # Fahrenheit, New York in July
    assert max(inside) < 35
    assert celsius({"temp": 212.0, "dewp": None}) == {"temp": 100.0, "dewp": None}


def test_the_feed_of_delays_is_published_every_hour_for_each_carrier_once_it_is_live(material: Material) -> None:
    story = material.story
    assert "carrier_delays" not in material.day(story.release, delays=False).reports
    sent = material.day(story.release, delays=True).reports["carrier_delays"]
    assert len({row["carrier"] for row in sent}) > 5
    assert {row["known_at"] % 3_600_000_000 for row in sent} == {1_800_000_000}
    mine = [row for row in sent if row["carrier"] == story.carrier]
    assert len(mine) == 24
    hour = mine[12]["known_at"] - 1_800_000_000
    landed = material.truth.filter(pc.equal(material.truth["carrier"], story.carrier))
    at = landed["landed_at"].cast(pa.int64())
    recent = landed.filter(pc.and_(pc.greater_equal(at, hour - 6 * 3_600_000_000), pc.less(at, hour)))
    assert mine[12]["mean_delay"] == pytest.approx(pc.mean(recent["arr_delay"]).as_py())


def test_every_flight_of_the_days_is_asked_for_once_and_its_outcome_told_as_it_was(material: Material) -> None:
    days = [START + place * timedelta(days=1) for place in range(10)]
    played = [material.day(moment, delays=False) for moment in days]
    asked = [row["flight_id"] for one in played for row in one.asked]
    whole = material.truth.filter(
        pc.and_(
            pc.greater_equal(material.truth["prediction_time"], days[0]),
            pc.less(material.truth["prediction_time"], days[-1] + timedelta(days=1)),
        )
    )
    assert len(asked) == len(set(asked))
    assert set(asked) == set(whole["flight_id"].to_pylist())
    truth = dict(zip(whole["flight_id"].to_pylist(), whole["late"].to_pylist(), strict=True))
    for outcome in played[5].outcomes:  # of flights of that day or the one before, as they really arrived
        assert outcome["id"] in asked
        assert outcome["label"] == str(int(truth[outcome["id"]]))
