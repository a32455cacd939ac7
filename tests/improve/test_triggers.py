"""When a challenger is trained and when not: every refusal with its reason, logged once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from undrift.errors import DeclarationError
from undrift.event import Draft, seal
from undrift.improve.triggers import RETRAIN_REDUCERS, Retrain, RetrainDecision, consider, finished

NOW = datetime(2013, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DECLARED = Retrain(cooldown="14d", window="40d", at_most=2, per="90d")


def incident(kind: str = "performance", *, at: datetime = NOW, **more: Any) -> dict[str, Any]:
    made = {
        "fingerprint": f"flights/{kind}",
        "model": "flights",
        "monitor": kind,
        "kind": kind,
        "source": "",
        "status": "open",
        "actions": ["retrain"] if kind == "performance" else ["freeze"],
        "opened_at": at.isoformat(),
        "onset": at.isoformat(),
        "windows": [],
        "title": f"{kind} trouble",
        "damage": "",
    }
    return {**made, **more}


def asked(
    *incidents: dict[str, Any], state: Any = None, now: datetime = NOW, under_way: bool = False
) -> RetrainDecision:
    found = {i["fingerprint"]: i for i in incidents}
    return consider(DECLARED, "flights", state, found, under_way=under_way, now=now)


def reduced(*drafts: Draft) -> dict[str, Any]:
    state: dict[str, Any] | None = None
    for number, draft in enumerate(drafts, 1):
        event = seal(draft, number, "", draft.at)
        assert list(RETRAIN_REDUCERS[0].keys(event)) == ["flights"]
        state = RETRAIN_REDUCERS[0].apply(state, event, "flights")
    assert state is not None
    return state


def test_nothing_is_trained_when_nothing_asks() -> None:
    assert asked() == RetrainDecision(wanted=False, why="nothing asks for it")
    assert not asked(incident("drift", actions=[])).wanted


def test_decay_asks_and_says_for_which_window() -> None:
    decision = asked(incident())
    assert (decision.wanted, decision.why) == (True, "performance trouble")
    payload = decision.drafts[0].payload
    assert payload["window"] == [(NOW - 40 * DAY).isoformat(), NOW.isoformat()]
    assert payload["incident"] == "flights/performance"


@pytest.mark.parametrize("kind", ["feed", "silent"])
def test_an_open_fault_refuses_and_the_reason_is_logged(kind: str) -> None:
    decision = asked(incident(), incident(kind))
    assert not decision.wanted
    draft = decision.drafts[0]
    assert draft.kind == "retrain.refused"
    assert f"its data are not to be learnt from ({kind} trouble)" in draft.why
    again = asked(incident(), incident(kind), now=NOW + DAY).drafts[0]
    assert again.key == draft.key  # the journal keeps the first


def test_damage_done_by_a_fault_is_considered_and_refused_though_no_monitor_asked() -> None:
    decision = asked(incident("silent", damage="brier was 0.4, 100% above the expected"))
    assert [d.kind for d in decision.drafts] == ["retrain.refused"]
    assert "brier was 0.4" in decision.drafts[0].why


def test_a_window_that_faults_spoiled_is_not_learnt_from() -> None:
    past = [[(NOW - 30 * DAY).isoformat(), (NOW - 15 * DAY).isoformat(), ["temp"]]]
    decision = asked(incident(), incident("feed", status="resolved", windows=past))
    assert "faults spoiled 38% of the last 40d" in decision.drafts[0].why
    short = [[(NOW - 30 * DAY).isoformat(), (NOW - 25 * DAY).isoformat(), ["temp"]]]
    assert asked(incident(), incident("feed", status="resolved", windows=short)).wanted


def test_cool_down_budget_and_what_runs_already_refuse() -> None:
    first = asked(incident()).drafts[0]
    state = reduced(first)
    assert state["pending"]
    assert asked(incident(), state=state, now=NOW + DAY).why == "one is under way"
    done = finished("flights", False, NOW + DAY, "no better than the champion")
    state = reduced(first, done)
    assert (state["pending"], state["rejected"]) == (False, 1)
    cool = asked(incident(), state=state, now=NOW + 13 * DAY)
    assert "cool-down 14d" in cool.drafts[0].why
    second = asked(incident(), state=state, now=NOW + 14 * DAY)
    assert second.wanted
    state = reduced(first, done, second.drafts[0], finished("flights", True, NOW + 15 * DAY, "better", version=3))
    assert (state["accepted"], state["trained_at"]) == (1, (NOW + 15 * DAY).isoformat())
    assert "2 requests in 90d" in asked(incident(), state=state, now=NOW + 40 * DAY).drafts[0].why
    assert asked(incident(), state=state, now=NOW + 100 * DAY).wanted
    assert "a rollout is under way" in asked(incident(), under_way=True).drafts[0].why


def test_age_asks_where_it_is_declared() -> None:
    declared = Retrain(maximum_age="90d")
    state = {"pending": False, "requests": [], "trained_at": NOW.isoformat()}
    young = consider(declared, "flights", state, {}, under_way=False, now=NOW + 89 * DAY)
    old = consider(declared, "flights", state, {}, under_way=False, now=NOW + 90 * DAY)
    assert (young.wanted, old.wanted, old.why) == (False, True, "the last training is 90 days old")


def test_a_job_that_failed_lets_the_next_one_be_asked_for() -> None:
    failed = Draft(
        kind="job.failed", subject="job:1", at=NOW, actor="work", why="", payload={"job": "retrain", "model": "flights"}
    )
    assert not reduced(asked(incident()).drafts[0], failed)["pending"]


def test_only_the_named_monitors_may_ask() -> None:
    declared = Retrain(monitors=("other",))
    found = {"flights/performance": incident()}
    assert not consider(declared, "flights", None, found, under_way=False, now=NOW).wanted


@pytest.mark.parametrize(("wrong", "said"), [({"cooldown": "soon"}, "cooldown"), ({"at_most": 0}, "at least 1")])
def test_a_declaration_that_cannot_be_followed_says_so(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        Retrain(**wrong)
