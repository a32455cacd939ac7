"""The endpoint of one model: rows in, answers and records out, each row by the variant its unit is assigned to.

Assignment, feature look-up, transforms, the call of the model, and what happens when a candidate fails: its rows are
answered by the champion and its failure is recorded. Nothing here knows HTTP, loads models or writes files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from undrift.capture.capture import PredictionRecord
from undrift.develop.bundle import Interface
from undrift.errors import (
    DeadlineError,
    ModelError,
    NotFoundError,
    OverloadError,
    RequestError,
)
from undrift.ids import new_id, to_micros
from undrift.inference.predictor import Outputs
from undrift.inference.revision import Prepared, Revision
from undrift.inference.router import Choice, Route, Variant, assign
from undrift.inference.usage import Ledger, Usage
from undrift.state.ports import Online

__all__ = ["Answered", "Assigned", "Call", "Endpoint", "Row", "Stage", "refuse_far"]

Values = dict[str, Any]

FAR: Final = 1e30
"""A model that fails on a larger number is not at fault: it computes in floats that end at 3e38."""


Stage = tuple[str, str, float, float]
"""What a request went through: name, revision, and when, from and to."""


class Call(msgspec.Struct, frozen=True):
    """What surrounds the rows of one request.

    ``received_at`` is in microseconds; ``started`` and ``deadline`` are readings of ``time.monotonic()``. ``charged``
    takes whom the request is counted to and when its answer was there, for whoever writes it.
    ``trace_id`` is that of the W3C trace context, if there is one. ``stages``, where it is a list, takes what the
    request went through. ``minted``: whether the request id was made here, so that no other request has it.
    ``happened`` is when the caller says that it happened, in microseconds; 0 if nobody does.
    """

    request_id: str
    received_at: int
    started: float
    deadline: float
    charged: list[tuple[Usage, float]] | None = None
    trace_id: str = ""
    stages: list[Stage] | None = None
    minted: bool = False
    happened: int = 0


class Row(msgspec.Struct, frozen=True):
    """The answer for one row."""

    id: str
    version: int
    revision: str
    variant: str
    score: float
    scores: list[float] | None
    label: str | None
    violations: list[str]


class Assigned(NamedTuple):
    """Who each row of a request is, when it is, and what answers it."""

    ids: Sequence[str]
    units: Sequence[str]
    at: Sequence[int]
    choices: Sequence[Choice]


class Answered(msgspec.Struct, frozen=True):
    """The answers in the order of the request, and the records to be written before they leave.

    ``failure`` is set where the champion failed: then there are records but no answers.
    """

    rows: list[Row]
    records: list[PredictionRecord]
    failure: ModelError | None


class Endpoint:
    """One model as the routing table of an epoch wants it.

    Parameters
    ----------
    route : which variant answers whom.
    revisions : the loaded revisions by name, the champion among them.
    epoch : of the table the route comes from.
    ledger : where what answering takes is counted.
    called : what records and answers call the champion.
    """

    def __init__(
        self,
        route: Route,
        revisions: Mapping[str, Revision],
        epoch: int,
        ledger: Ledger | None = None,
        *,
        called: Variant = "champion",
    ) -> None:
        self.route, self.revisions, self.epoch, self.called = route, dict(revisions), epoch, called
        self._pinned: dict[str, Endpoint] = {}
        self.champion = self.revisions[route.champion]
        self._ledger = Ledger() if ledger is None else ledger
        self.usages = {
            name: self._ledger[route.model, each.placed.version, called if each is self.champion else "candidate"]
            for name, each in self.revisions.items()
        }
        self.usage = self.usages[route.champion]
        contract = self.champion.interface.contract
        self.same_contract = {name for name, each in self.revisions.items() if each.interface.contract == contract}

    @property
    def interface(self) -> Interface:
        """The champion's interface: the one requests are decoded by."""
        return self.champion.interface

    def pinned(self, version: str) -> Endpoint:
        """The model answered by one of its loaded versions alone, whatever the route says.

        Its records have propensity 1, so a rollout's judge leaves them out: nobody drew that variant.

        Raises
        ------
        NotFoundError : no such version is loaded.
        """
        if version not in self._pinned:
            found = [name for name, each in self.revisions.items() if str(each.placed.version) == version]
            if not found:
                loaded = ", ".join(sorted({str(each.placed.version) for each in self.revisions.values()}))
                raise NotFoundError(
                    f"version {version[:20]!r} of model {self.route.model!r} is not loaded; loaded: {loaded}."
                )
            name = self.route.champion if self.route.champion in found else found[0]
            route = Route(model=self.route.model, champion=name, revisions=self.route.revisions)
            called: Variant = "champion" if name == self.route.champion else "candidate"
            self._pinned[version] = Endpoint(
                route, {name: self.revisions[name]}, self.epoch, self._ledger, called=called
            )
        return self._pinned[version]

    async def answer(
        self, rows: Sequence[Values], call: Call, online: Online | None, *, clean: bool = False
    ) -> Answered:
        """Answer the rows of one request.

        Parameters
        ----------
        clean : whether the champion's decoder has found no `violations` in them, so that nobody need look again.

        Raises
        ------
        OverloadError : the champion's queue is full.
        DeadlineError : the time of the call has passed.
        RequestError : the champion failed, and a number of the request is too far out to compute with.
        """
        ids, units, at, choices = self.assigned(rows, call)
        work = _Work(self, rows, call, online, ids, units, at, choices, clean)
        candidates, others = self._shared_out(choices)
        if candidates:
            # both at once; what the candidate cannot answer in half the time goes to the champion
            half = call.started + (call.deadline - call.started) / 2
            candidate = self.revisions[self.route.candidate]
            failed, failure = await asyncio.gather(
                _outcome(work.run(candidate, candidates, half)),
                _outcome(work.run(self.champion, others, call.deadline)),
            )
            if failed is not None:
                work.fail(candidate, candidates, failed)
            if failed is not None and failure is None:
                failure = await _outcome(work.run(self.champion, candidates, call.deadline))
        else:
            failure = await _outcome(work.run(self.champion, range(len(rows)), call.deadline))
        if isinstance(failure, ModelError):
            refuse_far(rows)
            undone = [place for place in range(len(rows)) if work.answers[place] is None]
            work.fail(self.champion, undone, failure)
            return Answered([], [r for r in work.records if r.error is not None], failure)
        if failure is not None:
            raise failure
        return Answered([answer for answer in work.answers if answer is not None], work.records, None)

    def _shared_out(self, choices: Sequence[Choice]) -> tuple[list[int], list[int]]:
        """The places of the rows that the candidate answers, and of the others."""
        candidate = self.route.candidate
        if not candidate or candidate == self.route.champion:
            return [], []
        mine = [place for place, choice in enumerate(choices) if choice.revision == candidate]
        if not mine:
            return [], []
        return mine, [place for place, choice in enumerate(choices) if choice.revision == self.route.champion]

    def assigned(self, rows: Sequence[Values], call: Call) -> Assigned:
        """The id, unit, time and variant of each row."""
        interface = self.interface
        ids = self._ids(interface, rows, call)
        field = self.route.unit or interface.unit
        units, choices = assign(self.route, field, [row.get(field) if field else None for row in rows], ids)
        at = (
            [self._at(interface, row, call) for row in rows]
            if interface.time
            else [call.happened or call.received_at] * len(rows)
        )
        return Assigned(ids, units, at, choices)

    @staticmethod
    def _ids(interface: Interface, rows: Sequence[Values], call: Call) -> list[str]:
        """What names each prediction. A caller's request id would not do: callers repeat theirs."""
        fresh = call.request_id if call.minted else new_id()
        if not interface.key:
            return [f"{fresh}-{place}" for place in range(len(rows))]
        keys = [row.get(interface.key) for row in rows]
        return [f"{fresh}-{place}" if key is None else str(key) for place, key in enumerate(keys)]

    @staticmethod
    def _at(interface: Interface, row: Values, call: Call) -> int:
        value = row.get(interface.time)
        if value is None:
            return call.happened or call.received_at
        return to_micros(value) if isinstance(value, datetime) else int(value)


def refuse_far(rows: Sequence[Values]) -> None:
    """Lay the failure of a model to the request if a number in it is so large that arithmetic overflows.

    Raises
    ------
    RequestError : says which.
    """
    for place, row in enumerate(rows):
        for name, value in row.items():
            if isinstance(value, (int, float)) and abs(value) > FAR:
                raise RequestError(
                    f"row {place}: {name} = {value:g} is too large for the model to compute with",
                    hint="Numbers up to 1e30 are never refused for their size; a maximum in the contract says more.",
                )


async def _outcome(work: Coroutine[Any, Any, None]) -> ModelError | OverloadError | DeadlineError | None:
    try:
        await work
    except (ModelError, OverloadError, DeadlineError) as error:
        return error
    return None


class _Work:
    """One request while it is answered: what is known of each row, and what has been answered."""

    def __init__(
        self,
        endpoint: Endpoint,
        rows: Sequence[Values],
        call: Call,
        online: Online | None,
        ids: Sequence[str],
        units: Sequence[str],
        at: Sequence[int],
        choices: Sequence[Choice],
        clean: bool,
    ) -> None:
        self.endpoint, self.rows, self.call, self.online = endpoint, rows, call, online
        self.clean = clean
        self.ids, self.units, self.at, self.choices = ids, units, at, choices
        self.answers: list[Row | None] = [None] * len(rows)
        self.records: list[PredictionRecord] = []

    async def run(self, revision: Revision, places: Sequence[int], deadline: float) -> None:
        """Answer some of the rows by a revision."""
        if not places:
            return
        began = time.monotonic()
        usage = self.endpoint.usages[revision.placed.revision]
        same = revision.placed.revision in self.endpoint.same_contract
        rows = [self.rows[place] for place in places]
        if not same:
            rows = revision.decode_again(rows)
        flagged = None if same and self.clean else [list(revision.decoder.violations(row)) for row in rows]
        prepared = revision.prepare(rows, [self.at[place] for place in places], self.online)
        usage.feature += time.monotonic() - began
        stages = self.call.stages
        if stages is None:
            outputs = await revision.predict(prepared.columns, len(rows), deadline, usage)
        else:
            outputs = await self._traced(stages, revision, prepared, began, deadline)
        self._keep(revision, places, rows, flagged, prepared, outputs)
        usage.rows += len(rows)
        if flagged is not None:
            usage.flagged += sum(1 for each in flagged if each)

    async def _traced(
        self, stages: list[Stage], revision: Revision, prepared: Prepared, began: float, deadline: float
    ) -> Outputs:
        """Ask the model, and say when the request waited for it and when it ran."""
        name, alone, asked = revision.placed.revision, Usage(), time.monotonic()
        rows = len(prepared.features)
        try:
            return await revision.predict(prepared.columns, rows, deadline, alone)
        finally:
            begun = asked + alone.queue
            stages += [
                ("feature", name, began, asked), ("queue", name, asked, begun),
                ("compute", name, begun, time.monotonic()),
            ]  # fmt: skip
            self.endpoint.usages[name].take(alone)

    def _keep(
        self,
        revision: Revision,
        places: Sequence[int],
        rows: Sequence[Values],
        flagged: Sequence[list[str]] | None,
        prepared: Prepared,
        outputs: Outputs,
    ) -> None:
        placed, variant = revision.placed, self._variant(revision)
        for index, place in enumerate(places):
            broken = [*flagged[index], *prepared.absent] if flagged is not None else [*prepared.absent]
            score = outputs.score[index]
            scores = None if outputs.scores is None else outputs.scores[index]
            label = None if outputs.label is None else outputs.label[index]
            self.answers[place] = Row(
                self.ids[place], placed.version, placed.revision, variant, score, scores, label, broken
            )
            features, times = prepared.features[index], prepared.times[index]
            self.records.append(
                self._record(revision, place, rows[index], variant, broken, features, times, score, scores, label)
            )

    def fail(self, revision: Revision, places: Sequence[int], error: Exception) -> None:
        """Record that a revision could not answer some of the rows."""
        variant, message = self._variant(revision), getattr(error, "message", str(error))
        self.endpoint.usages[revision.placed.revision].fail("model_error", len(places))
        for place in places:
            self.records.append(
                self._record(revision, place, self.rows[place], variant, [], {}, {}, None, None, None, message)
            )

    def _variant(self, revision: Revision) -> Variant:
        """Who answered; where the champion stands in for a candidate that failed, that is the champion."""
        return self.endpoint.called if revision is self.endpoint.champion else "candidate"

    def _record(
        self,
        revision: Revision,
        place: int,
        row: Values,
        variant: str,
        violations: list[str],
        features: Values,
        times: dict[str, int | None],
        score: float | None,
        scores: list[float] | None,
        label: str | None,
        error: str | None = None,
    ) -> PredictionRecord:
        if revision.personal:
            row = {name: None if name in revision.personal else value for name, value in row.items()}
        return PredictionRecord(
            id=self.ids[place],
            request_id=self.call.request_id,
            model=self.endpoint.route.model,
            revision=revision.placed.revision,
            version=revision.placed.version,
            variant=variant,
            unit=self.units[place],
            propensity=self.choices[place].propensity,
            event_time=self.at[place],
            received_at=self.call.received_at,
            inputs=row,
            features=features,
            feature_times=times,
            score=score,
            prediction=label,
            scores=scores,
            violations=violations,
            latency_us=int((time.monotonic() - self.call.started) * 1e6),
            error=error,
            trace_id=self.call.trace_id,
        )
