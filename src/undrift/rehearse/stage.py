"""The stage of a rehearsal: a copy of the project in a scratch folder, whose days are played in this process.

The real worker's verbs judge (ingest, run_tick) and the real models answer; only the sockets are left out, and features
are those that the rows had. Nothing of the user's own project is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from undrift.capture.capture import (
    EventRecord,
    LabelRecord,
    PredictionRecord,
    Record,
    SourceRecord,
    SpoolWriter,
)
from undrift.capture.ingest import Ingest
from undrift.data.decoder import Decoder
from undrift.deploy.routes import running
from undrift.errors import PredictionError, RequestError
from undrift.event import Event
from undrift.ids import duration, from_micros, to_micros
from undrift.inference.predictor import Predictor, load
from undrift.inference.router import pick
from undrift.rehearse.columns import Columns
from undrift.rehearse.material import Material
from undrift.rehearse.row import Row, Script, Sighting
from undrift.rehearse.scratch import DAY, ME, open_copy
from undrift.tick import run_tick

__all__ = ["Stage"]


class Stage:
    """One run: days played one after the other on a copy.

    Parameters
    ----------
    folder : of the copy.
    material : rows to draw from.
    per_day : rows per day.
    """

    def __init__(self, folder: Path, model: str, material: Material, *, per_day: int, seed: int, day: int = 0) -> None:
        self.project = open_copy(folder)
        self.project.follow()
        # what happens on a stage is no business of MLflow
        vars(self.project).update(mirror_champion=lambda *_: None, tracking=None, registry=_Nowhere())
        self.model = self.project.model(model)
        self.material, self.per_day, self.seed = material, per_day, seed
        self.columns = Columns(self.project, self.model, material)
        self.interface = self.columns.interface
        self.day = day
        self.onset: int | None = None
        self.candidate = ""
        self.teaching, self.trained, self.worth_event = False, False, ""
        self.scenario: Script | None = None
        self.strength = 0.0
        self.exposed, self.violations = 0, 0
        self.refused: list[str] = []
        self.sent = 0
        self.off = ""
        """Why the day could not be played, where a scenario does what this stage cannot."""
        self._decoder = Decoder(self.interface.contract)
        self._predictors: dict[str, Predictor] = {}
        self._first = self.project.journal.events()[-1].seq
        settings = self.project.settings
        self._spool = settings.path(settings.stores.spool)

    @cached_property
    def _writer(self) -> SpoolWriter:
        return SpoolWriter(self._spool)

    @cached_property
    def _ingest(self) -> Ingest:
        project = self.project
        return Ingest(
            self._spool,
            project.lake,
            project.journal,
            project.manifest,
            project.known_sources(),
            time=project.settings.time,
        )

    @property
    def key_type(self) -> str:
        """The type of the field that names a prediction; empty where there is none."""
        return next((f.type for f in self.interface.contract.fields if f.name == self.interface.key), "")

    @property
    def _looked_up_by(self) -> set[str]:
        """Fields that name the rows of views, which stay as they are where features are looked up."""
        return {view.entity for view in self.interface.views} if self.material.as_was else set()

    @property
    def now(self) -> datetime:
        """The end of the last day played."""
        return self.material.start + self.day * DAY

    def close(self) -> None:
        """Let go of the copy."""
        if "_writer" in vars(self):
            self._writer.close()
        self.project.close()

    # -- what happens -------------------------------------------------------------------------------------------------

    def begin(self, scenario: Script, strength: float) -> None:
        """From the next day on the scenario acts."""
        self.scenario, self.strength, self.onset = scenario, strength, self.day
        self._first = self.project.journal.events()[-1].seq

    def play(self) -> None:
        """One day of traffic, and the tick at its end."""
        rng = np.random.default_rng([self.seed, self.day])
        rows = self._drawn(rng)
        if self.scenario is not None:
            acts = self.scenario.lesson if self.teaching else self.scenario.change
            rows = acts(rows, self, self.strength)
        self._lived(rows, rng)
        self._leave_jobs()

    def _lived(self, rows: list[Row], rng: np.random.Generator) -> None:
        """The rows answered and captured, and the day judged; all of it in this process."""
        start = self.now
        records = self._answered(rows, start, rng)
        records += self._reports(start)
        self.day += 1
        self._writer.append(records)
        self._ingest.cycle()
        self.project.journal.put_setting("watermark", to_micros(self.now))
        run_tick(self.project, self.now, DAY)

    @property
    def pool(self) -> list[Row]:
        """The rows from which those of the day are drawn."""
        return self.material.rows

    def _drawn(self, rng: np.random.Generator) -> list[Row]:
        return [self.pool[place].again() for place in rng.choice(len(self.pool), self.per_day)]

    def carries(self, column: str) -> bool:
        """Whether a scenario can change an input of the model here."""
        return True

    def tells(self, column: str) -> bool:
        """Whether an input says which rows of a day are which."""
        return True

    def _answered(self, rows: list[Row], start: datetime, rng: np.random.Generator) -> list[Record]:
        """The records of a day: each row decoded by the contract, answered by its variant, and its label to come."""
        interface = self.interface
        moments = self._moments(start, rng, len(rows))
        route = self.project.publish_routes().routes[0]
        by_revision: dict[str, list[tuple[Row, str, int, tuple[str, ...], float]]] = {}
        labels: list[Record] = []
        for number, (row, at) in enumerate(zip(rows, moments, strict=True)):
            name = self._name(number)
            decoded = self._decoded(row, name, at)
            if decoded is None:
                continue
            flags = self._decoder.violations(decoded)
            row.inputs = decoded
            choice = pick(route, str(decoded.get(interface.unit) or name))
            if self.onset is not None and (not self.candidate or choice.revision == self.candidate):
                self.violations += bool(flags and row.touched)
                self.exposed += bool(row.touched)
            by_revision.setdefault(choice.revision, []).append((row, name, at, flags, choice.propensity))
            if row.label is not None:
                told = at + self._wait
                labels.append(
                    LabelRecord(
                        model=interface.model, prediction_id=name, label=row.label, event_time=told, received_at=told
                    )
                )
        self.sent += len(rows)
        records: list[Record] = []
        for revision, group in by_revision.items():
            records += self._of_revision(revision, route, group)
        return [*records, *labels]

    @staticmethod
    def _moments(start: datetime, rng: np.random.Generator, count: int) -> list[int]:
        """The microseconds of a day at which its rows come, one after the other."""
        seconds = np.sort(rng.integers(0, int(DAY.total_seconds()), count))
        return [to_micros(start + timedelta(seconds=second)) for second in seconds.tolist()]

    @property
    def _wait(self) -> int:
        """The microseconds from a prediction to its label."""
        return min(duration(self.model.maturity), 3 * DAY) // timedelta(microseconds=1)

    def _name(self, number: int) -> str:
        """What names a row of the day, by its place in it; its digits are a number that no other row has."""
        return f"rehearsed-{self.day}-{number:06d}"

    def _request(self, row: Row, name: str, at: int) -> dict[str, Any]:
        """The row as a client sends it: with a key, a time and a unit where the model has them, as JSON values."""
        sent = {key: value for key, value in row.inputs.items() if key not in (self.interface.key, self.interface.time)}
        if self.interface.key in self._looked_up_by:
            sent[self.interface.key] = row.inputs[self.interface.key]
        elif self.interface.key:
            number = int("".join(c for c in name if c.isdigit()))
            sent[self.interface.key] = number if self.key_type in ("integer", "number") else name
        if self.interface.time:
            sent[self.interface.time] = from_micros(at)
        if self.interface.unit and self.interface.unit not in (self.interface.key,):
            sent.setdefault(self.interface.unit, name)
        built: dict[str, Any] = msgspec.to_builtins(sent)
        return built

    def _decoded(self, row: Row, name: str, at: int) -> dict[str, Any] | None:
        """The row as a server would decode it; None where the contract refuses it."""
        try:
            return self._decoder.row(self._request(row, name, at))
        except RequestError as error:
            self.refused.append(str(error))
            return None

    def _of_revision(self, revision: str, route: Any, group: list[Any]) -> list[Record]:
        rows = [entry[0] for entry in group]
        version = {placed.revision: placed.version for placed in route.revisions}
        variant = "candidate" if revision == route.candidate and revision != route.champion else "champion"
        failed = np.zeros(len(rows), dtype=bool)
        answers = self._ask(revision, rows)
        if self.scenario is not None:
            try:
                answers = self.scenario.answers(revision, rows, answers, self, self.strength)
            except PredictionError:  # every touched row fails; the champion answers those of a candidate
                failed = np.array([row.touched for row in rows])
        records: list[Record] = []
        for place, (row, name, at, flags, propensity) in enumerate(group):
            common = {
                "id": name, "request_id": name, "model": self.interface.model, "unit": self._unit(row, name),
                "propensity": propensity, "event_time": at, "received_at": at, "inputs": row.inputs,
                "features": row.features, "feature_times": {}, "violations": list(flags), "latency_us": 1000,
            }  # fmt: skip
            mine = {"revision": revision, "version": version[revision], "variant": variant}
            if failed[place]:
                records.append(
                    PredictionRecord(
                        **common, **mine, score=None, prediction=None, scores=None, error="rehearsed failure"
                    )
                )
                if variant == "champion":
                    continue
                mine = {"revision": route.champion, "version": version[route.champion], "variant": "champion"}
                given = self._ask(route.champion, [row])
                records.append(_record(common, mine, given, 0))
                continue
            records.append(_record(common, mine, answers, place))
        return [*records, *self._worths(records)]

    def _worths(self, records: list[Record]) -> list[Record]:
        """What units did after the answers, where the scenario and the rollout are about that."""
        if not self.worth_event or self.scenario is None:
            return []
        told: list[Record] = []
        for each in records:
            if isinstance(each, PredictionRecord) and each.error is None:
                value = self.scenario.worth(each.revision, each.id, self, self.strength)
                told.append(
                    EventRecord(
                        model=each.model, id=f"worth-{each.id}", unit=each.unit, name=self.worth_event, value=value,
                        event_time=each.event_time, received_at=each.received_at,
                    )
                )  # fmt: skip
        return told

    def _unit(self, row: Row, name: str) -> str:
        return str(row.inputs.get(self.interface.unit) or name)

    def _ask(self, revision: str, rows: list[Row]) -> Any:
        if revision not in self._predictors:
            self._predictors[revision] = load(self.project.bundle_path(revision), self.project.settings.trust)
        names = [given.name for given in self.interface.inputs]
        return self._predictors[revision].predict({name: [row.value(name) for row in rows] for name in names})

    def _reports(self, start: datetime) -> list[Record]:
        """The rows of sources of one day, moved to the rehearsal's time; those of the last weeks, over and over."""
        records: list[Record] = []
        scenario = self.scenario
        for name, rows in self.material.sources.items():
            source = self.project.known_sources()[name]
            first: datetime = rows[0][source.known_at]
            days = max(1, (rows[-1][source.known_at] - first) // DAY)
            begin = first.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
            own = start if self.material.as_was else begin + (self.day % max(days - 1, 1)) * DAY
            for row in rows:
                if own <= row[source.known_at] < own + DAY:
                    moved = {k: v + (start - own) if isinstance(v, datetime) else v for k, v in row.items()}
                    if scenario is not None:
                        moved = {k: scenario.spoil(k, v, self.strength) for k, v in moved.items()}
                    at = to_micros(moved[source.known_at])
                    records.append(SourceRecord(source=name, row=moved, received_at=at))
        return records

    def _leave_jobs(self) -> None:
        """What the worker would do next (train) is asked for, and left: only judging is rehearsed."""
        while (job := self.project.jobs.claim(ME, ("retrain", "notify"), timedelta(minutes=1))) is not None:
            self.project.jobs.finish(job, {"lines": ["rehearsed: asked for, not done"]})

    # -- what was seen ------------------------------------------------------------------------------------------------

    def events(self, *kinds: str) -> list[Event]:
        """The events since the onset (or since the run began), of some kinds."""
        return self.project.journal.events(kinds=kinds, after=self._first)

    def before(self, kind: str) -> list[Event]:
        """The events of a kind until the onset."""
        return [event for event in self.project.journal.events(kinds=(kind,)) if event.seq <= self._first]

    def incident(
        self, kinds: tuple[str, ...], *, where: Callable[[dict[str, Any]], bool] | None = None
    ) -> Sighting | None:
        """The first incident of some kinds that opened, or found more, since the onset."""
        for event in self.events("alert.opened", "alert.updated"):
            incident = event.payload["incident"]
            if incident["kind"] in kinds and (where is None or where(incident)):
                return Sighting(at=event.at, by=f"monitor {incident['monitor']}", what=event.why)
        return None

    def rolled_back(self) -> Sighting | None:
        """The rollout of the candidate rolled back by evidence, if it was; that its time ran out shows nothing."""
        events = [e for e in self.events("rollout.rolled_back") if e.payload["evidence"].get("verdict") == "FAIL"]
        return Sighting(at=events[0].at, by="the rollout", what=events[0].why) if events else None

    def at_the_door(self, share: float = 0.5) -> Sighting | None:
        """The contract refused or flagged most of the rows the fault acts on."""
        bad = len(self.refused) + self.violations
        if not bad or bad < share * (len(self.refused) + self.exposed):
            return None
        what = f"{len(self.refused)} rows refused, {self.violations} flagged"
        return Sighting(
            at=self.now, by="the contract", what=f"{what}; the first: {self.refused[0]}" if self.refused else what
        )

    def captured(self) -> int:
        """Take in what servers of the copy captured since; how many predictions that were."""
        total = 0
        while (seen := self._ingest.cycle()).rows or seen.more:
            total += seen.predictions
        return total

    def rollout_over(self) -> bool:
        """Whether no rollout is under way any more."""
        return not running(self.project.journal)


class _Nowhere:
    """A registry that keeps nothing."""

    def register(self, *_: Any, **__: Any) -> None:
        """Keep nothing."""


def _record(common: dict[str, Any], mine: dict[str, Any], answers: Any, place: int) -> PredictionRecord:
    return PredictionRecord(
        **common,
        **mine,
        score=float(answers.score[place]),
        prediction=None if answers.label is None else answers.label[place],
        scores=None if answers.scores is None else [float(s) for s in answers.scores[place]],
    )
