"""A rollout under any sequence of evidence, time and people keeps its promises."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from undrift.deploy.people import abort, approve, pause, resume, skip
from undrift.deploy.rollout import Decision, Exposure, Rollout, RolloutState, Stage, reconcile, start
from undrift.deploy.routes import reduce_rollout, reduce_route
from undrift.errors import ConflictError
from undrift.event import GENESIS, Event, seal
from undrift.finding import Finding, Measurement, Report, Verdict

BEGIN = datetime(2013, 6, 1, tzinfo=UTC)


def report(verdicts: list[Verdict]) -> Report:
    seen = Measurement(name="brier", value=0.1, n=10)
    findings = tuple(Finding(verdict=v, why="as drawn", measurement=seen) for v in verdicts)
    return Report(title="Rollout", subject="r", findings=findings)


class RolloutMachine(RuleBasedStateMachine):
    """Ticks, people and time in any order; the projections follow from the events as they do in the journal."""

    state: RolloutState
    route: dict[str, object]
    projected: dict[str, object] | None

    @initialize(
        strategy=st.sampled_from(["canary", "canary", "ab", "blue_green"]),
        shadow=st.booleans(),
        approval=st.sampled_from([False, True, "second_person"]),
        frozen=st.booleans(),
        end=st.sampled_from(["pause", "roll_back", "promote"]),
        steps=st.sampled_from([(5.0, 10.0, 25.0, 50.0, 100.0), (1.0, 99.0), (100.0,), (20.0,)]),
    )
    def begin(
        self, strategy: str, shadow: bool, approval: bool | str, frozen: bool, end: str, steps: tuple[float, ...]
    ) -> None:
        declared = msgspec.convert(
            {
                "strategy": strategy,
                "steps": steps,
                "approval": approval,
                "on_timeout": end,
                "maximum": "12d",
                "minimum_units": 50,
            },
            Rollout,
        )
        if shadow:
            declared = msgspec.structs.replace(declared, shadow=Stage(hold="1d", minimum_units=50))
        self.now, self.exposed, self.seq, self.prev = BEGIN, 0, 0, GENESIS
        self.route = {"champion": "r-old", "champion_version": 1}
        self.projected = None
        self.waits = bool(approval)
        # a rollout whose single step is 100 still begins there: blue-green in all but name
        decision = start(
            declared, "r1", "m", ("r-new", 2), ("r-old", 1), self.now, actor="person:ann", frozen="f" if frozen else ""
        )
        assert not frozen or decision.state.weight == 0.0
        self.state = decision.state
        self.take(decision)

    def take(self, decision: Decision) -> None:
        for made in decision.drafts:
            self.seq += 1
            event: Event = seal(made, self.seq, self.prev, self.now)
            self.prev = event.hash
            self.route = dict(reduce_route(self.route, event, "m") or {})
            self.projected = reduce_rollout(self.projected, event, "r1")
        self.state = decision.state

    @rule(hours=st.sampled_from([1, 6, 24, 72]))
    def time_goes_on(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(
        verdicts=st.lists(st.sampled_from(list(Verdict)), max_size=3), units=st.integers(0, 200), frozen=st.booleans()
    )
    def judged(self, verdicts: list[Verdict], units: int, frozen: bool) -> None:
        before = self.state
        self.exposed += units if before.weight else 0
        seen, counts = report(verdicts), Exposure(step_units=units, total_units=self.exposed)
        decision = reconcile(before.declared, before, seen, counts, self.now, frozen="frozen" if frozen else "")
        assert decision == reconcile(before.declared, before, seen, counts, self.now, frozen="frozen" if frozen else "")
        self.take(decision)
        grew = self.state.weight > before.weight or self.state.status == "succeeded" != before.status
        late = self.now - before.started_at >= timedelta(days=12) and before.declared.on_timeout == "promote"
        assert not (grew and frozen)
        first = before.stage == "canary" and before.step == -1
        if grew and not late and not first:
            assert seen.verdict is Verdict.PASS
            assert units >= 50
            assert self.now - before.step_started_at >= timedelta(days=1)
        if grew and first:
            assert (before.weight, self.state.weight) == (0.0, before.declared.weights[0])
        elif grew:
            assert verdicts
            assert seen.verdict <= Verdict.INCONCLUSIVE
            assert before.status == "running"
        if seen.verdict is Verdict.FAIL and not before.over:
            assert self.state.status == "rolled_back"
        if before.over:
            assert decision.state == before
            assert not decision.drafts
        if not before.over and self.state.status != "rolled_back":
            assert self.state.weight >= before.weight

    @rule(
        who=st.sampled_from([pause, resume, approve, skip, abort]),
        actor=st.sampled_from(["person:ann", "person:ben"]),
        frozen=st.booleans(),
    )
    def people_speak(self, who: Callable[..., Decision], actor: str, frozen: bool) -> None:
        before = self.state
        try:
            decision = who(before, self.now, actor=actor, why="said so", frozen="f" if frozen else "")
        except ConflictError:
            return
        assert not before.over
        self.take(decision)
        assert self.state.status != "succeeded", "winning is for evidence"
        assert not (frozen and self.state.weight > before.weight), "a freeze holds for people too"
        if who is approve and before.declared.approval == "second_person":
            assert actor != before.asked_by
        if who is skip:
            assert not before.deciding
            assert self.state.step == before.step + 1
            assert self.state.weight > before.weight
        if who is approve:
            self.waits = False
        if who in (pause, resume):
            assert self.state.weight == before.weight

    @precondition(lambda self: hasattr(self, "state"))
    @invariant()
    def promises_hold(self) -> None:
        assert 0.0 <= self.state.weight <= 100.0
        if self.waits and not self.state.over:
            assert self.state.weight == 0.0
        if self.state.status in ("rolled_back", "aborted"):
            assert self.state.weight == 0.0
            assert (self.route["champion"], self.route["candidate"], self.route["weight"]) == ("r-old", "", 0.0)
        elif self.state.status == "succeeded":
            assert (self.route["champion"], self.route["candidate"], self.route["weight"]) == ("r-new", "", 0.0)
            assert self.route["previous"] == ["r-old"]
        else:
            assert (self.route["candidate"], self.route["weight"]) == ("r-new", self.state.weight)
        assert self.projected == msgspec.json.decode(msgspec.json.encode(self.state))


TestRollout = RolloutMachine.TestCase
