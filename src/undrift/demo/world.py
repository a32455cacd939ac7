"""The world outside undrift: what airlines, weather stations and colleagues send, hour by hour, and what breaks.

It plays the rows of flights.py through HTTP in the order in which they became known, with the planted faults of
story.py. It knows nothing of how undrift works inside; it only talks to the served address.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from undrift.ids import to_micros
from undrift.rehearse.client import Client

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Day", "World"]

SLOT: Final = timedelta(hours=1)
SLOT_OFFSET: Final = timedelta(minutes=30)
"""Weather becomes known at half past; a slot runs from one report to the next."""
BATCH: Final = 64
LATE_SLOTS: Final = 3
"""Labels and arrivals are sent every third slot: outcomes come in batches, after the fact."""


class Day(NamedTuple):
    """One UTC day of what the world sends: predictions asked, outcomes told, reports pushed."""

    start: datetime
    asked: list[dict[str, Any]]
    outcomes: list[dict[str, Any]]
    reports: dict[str, list[dict[str, Any]]]


class World:
    """Plays days against a server.

    Parameters
    ----------
    host, port : where undrift serves.
    connections : requests in flight at once.
    """

    def __init__(self, host: str, port: int, *, connections: int = 4) -> None:
        self._clients = [Client(host, port) for _ in range(connections)]
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="world")
        self._outcome_client = Client(host, port)
        self._teller = ThreadPoolExecutor(1, thread_name_prefix="outcomes")
        self._told: list[Future[dict[str, Any]]] = []
        self.sent = 0
        self.requests = 0

    def begin(self, at: datetime) -> None:
        """Say that event time starts here."""
        self._send([("/v1/watermark", {"event_time": to_micros(at)}, "")])

    def play(self, model: str, day: Day) -> None:
        """Send one day in the order in which things became known, then the watermark of its end.

        Outcomes come from others than those who ask: they are sent beside what follows.
        """
        pending: list[dict[str, Any]] = []
        arrived: list[dict[str, Any]] = []
        for number, slot in enumerate(_slots(day)):
            for source, rows in slot.reports.items():
                if source == "arrivals":
                    arrived += rows
                else:
                    self._send([(f"/v1/sources/{source}", {"rows": rows}, f"{source}-{slot.start.isoformat()}")])
            self._send(
                [
                    (f"/v1/models/{model}:predict", {"instances": part}, f"{part[0]['flight_id']}-r")
                    for part in _parts(slot.asked)
                ]
            )
            self.sent += len(slot.asked)
            pending += slot.outcomes
            if number % LATE_SLOTS == LATE_SLOTS - 1:
                self._outcomes(model, pending, arrived, slot.start)
                pending, arrived = [], []
        self._outcomes(model, pending, arrived, day.start + timedelta(days=1))
        for future in self._told:
            future.result()
        self._told = []
        end = day.start + timedelta(days=1)
        self._send([("/v1/watermark", {"event_time": to_micros(end)}, "")])

    def _outcomes(
        self, model: str, labels: list[dict[str, Any]], arrived: list[dict[str, Any]], until: datetime
    ) -> None:
        told = []
        if labels:
            told.append((f"/v1/models/{model}/labels", {"labels": labels}, ""))
        if arrived:
            told.append(("/v1/sources/arrivals", {"rows": arrived}, f"arrivals-{until.isoformat()}"))
        for request in told:
            self.requests += 1
            self._told.append(self._teller.submit(self._outcome_client.post, *request))

    def _send(self, requests: Sequence[tuple[str, Any, str]]) -> None:
        self.requests += len(requests)
        if len(requests) == 1:
            self._clients[0].post(*requests[0])
            return
        lanes: list[list[tuple[str, Any, str]]] = [[] for _ in self._clients]
        for place, request in enumerate(requests):
            lanes[place % len(lanes)].append(request)

        def run(client: Client, lane: list[tuple[str, Any, str]]) -> None:
            for request in lane:
                client.post(*request)

        for future in [self._pool.submit(run, c, lane) for c, lane in zip(self._clients, lanes, strict=True) if lane]:
            future.result()

    def close(self) -> None:
        """Let all connections go."""
        self._pool.shutdown()
        self._teller.shutdown()
        for client in [*self._clients, self._outcome_client]:
            client.close()


def _parts(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for place in range(0, len(rows), BATCH):
        yield rows[place : place + BATCH]


def _slots(day: Day) -> Iterator[Day]:
    """The day cut at half past each hour (the first and last slot are half as long)."""
    cuts = [day.start + SLOT_OFFSET + SLOT * i for i in range(24)]
    edges = [day.start, *cuts, day.start + timedelta(days=1)]
    for begin, end in pairwise(edges):
        low, high = to_micros(begin), to_micros(end)
        yield Day(
            begin,
            [row for row in day.asked if low <= row["prediction_time"] < high],
            [row for row in day.outcomes if low <= row["event_time"] < high],
            {
                source: chosen
                for source, rows in day.reports.items()
                if (chosen := [row for row in rows if low <= row["known_at"] < high])
            },
        )


def split_days(table: pa.Table, time: str, start: datetime, end: datetime) -> dict[datetime, list[dict[str, Any]]]:
    """Rows by the UTC day of a time column, as plain rows with times in microseconds since 1970."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {
        name: table[name].cast(pa.int64()) if pa.types.is_timestamp(table[name].type) else table[name]
        for name in table.column_names
    }
    table = pa.table(columns).sort_by([(time, "ascending")])
    days: dict[datetime, list[dict[str, Any]]] = {}
    day = start
    while day < end:
        low, high = to_micros(day), to_micros(day + timedelta(days=1))
        rows = table.filter(pc.and_(pc.greater_equal(table[time], low), pc.less(table[time], high)))
        days[day] = rows.to_pylist()
        day += timedelta(days=1)
    return days
