"""The decision of a rollout, step by step, with reports made by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from undrift.deploy.people import abort, approve, pause, resume, skip
from undrift.deploy.rollout import Decision, Exposure, Freeze, Guardrail, Rollout, RolloutState, Stage, reconcile, start
from undrift.errors import ConflictError, DeclarationError
from undrift.finding import Finding, Measurement, Report, Verdict

NOW = datetime(2013, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def report(*verdicts: Verdict, segment: dict[str, str] | None = None) -> Report:
    findings = tuple(
        Finding(
            verdict=v,
            why=f"brier is {v.name}",
            measurement=Measurement(name="brier", value=0.1, n=100, segment=segment or {}),
        )
        for v in verdicts
    )
    return Report(title="Rollout", subject="r1", findings=findings)


def units(step: int = 500, total: int = 500) -> Exposure:
    return Exposure(step_units=step, total_units=total)


def begin(declared: Rollout | None = None) -> RolloutState:
    return start(declared or Rollout(), "r1", "flights", ("r-new", 2), ("r-old", 1), NOW).state


def decide(state: RolloutState, *verdicts: Verdict, at: datetime = NOW + DAY, seen: Exposure | None = None) -> Decision:
    return reconcile(state.declared, state, report(*verdicts), seen or units(), at)


def test_a_rollout_begins_with_its_first_step_and_says_when_to_look_again() -> None:
    decision = start(Rollout(), "r1", "flights", ("r-new", 2), ("r-old", 1), NOW)
    assert (decision.state.weight, decision.state.step, decision.state.status) == (5.0, 0, "running")
    assert decision.wake_at == NOW + DAY
    assert [d.kind for d in decision.drafts] == ["rollout.started"]


def test_with_a_shadow_stage_nobody_is_exposed_at_first() -> None:
    state = begin(Rollout(shadow=Stage(hold="2d", minimum_units=100)))
    assert (state.stage, state.weight, state.step) == ("shadow", 0.0, -1)
    held = decide(state, Verdict.PASS)
    assert held.state.weight == 0.0
    assert "held 1d 0h of 2d" in held.drafts[0].why
    moved = decide(held.state, Verdict.PASS, at=NOW + 2 * DAY)
    assert (moved.state.stage, moved.state.weight) == ("canary", 5.0)


def test_the_strategy_shadow_promotes_after_its_stage() -> None:
    state = begin(Rollout(strategy="shadow", shadow=Stage(hold="1d", minimum_units=10)))
    assert decide(state, Verdict.PASS).state.status == "succeeded"


def test_a_good_candidate_takes_one_step_a_day_and_wins_by_reaching_all() -> None:
    state, weights = begin(), []
    for day in range(1, 6):
        state = decide(state, Verdict.PASS, at=NOW + day * DAY).state
        weights.append(state.weight)
        if state.over:
            break
    assert weights == [10.0, 25.0, 50.0, 100.0]
    assert state.status == "succeeded"
    assert [s.weight for s in state.spans] == [5.0, 10.0, 25.0, 50.0, 100.0]


def test_a_step_needs_its_time_and_its_units() -> None:
    state = begin(Rollout(minimum_units=100))
    early = decide(state, Verdict.PASS, at=NOW + timedelta(hours=23))
    assert (early.state.weight, early.wake_at) == (5.0, NOW + DAY)
    few = decide(state, Verdict.PASS, seen=units(99, 99))
    assert few.state.weight == 5.0
    assert "99 of 100 labelled units" in few.drafts[0].why


@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.ERROR])
def test_less_than_pass_holds(verdict: Verdict) -> None:
    decision = decide(begin(), Verdict.PASS, verdict)
    assert (decision.state.weight, decision.state.status) == (5.0, "running")
    assert decision.drafts[0].kind == "rollout.judged"


def test_no_finding_at_all_is_no_pass() -> None:
    assert decide(begin()).state.weight == 5.0


def test_the_worst_verdict_wins_and_names_segment_and_exposure() -> None:
    seen = report(Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, segment={"carrier": "UA"})
    decision = reconcile(Rollout(), begin(), seen, units(40, 47), NOW + DAY)
    assert (decision.state.status, decision.state.weight) == ("rolled_back", 0.0)
    draft = decision.drafts[0]
    assert draft.kind == "rollout.rolled_back"
    assert "carrier=UA" in draft.why
    assert "47 units were exposed" in draft.why
    assert draft.payload["evidence"]["exposed_units"] == 47


def test_a_failure_rolls_back_within_the_hold_and_while_paused() -> None:
    assert decide(begin(), Verdict.FAIL, at=NOW + timedelta(minutes=1)).state.status == "rolled_back"
    waiting = pause(begin(), NOW, actor="person:ann", why="lunch").state
    assert decide(waiting, Verdict.FAIL).state.status == "rolled_back"
    assert decide(waiting, Verdict.PASS).state.weight == 5.0


def test_what_cannot_be_measured_three_times_in_a_row_pauses() -> None:
    state = begin()
    for hour in (1, 2):
        state = decide(state, Verdict.ERROR, at=NOW + timedelta(hours=hour)).state
    state = decide(state, Verdict.PASS, at=NOW + timedelta(hours=3)).state
    assert state.unmeasured == {}
    for hour in (4, 5, 6):
        state = decide(state, Verdict.ERROR, at=NOW + timedelta(hours=hour)).state
    assert (state.status, state.unmeasured) == ("paused", {"brier": 3})


def test_a_rollout_that_is_over_is_never_decided_again() -> None:
    ended = decide(begin(), Verdict.FAIL).state
    assert ended.over
    again = decide(ended, Verdict.PASS, at=NOW + 9 * DAY)
    assert (again.state, again.drafts, again.wake_at) == (ended, (), None)


def test_each_metric_is_counted_by_itself_when_it_cannot_be_measured() -> None:
    """Two metrics that fail by turns were each measured in between; one that fails at every tick pauses."""

    def blind(*names: str) -> Report:
        findings = tuple(
            Finding(
                verdict=Verdict.ERROR if name in names else Verdict.PASS,
                why=f"{name} is gone",
                measurement=Measurement(name=name, value=None if name in names else 0.1, n=100),
            )
            for name in ("brier", "failed", "latency")
        )
        return Report(title="Rollout", subject="r1", findings=findings)

    state = begin()
    for hour, names in enumerate([("brier",), ("failed",), ("brier",), ("failed", "latency"), ("latency",)], start=1):
        state = reconcile(state.declared, state, blind(*names), units(), NOW + timedelta(hours=hour)).state
        assert state.status == "running"
    assert state.unmeasured == {"latency": 2}
    decision = reconcile(state.declared, state, blind("brier", "latency"), units(), NOW + timedelta(hours=6))
    assert (decision.state.status, decision.state.unmeasured) == ("paused", {"brier": 1, "latency": 3})
    assert decision.state.reason == "could not be measured 3 times in a row: latency is gone"
    resumed = resume(decision.state, NOW + timedelta(hours=7), actor="person:ben", why="fixed").state
    assert (resumed.status, resumed.unmeasured) == ("running", {})


@pytest.mark.parametrize(
    ("end", "verdict", "status"),
    [
        ("pause", Verdict.INCONCLUSIVE, "paused"),
        ("roll_back", Verdict.INCONCLUSIVE, "rolled_back"),
        ("promote", Verdict.INCONCLUSIVE, "succeeded"),
        ("promote", Verdict.ERROR, "paused"),
    ],
)
def test_past_the_maximum_the_declared_end_comes(end: str, verdict: Verdict, status: str) -> None:
    declared = msgspec.convert({"maximum": "10d", "on_timeout": end}, Rollout)
    assert decide(begin(declared), verdict, at=NOW + 10 * DAY).state.status == status


def test_a_frozen_rollout_stays_but_may_still_be_rolled_back() -> None:
    state = begin()
    held = reconcile(state.declared, state, report(Verdict.PASS), units(), NOW + DAY, frozen="incident of the feed")
    assert held.state.weight == 5.0
    assert "incident of the feed" in held.drafts[0].why
    gone = reconcile(state.declared, state, report(Verdict.FAIL), units(), NOW + DAY, frozen="incident of the feed")
    assert gone.state.status == "rolled_back"


def test_nobody_is_exposed_before_a_declared_approval() -> None:
    state = begin(Rollout(approval=True))
    assert (state.status, state.weight) == ("paused", 0.0)
    with pytest.raises(ConflictError, match="waits for approval"):
        resume(state, NOW, actor="person:ann", why="go")
    after = approve(state, NOW + DAY, actor="person:bob", why="seen the gate's report").state
    assert (after.status, after.weight, after.approved_by) == ("running", 5.0, "person:bob")
    with pytest.raises(ConflictError, match="approved already"):
        approve(after, NOW + DAY, actor="person:bob", why="again")


def test_after_its_shadow_a_rollout_waits_for_the_declared_approval() -> None:
    state = begin(Rollout(approval=True, shadow=Stage(hold="1d", minimum_units=10)))
    waiting = decide(state, Verdict.PASS).state
    assert (waiting.status, waiting.weight) == ("paused", 0.0)
    approved = approve(waiting, NOW + DAY, actor="person:bob", why="fine").state
    assert (approved.status, approved.weight, approved.stage) == ("running", 0.0, "shadow")
    assert decide(approved, Verdict.PASS, at=NOW + 2 * DAY).state.weight == 5.0


def test_people_may_pause_resume_and_abort_but_not_what_is_over() -> None:
    waiting = pause(begin(), NOW, actor="person:ann", why="holiday").state
    again = resume(waiting, NOW + 3 * DAY, actor="person:ann", why="back").state
    assert (again.status, again.step_started_at) == ("running", NOW + 3 * DAY)
    ended = abort(again, NOW + 4 * DAY, actor="person:ann", why="no longer wanted").state
    assert (ended.status, ended.weight) == ("aborted", 0.0)
    with pytest.raises(ConflictError, match="is aborted and cannot be resumed"):
        resume(ended, NOW, actor="person:ann", why="oh")


def test_the_same_decision_has_the_same_key_and_the_same_bytes() -> None:
    one, two = (decide(begin(), Verdict.PASS).drafts[0] for _ in range(2))
    assert one.key == two.key
    assert msgspec.json.encode(one) == msgspec.json.encode(two)


def test_a_state_comes_back_from_its_event() -> None:
    state = decide(begin(), Verdict.PASS).state
    assert msgspec.convert(msgspec.to_builtins(state), RolloutState) == state


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": (10.0, 5.0)}, "grow"),
        ({"steps": ()}, "grow"),
        ({"steps": (0.0, 50.0)}, "grow"),
        ({"steps": (50.0, 120.0)}, "grow"),
        ({"alpha": 1.5}, "alpha"),
        ({"strategy": "shadow"}, "needs its stage"),
        ({"guardrails": ()}, "without a guardrail"),
        ({"guardrails": (Guardrail(metric="brier", margin=-1),)}, "negative"),
        ({"guardrails": (Guardrail(metric="brier", margin=1), Guardrail(metric="brier", margin=2))}, "one guardrail"),
        ({"hold": "soon"}, "hold"),
    ],
)
def test_a_declaration_that_contradicts_itself_says_so(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        Rollout(**wrong)  # type: ignore[arg-type]


def test_a_revision_cannot_challenge_itself() -> None:
    with pytest.raises(DeclarationError, match="champion of flights already"):
        start(Rollout(), "r1", "flights", ("r-old", 1), ("r-old", 1), NOW)


# -- strategies --------------------------------------------------------------------------------------------------------


def test_an_ab_test_keeps_its_split_until_the_decision_and_then_wins() -> None:
    state = begin(Rollout(strategy="ab", split=30.0, hold="2d", minimum_units=100))
    assert (state.weight, state.deciding) == (30.0, True)
    held = decide(state, Verdict.INCONCLUSIVE, at=NOW + 3 * DAY).state
    assert (held.weight, held.status) == (30.0, "running")
    assert decide(held, Verdict.PASS, at=NOW + 4 * DAY).state.status == "succeeded"
    assert decide(held, Verdict.FAIL, at=NOW + 4 * DAY).state.status == "rolled_back"


def test_blue_green_puts_all_but_the_control_on_the_candidate_at_once() -> None:
    state = begin(Rollout(strategy="blue_green", control=2.0))
    assert state.weight == 98.0
    assert decide(state, Verdict.PASS).state.status == "succeeded"
    shadowed = begin(Rollout(strategy="blue_green", shadow=Stage(hold="1d", minimum_units=10)))
    assert (shadowed.stage, shadowed.weight) == ("shadow", 0.0)
    assert decide(shadowed, Verdict.PASS).state.weight == 95.0


@pytest.mark.parametrize(("name", "value"), [("split", 0.0), ("split", 100.0), ("control", 0.0), ("control", 60.0)])
def test_a_strategy_without_units_on_both_sides_is_refused(name: str, value: float) -> None:
    with pytest.raises(DeclarationError, match="split must lie in"):
        Rollout(strategy="ab", **{name: value})  # type: ignore[arg-type]


# -- freezes -----------------------------------------------------------------------------------------------------------

HOLIDAYS = Freeze(start="2013-06-02T00:00+00:00", end="2013-06-05T00:00+00:00", why="holidays")


def test_a_freeze_holds_its_start_and_not_its_end() -> None:
    assert HOLIDAYS.until(NOW + DAY) == NOW + 4 * DAY
    assert HOLIDAYS.until(NOW + 4 * DAY) is None
    assert HOLIDAYS.until(NOW) is None


def test_a_weekly_freeze_may_go_over_the_end_of_the_week() -> None:
    weekend = Freeze(start="sat 00:00", end="mon 06:30", why="nobody is here")
    saturday, monday = datetime(2013, 6, 1, tzinfo=UTC), datetime(2013, 6, 3, 6, 30, tzinfo=UTC)
    assert weekend.until(saturday) == monday
    assert weekend.until(monday - timedelta(minutes=1)) == monday
    assert weekend.until(monday) is None
    assert weekend.until(saturday - timedelta(seconds=1)) is None


@pytest.mark.parametrize(
    ("start", "end"),
    [("fri 16:00", "fri 16:00"), ("2013-06-01", "2013-06-02"), ("fri 25:00", "mon 08:00"), ("fri 16:00", "soon"),
     ("2013-06-02T00:00Z", "2013-06-01T00:00Z")],
)  # fmt: skip
def test_a_freeze_that_is_no_period_is_refused(start: str, end: str) -> None:
    with pytest.raises(DeclarationError, match="is no period"):
        Freeze(start=start, end=end, why="x")


def test_nothing_begins_or_advances_in_a_freeze_but_a_rollback_works() -> None:
    waiting = start(Rollout(), "r1", "flights", ("r-new", 2), ("r-old", 1), NOW, frozen="holidays").state
    assert (waiting.weight, waiting.step, waiting.reason) == (0.0, -1, "frozen: holidays")
    still = reconcile(waiting.declared, waiting, report(), units(0, 0), NOW + DAY, frozen="holidays").state
    assert still.weight == 0.0
    begun = reconcile(still.declared, still, report(), units(0, 0), NOW + 2 * DAY)
    assert (begun.state.weight, begun.state.step_started_at) == (5.0, NOW + 2 * DAY)
    assert [made.kind for made in begun.drafts] == ["rollout.advanced"]
    held = reconcile(Rollout(), begun.state, report(Verdict.PASS), units(), NOW + 4 * DAY, frozen="holidays").state
    assert (held.weight, held.reason) == (5.0, "frozen: holidays")
    back = reconcile(Rollout(), begun.state, report(Verdict.FAIL), units(), NOW + 4 * DAY, frozen="holidays").state
    assert back.status == "rolled_back"
    with pytest.raises(ConflictError, match="nothing advances now: holidays"):
        skip(begun.state, NOW, actor="person:ann", why="because", frozen="holidays")


def test_a_rollout_that_times_out_in_a_freeze_is_not_promoted_before_its_end() -> None:
    declared = Rollout(maximum="2d", on_timeout="promote")
    state = begin(declared)
    held = reconcile(declared, state, report(Verdict.INCONCLUSIVE), units(), NOW + 3 * DAY, frozen="holidays").state
    assert (held.status, held.weight) == ("running", 5.0)
    won = reconcile(declared, held, report(Verdict.INCONCLUSIVE), units(), NOW + 4 * DAY).state
    assert won.status == "succeeded"


# -- people ------------------------------------------------------------------------------------------------------------


def test_who_asked_for_a_rollout_may_not_be_its_second_person() -> None:
    declared = Rollout(approval="second_person")
    state = start(declared, "r1", "m", ("r-new", 2), ("r-old", 1), NOW, actor="person:ann").state
    assert (state.status, state.weight, state.asked_by) == ("paused", 0.0, "person:ann")
    with pytest.raises(ConflictError, match="was asked for by person:ann, who may not approve it too"):
        approve(state, NOW, actor="person:ann", why="mine")
    approved = approve(state, NOW + DAY, actor="person:ben", why="looked at it").state
    assert (approved.status, approved.weight, approved.approved_by) == ("running", 5.0, "person:ben")
    alone = start(Rollout(approval=True), "r1", "m", ("r-new", 2), ("r-old", 1), NOW, actor="person:ann").state
    assert approve(alone, NOW, actor="person:ann", why="mine").state.weight == 5.0


def test_an_approval_in_a_freeze_is_kept_until_it_is_over() -> None:
    state = begin(Rollout(approval=True))
    approved = approve(state, NOW, actor="person:ben", why="fine", frozen="holidays").state
    assert (approved.status, approved.weight) == ("running", 0.0)
    assert reconcile(approved.declared, approved, report(), units(0, 0), NOW + DAY).state.weight == 5.0


def test_a_step_is_skipped_with_a_reason_and_the_last_one_never() -> None:
    state = begin(Rollout(steps=(5, 50, 100), shadow=Stage(hold="9d", minimum_units=10)))
    with pytest.raises(ConflictError, match="needs a reason"):
        skip(state, NOW, actor="person:ann", why="")
    first = skip(state, NOW, actor="person:ann", why="seen enough")
    assert (first.state.stage, first.state.weight) == ("canary", 5.0)
    assert [(made.kind, made.why, made.actor) for made in first.drafts] == [
        ("rollout.skipped", "seen enough", "person:ann")
    ]
    second = skip(first.state, NOW + DAY, actor="person:ann", why="still fine").state
    assert (second.weight, second.step_started_at, second.deciding) == (50.0, NOW + DAY, True)
    with pytest.raises(ConflictError, match="last step, which only evidence takes"):
        skip(second, NOW + DAY, actor="person:ann", why="hurry")
    paused = pause(first.state, NOW, actor="person:ann", why="wait").state
    with pytest.raises(ConflictError, match="is paused and cannot be moved on"):
        skip(paused, NOW, actor="person:ann", why="hurry")
    unapproved = begin(Rollout(approval=True, shadow=Stage()))
    with pytest.raises(ConflictError, match="skipping is not approving"):
        skip(unapproved, NOW, actor="person:ann", why="hurry")
