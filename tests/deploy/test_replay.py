"""A rollout judged again from its log: the same rule gives the same way, another one shows where it parts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from undrift.deploy import people
from undrift.deploy.replay import Replayed, changed, rejudge
from undrift.deploy.rollout import Decision, Exposure, Guardrail, Rollout, RolloutState, reconcile, start
from undrift.errors import DeclarationError
from undrift.event import GENESIS, Event, seal
from undrift.finding import Finding, Measurement, Report, Rule, Verdict, judge

NOW = datetime(2013, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DECLARED = Rollout(
    steps=(10, 50, 100), hold="1d", minimum_units=100, guardrails=(Guardrail(metric="brier", margin=0.05),)
)


class World:
    """What was seen on each day: the loss beyond the champion's, judged by the margin of whoever asks."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = losses

    def judge(self, state: RolloutState, at: datetime) -> tuple[Report, Exposure]:
        day = (at - NOW) // DAY
        seen = Measurement(name="brier", value=self.losses[day - 1], n=500)
        rule = Rule(measure="brier", op="<=", bound=state.declared.guardrails[0].margin)
        return (
            Report(title="Rollout", subject=state.subject, findings=(judge(rule, seen),)),
            Exposure(step_units=500, total_units=100 * day),
        )


class Log:
    """A rollout as it was lived."""

    def __init__(self, world: World, declared: Rollout = DECLARED) -> None:
        self.world, self.events = world, list[Event]()
        self.state = self.take(start(declared, "r1", "m", ("r-new", 2), ("r-old", 1), NOW, actor="person:ann"))

    def take(self, decision: Decision) -> RolloutState:
        for draft in decision.drafts:
            prev = self.events[-1].hash if self.events else GENESIS
            self.events.append(seal(draft, len(self.events) + 1, prev, NOW))
        self.state = decision.state
        return self.state

    def live(self, first: int, last: int, frozen: str = "") -> None:
        for day in range(first, last + 1):
            at = NOW + day * DAY
            report, exposure = self.world.judge(self.state, at)
            self.take(reconcile(self.state.declared, self.state, report, exposure, at, frozen=frozen))


def again(log: Log, rule: Rollout | None = None, frozen: str = "") -> Replayed:
    return rejudge(log.events, rule or DECLARED, log.world.judge, lambda at: frozen)


def test_the_same_rule_goes_the_same_way_to_the_same_end() -> None:
    log = Log(World([0.0, 0.01, 0.01]))
    log.live(1, 3)
    found = again(log)
    assert (found.recorded_status, found.status, found.differs_at) == ("succeeded", "succeeded", None)
    assert [moment.replayed for moment in found.moments] == [event.kind for event in log.events]
    assert found.ended_at == NOW + 2 * DAY


def test_a_narrower_margin_would_have_rolled_back_and_says_when() -> None:
    log = Log(World([0.0, 0.04, 0.04]))
    log.live(1, 3)
    found = again(log, changed(DECLARED, ["guardrails.brier.margin=0.02"]))
    assert (found.recorded_status, found.status) == ("succeeded", "rolled_back")
    assert (found.differs_at, found.ended_at) == (NOW + 2 * DAY, NOW + 2 * DAY)
    assert (found.recorded_exposed, found.exposed_units) == (200, 200)


def test_a_longer_hold_would_still_be_running_when_the_log_ends() -> None:
    log = Log(World([0.0, 0.0]))
    log.live(1, 2)
    found = again(log, changed(DECLARED, ["hold=5d"]))
    assert (found.status, found.ended_at, found.differs_at) == ("running", None, NOW + DAY)


def test_what_people_said_is_said_again_and_what_does_not_apply_is_noted() -> None:
    log = Log(World([0.0, 0.0, 0.0, 0.0]))
    log.take(people.pause(log.state, NOW, actor="person:ben", why="wait"))
    log.live(1, 1)
    log.take(people.resume(log.state, NOW + DAY, actor="person:ben", why="go on"))
    log.live(2, 3)
    found = again(log)
    assert (found.status, found.differs_at) == ("succeeded", None)
    skipping = Log(World([0.0, 0.0]))
    skipping.take(people.skip(skipping.state, NOW, actor="person:ben", why="seen enough"))
    skipping.live(1, 1)
    found = again(skipping, changed(DECLARED, ["steps=[10,100]"]))
    assert found.moments[1].replayed == "nothing"
    assert "last step, which only evidence takes" in found.moments[1].why


def test_a_freeze_of_the_other_rule_holds_what_went_on() -> None:
    log = Log(World([0.0, 0.0]))
    log.live(1, 2)
    found = again(log, frozen="holidays")
    assert (found.status, found.moments[-1].weight) == ("running", 0.0)


def test_missing_evidence_is_no_pass_in_a_replay_either() -> None:
    log = Log(World([0.0, 0.0]))
    log.live(1, 2)

    def blind(state: RolloutState, at: datetime) -> tuple[Report, Exposure]:
        seen = Measurement(name="brier", value=None, n=0, problem="gone")
        broken = Finding(verdict=Verdict.ERROR, why="gone", measurement=seen)
        return Report(title="r", subject="r", findings=(broken,)), Exposure(step_units=0, total_units=0)

    found = rejudge(log.events, DECLARED, blind, lambda at: "")
    assert (found.status, found.moments[-1].verdict) == ("running", "ERROR")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("alpha", "sets nothing"),
        ("alhpa=0.1", "a rollout has no 'alhpa'; known there: strategy"),
        ("guardrails.log_loss.margin=0.1", "known there: brier"),
        ("guardrails.brier.bound=0.1", "known there: metric"),
        ("alpha=soon", "alpha"),
        ("alpha=2", r"alpha must lie in \(0, 1\), not 2"),
        ("steps=[50, 10]", "steps must be percentages that grow"),
    ],
)
def test_a_rule_that_may_not_be_is_refused_with_the_names_there_are(setting: str, told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        changed(DECLARED, [setting])
