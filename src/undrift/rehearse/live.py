"""The live stage of a rehearsal: the copy is served by `undrift serve` on loopback and judged by `undrift work`.

Rows are requests in event time, outcomes and business events are told by POST when their time has come, and a watermark
ends each day; decoding, routing, capture, ingest and ticks are those of the processes. What a scenario lets a model
answer is planted in the server (undrift.testing.FaultyPredictor). Retrains and notices are asked for, and left. Where
the model looks features up, days are played as they were: the rows of a day with the reports of sources, by time.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from undrift.capture.capture import SourceRecord
from undrift.errors import PredictionError, ServeError
from undrift.ids import to_micros
from undrift.rehearse.client import Client
from undrift.rehearse.row import Row
from undrift.rehearse.scenario import Scenario
from undrift.rehearse.scratch import DAY, plain_environ
from undrift.rehearse.stage import Stage
from undrift.rehearse.system import System, free_port
from undrift.testing import Faults, script_key, script_name

__all__ = ["LiveStage", "live_settings"]

Reports = dict[str, list[tuple[int, dict[str, Any]]]]
"""By source the rows to be told, each with when it became known, in microseconds."""
TOLD_TOGETHER: Final = 500
"""Labels, business events or rows of a source in one request."""


def live_settings() -> tuple[str, ...]:
    """Lines of the copy's settings: a port of its own, and the seam through which scenarios act on answers."""
    return (
        '[serve]\nhost = "127.0.0.1"',
        f"port = {free_port()}\nworkers = 1\npoll_seconds = 0.02",
        'wrapper = "undrift.testing:FaultyPredictor"',
        "[work]\npoll_seconds = 0.02\nlinger_seconds = 10.0\nlease_seconds = 5.0",
    )


class LiveStage(Stage):
    """A stage whose days are lived by processes; they start with the first day, and end with it."""

    def __init__(self, folder: Path, *parts: Any, **more: Any) -> None:
        super().__init__(folder, *parts, **more)
        self._system = System(self.project, folder / "faults.json", plain_environ())
        self._client: Client | None = None
        self._pending = folder / "untold.json"
        """Labels whose time had not come when the days that this copy was made of ended."""
        self._untold: list[tuple[int, dict[str, Any]]] = []
        self._today: tuple[int, list[Row]] = (-1, [])
        if self._pending.exists():
            self._untold = msgspec.json.decode(self._pending.read_bytes(), type=list[tuple[int, dict[str, Any]]])

    def _lived(self, rows: list[Row], rng: np.random.Generator) -> None:
        """The rows sent as requests, one by one in their order, and all else that is told; then the watermark."""
        if any(not self.carries(name) for row in rows for name in row.computed):
            self.off = "it acts on a computed feature, which no request carries: the server computes it anew"
            return
        client = self._client or self._begun()
        start = self.now
        moments = self._moments(start, rng, len(rows))
        if self.material.as_was:
            rows.sort(key=lambda row: row.at or start)
            moments = [to_micros(row.at or start) for row in rows]
        self._plant(rows)
        self._system.ready()
        reports = self._sourced()
        events: list[dict[str, Any]] = []
        for number, (row, at) in enumerate(zip(rows, moments, strict=True)):
            self._report(client, reports, at if self.material.as_was else None)
            events += self._asked(client, row, self._name(number), at)
        self._report(client, reports)
        self.sent += len(rows)
        self.day += 1
        self._tell(client, "events", events)
        end = to_micros(self.now)
        self._tell(client, "labels", [label for at, label in self._untold if at <= end])
        self._untold = [(at, label) for at, label in self._untold if at > end]
        client.post("/v1/watermark", {"event_time": end})
        self._system.settled(self.now)

    @property
    def pool(self) -> list[Row]:
        """The rows from which those of the day are drawn: all, or those of the day as it was."""
        if not self.material.as_was:
            return super().pool
        if self._today[0] != self.day:
            held = [row for row in self.material.rows if row.at and self.now <= row.at < self.now + DAY]
            self._today = self.day, held
        return self._today[1]

    def _drawn(self, rng: np.random.Generator) -> list[Row]:
        if not self.material.as_was:
            return super()._drawn(rng)
        held = self.pool
        return [held[place].again() for place in rng.permutation(len(held))[: self.per_day]]

    def carries(self, column: str) -> bool:
        """Whether a request carries an input, or a source whose rows the scenario changes does."""
        source = self.columns.sourced.get(column) if self.material.as_was else None
        spoils = self.scenario is not None and type(self.scenario).spoil is not Scenario.spoil
        return any(f.name == column for f in self.interface.contract.fields) or bool(
            spoils and source in self.material.sources
        )

    def tells(self, column: str) -> bool:
        """Whether an input says which rows of a day are which.

        What is looked up (the weather) is much the same for all, and so is what most of them share (the weekday).
        """
        if not self.material.as_was:
            return True
        looked_up = {output.name for view in self.interface.views for output in view.outputs}
        values = [row.value(column) for row in self.pool]
        return column not in looked_up and 2 * values.count(max(set(values), key=values.count)) < len(values)

    def _begun(self) -> Client:
        """The processes of the copy, started, and told when time begins."""
        self._write(Faults())
        self._system.start("serve")
        self._system.start("work", "--jobs", "tick")
        self._system.ready()
        self._client = Client("127.0.0.1", self.project.settings.serve.port)
        if self.day == 0:
            if self.material.as_was:
                self._report(self._client, self._before())
            self._client.post("/v1/watermark", {"event_time": to_micros(self.now)})
            self._system.settled(self.now)
        return self._client

    def _asked(self, client: Client, row: Row, name: str, at: int) -> list[dict[str, Any]]:
        """One row answered by the server, its label kept for later; the business event that follows, if any does.

        Raises
        ------
        ServeError : the server says something else than an answer, a refusal of the contract, or that a model failed.
        """
        headers = {} if self.interface.time else {"x-event-time": str(at)}
        path = f"/v1/models/{self.interface.model}:predict"
        sent = self._request(row, name, at)
        status, answer = client.ask(path, {"instances": [sent]}, headers)
        if status == 400:
            self.refused.append(str(answer.get("error", "")))
        if status in (400, 500):
            return []
        if status != 200:
            raise ServeError(f"POST {path} failed: {status}: {str(answer)[:300]}")
        (told,) = answer["rows"]
        if self.onset is not None and (not self.candidate or told["revision"] == self.candidate):
            self.violations += bool(told.get("violations") and row.touched)
            self.exposed += bool(row.touched)
        if row.label is not None:
            later = at + self._wait
            self._untold.append((later, {"id": told["id"], "label": row.label, "event_time": later}))
        if not self.worth_event or self.scenario is None:
            return []
        value = self.scenario.worth(told["revision"], name, self, self.strength)
        unit = str(sent.get(self.interface.unit) or told["id"])
        event = {"id": f"worth-{name}", "unit": unit, "name": self.worth_event, "value": value, "event_time": at}
        return [event]

    def _tell(self, client: Client, what: str, entries: list[dict[str, Any]]) -> None:
        for place in range(0, len(entries), TOLD_TOGETHER):
            body = {what: entries[place : place + TOLD_TOGETHER]}
            client.post(f"/v1/models/{self.interface.model}/{what}", body)

    def _sourced(self) -> Reports:
        """The day's rows of each source, in the order in which they became known."""
        found: Reports = {}
        for record in self._reports(self.now):
            assert isinstance(record, SourceRecord), "reports are rows of sources"
            found.setdefault(record.source, []).append((record.received_at, record.row))
        return found

    def _before(self) -> Reports:
        """The rows of sources from before the first day, which its features look at."""
        known = {name: source.known_at for name, source in self.project.known_sources().items()}
        return {
            name: [(to_micros(row[known[name]]), row) for row in rows if row[known[name]] < self.now]
            for name, rows in self.material.sources.items()
        }

    def _report(self, client: Client, waiting: Reports, until: int | None = None) -> None:
        """Tell rows of sources; all, or up to a time of those whose values are looked up as they are.

        Aggregates are computed at the ends of days, from what is told by then.
        """
        looked_up = {view.source for view in self.interface.views if not view.aggregates}
        for source, told in waiting.items():
            due = len(told) if until is None else bisect_right(told, until, key=itemgetter(0))
            if until is not None and source not in looked_up:
                continue
            for place in range(0, due, TOLD_TOGETHER):
                part = [row for _, row in told[place : min(place + TOLD_TOGETHER, due)]]
                client.post(f"/v1/sources/{source}", {"rows": part}, f"{source}-{self.day}-{told[place][0]}-{place}")
            del told[:due]

    # -- what models answer -------------------------------------------------------------------------------------------

    def _plant(self, rows: list[Row]) -> None:
        """Let the server answer the day's rows as the scenario says, where it says anything."""
        if self.scenario is None or type(self.scenario).answers is Scenario.answers:
            return
        route = self.project.publish_routes().routes[0]
        at = to_micros(self.now)
        sent = [(row, self._decoded(row, self._name(number), at)) for number, row in enumerate(rows)]
        known = [(row, decoded) for row, decoded in sent if decoded is not None]
        del self.refused[len(self.refused) - (len(rows) - len(known)) :]  # the server will say so itself
        asked = [Row(decoded, row.features, row.label, row.touched) for row, decoded in known]
        # what is looked up is known when it is asked for; the rest tells the rows of a day apart
        looked_up = {output.name for view in self.interface.views for output in view.outputs}
        inputs = [given.name for given in self.interface.inputs]
        names = [name for name in inputs if name not in looked_up] or inputs
        keys = [script_key(row.value(name) for name in names) for row in asked]
        scripted: dict[str, dict[str, Any]] = {}
        for revision in dict.fromkeys(r for r in (route.champion, route.candidate) if r):
            given = self._ask(revision, asked)
            script: dict[str, Any] = {}
            try:
                said = self.scenario.answers(revision, asked, given, self, self.strength)
            except PredictionError:
                script = {key: None for key, row in zip(keys, asked, strict=True) if row.touched}
            else:
                if said is given:
                    continue
                for place, key in enumerate(keys):
                    scores = None if said.scores is None else [float(score) for score in said.scores[place]]
                    script[key] = (
                        float(said.score[place]), scores, None if said.label is None else str(said.label[place])
                    )  # fmt: skip
            scripted[script_name(self.project.manifest(revision))] = script
        self._write(Faults(scripted=scripted, keyed=names))

    def _write(self, faults: Faults) -> None:
        scratch = self._system.faults.with_suffix(".new")
        scratch.write_bytes(msgspec.json.encode(faults))
        scratch.replace(self._system.faults)

    def close(self) -> None:
        """End the processes, leave word of the labels still to be told, and let go of the copy."""
        self._pending.write_bytes(msgspec.json.encode(self._untold))
        if self._client is not None:
            self._client.close()
        try:
            self._system.stop()
        finally:
            super().close()
