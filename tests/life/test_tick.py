"""A tick: everything decided of a model in one transaction, once, whatever dies in between and whoever changes it."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from undrift import lifecycle, releases, tick
from undrift.backtest import backtest
from undrift.errors import ConflictError
from undrift.monitor.watch import watch
from undrift.monitor.windows import kept_profiles
from undrift.project import Project, open_project
from undrift.state.journal import Journal
from undrift.tick import run_tick

from living import ME, Alive, Life, begin, redeclared, send_day  # isort: skip
from town import DAY, LIVE, TRAINED_DAYS, Town, write_declarations  # isort: skip


def seqs(project: Project) -> int:
    return project.journal.events()[-1].seq


def judged(project: Project) -> list[Any]:
    return [event.at for event in project.journal.events(kinds=("tick.judged",))]


@pytest.fixture
def canary(two: Project, alive: Alive) -> Life:
    """A life with a rollout that the shadow stage has just let into its first step."""
    life = alive(two)
    releases.roll_out(two, actor=ME)
    life.service.follow()
    assert life.play() == ["rollout.advanced"]
    return life


def test_a_model_without_a_champion_is_not_judged(fresh: Project) -> None:
    lifecycle.apply(fresh, actor=ME)
    assert run_tick(fresh, LIVE, DAY) == []
    assert judged(fresh) == []


def test_a_tick_is_one_event_with_what_was_seen(project: Project, alive: Alive) -> None:
    life = alive(project)
    life.play(2)
    first, second, third = project.journal.events(kinds=("tick.judged",))
    assert (first.at, second.at, third.at) == (LIVE, LIVE + DAY, LIVE + 2 * DAY)
    assert (second.payload["rows"], third.payload["rows"]) == (160, 320)
    assert set(third.payload["monitors"]) == {"answers", "quality"}
    assert third.payload["verdict"] == "INCONCLUSIVE", "two days of labels are too few to judge the quality"


def test_a_tick_that_runs_again_does_nothing(canary: Life) -> None:
    before = seqs(canary.project)
    with open_project(canary.project.root) as again:
        assert run_tick(again, canary.now, DAY) == []
    assert seqs(canary.project) == before


def test_a_tick_that_was_killed_before_it_was_recorded_decides_the_same(
    canary: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the very end of its work, run again by another: the same decisions, each once."""
    project, kept = canary.project, []

    def killed(self: Journal, drafts: Any, **how: Any) -> Any:
        kept.extend(drafts)
        raise KeyboardInterrupt

    send_day(canary.service.post, canary.town.day(canary.now))
    canary.worker.cycle()  # into the lake, without a watermark
    before, boundary = seqs(project), canary.now + DAY
    with monkeypatch.context() as patch, open_project(project.root) as dying:
        patch.setattr(Journal, "record", killed)
        dying.follow()
        with pytest.raises(KeyboardInterrupt):
            run_tick(dying, boundary, DAY)
    assert seqs(project) == before, "nothing of it was kept"
    with open_project(project.root) as heir:
        heir.follow()
        lines = run_tick(heir, boundary, DAY)
    events = project.journal.events(after=before)
    assert [(e.kind, e.key, e.why) for e in events] == [(d.kind, d.key, d.why) for d in kept]
    assert [e.kind for e in events] == ["tick.judged", "rollout.advanced"]
    assert len(lines) == 1


def test_two_workers_that_do_the_same_tick_at_once_decide_once(canary: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one has judged, too, when the first one's decision is there: its own is not taken."""
    project = canary.project
    canary.play()
    before, boundary = seqs(project), canary.now + DAY
    real = Journal.record

    def late(self: Journal, drafts: Any, **how: Any) -> Any:
        monkeypatch.setattr(Journal, "record", real)
        with open_project(project.root) as other:
            other.follow()
            run_tick(other, boundary, DAY)
        return real(self, drafts, **how)

    monkeypatch.setattr(Journal, "record", late)
    with open_project(project.root) as second:
        second.follow()
        run_tick(second, boundary, DAY)
    keys = Counter(event.key for event in project.journal.events(after=before))
    assert max(keys.values()) == 1
    assert len(judged(project)) == len(set(judged(project)))
    assert project.journal.verify() > before


def test_what_a_person_does_while_a_tick_judges_counts_and_the_tick_judges_again(
    canary: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = canary.project
    real = tick._judge_rollout

    def aborted_meanwhile(*given: Any) -> Any:
        monkeypatch.setattr(tick, "_judge_rollout", real)
        with open_project(project.root) as other:
            releases.say(other, "abort", actor=ME, why="stop")
        return real(*given)

    monkeypatch.setattr(tick, "_judge_rollout", aborted_meanwhile)
    before = seqs(project)
    assert canary.play() == []
    kinds = [event.kind for event in project.journal.events(after=before)]
    assert kinds == ["rollout.aborted", "tick.judged"], "the judgement of what was no longer so is not recorded"
    assert project.route("rides")["candidate"] == ""  # type: ignore[index]


def test_a_tick_that_is_overtaken_again_and_again_says_so(canary: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def overtaken(*_: object) -> Any:
        tries.append(1)
        raise ConflictError("somebody was faster")

    monkeypatch.setattr(tick, "_judge_model", overtaken)
    with pytest.raises(ConflictError):
        run_tick(canary.project, canary.now + DAY, DAY)
    assert len(tries) == tick.ATTEMPTS


def test_the_candidate_is_not_exposed_further_while_an_incident_freezes_it(two: Project, alive: Alive) -> None:
    """Requests lose a field that neither model uses: the guardrails hold, but nobody should trust this day."""
    life = alive(two)
    life.play(3)
    releases.roll_out(two, actor=ME)
    life.service.follow()
    assert life.play() == ["rollout.advanced"]
    day = life.town.day(life.now)
    poor = [{**ride, "quote": None} if place % 2 else ride for place, ride in enumerate(day.rides)]
    assert life.play_day(day._replace(rides=poor)) == ["alert.opened"]
    (*_, held) = two.journal.events(kinds=("rollout.judged",))
    assert held.why.startswith("hold at 40 %: frozen: ")
    assert "quote went missing" in held.why
    assert life.play(2)[-1] == "rollout.succeeded" or two.route("rides")["weight"] == 70.0  # type: ignore[index]


def test_what_the_monitors_say_does_not_depend_on_the_clock_of_the_machine(project: Project, alive: Alive) -> None:
    life = alive(project, Town(TRAINED_DAYS + 3))
    life.play()
    at = [event.at for event in project.journal.events() if event.actor == "work"]
    assert all(LIVE <= moment <= LIVE + DAY for moment in at)
    assert all(event.recorded_at - event.at > timedelta(days=30) for event in project.journal.events()[-1:])


SEASONAL = (
    "ud.Monitor(name='hours', kind='drift', season='day', comparable=5, columns=('distance',), persistence=(1, 1)),"
    " ud.Monitor(name='traffic', kind='silent', season='day', comparable=5),"
)


def test_a_season_is_judged_from_kept_profiles_and_judged_again_by_a_backtest(project: Project, alive: Alive) -> None:
    with redeclared(project, monitors=SEASONAL) as changed:
        lifecycle.apply(changed, actor=ME)
        life = alive(changed, Town(TRAINED_DAYS + 25))
        life.play(16)
        ticks = {event.at: event.payload["monitors"] for event in changed.journal.events(kinds=("tick.judged",))}
        assert ticks[LIVE + 16 * DAY] == {"hours": "PASS", "traffic": "PASS"}
        assert ticks[LIVE + 5 * DAY] == {"hours": "INCONCLUSIVE", "traffic": "INCONCLUSIVE"}
        day = life.town.day(life.now)
        near = [{**ride, "distance": ride["distance"] / 4} for ride in day.rides]
        assert life.play_day(day._replace(rides=near)) == ["alert.opened"]
        day = life.town.day(life.now)
        assert "alert.opened" in life.play_day(day._replace(rides=day.rides[::16]))
        titles = {incident["title"] for incident in changed.journal.items("incident").values()}
        assert titles == {"distance is unlike the same hours of a day before", "requests are missing"}
        again = backtest(changed, start=LIVE, end=life.now)
        assert {alarm.title for alarm in again.alarms} == titles


def test_what_answers_rest_on_is_looked_at_in_captured_requests(project: Project, alive: Alive) -> None:
    """The champion knows the distance alone, so nothing else can have influence."""
    leaning = "ud.Monitor(name='leans', kind='attribution', window='5d', sample=60, persistence=(1, 1)),"
    with redeclared(project, monitors=leaning) as changed:
        lifecycle.apply(changed, actor=ME)
        life = alive(changed)
        life.play(6)
        ticks = {event.at: event.payload["monitors"] for event in changed.journal.events(kinds=("tick.judged",))}
        assert ticks[LIVE + DAY] == {"leans": "INCONCLUSIVE"}
        assert ticks[LIVE + 6 * DAY] == {"leans": "PASS"}
        route = changed.route("rides")
        assert route is not None
        scene = tick.scene_of(changed, changed.model(), route, life.now, DAY)
        seen = scene.influences["leans"]
        assert seen.names == tuple(given.name for given in scene.interface.inputs)
        assert len(seen.sizes) == seen.wanted == 60
        share = seen.sizes.sum(axis=0) / seen.sizes.sum()
        assert share[seen.names.index("distance")] > 0.99


def test_free_text_is_watched_by_its_words(fresh: Project, alive: Alive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zone as free text: it is renamed, and its words are new."""
    write_declarations(fresh.root, monitors="ud.Monitor(name='texts', kind='drift', persistence=(1, 1), window='5d'),")
    file = fresh.root / "declarations.py"
    said = file.read_text()
    file.write_text(said.replace('role="context", categories=("a", "b", "c")', "text=True"))
    assert file.read_text() != said
    begin(fresh.root)
    with open_project(fresh.root) as project:
        life = alive(project, Town(TRAINED_DAYS + 12))
        assert life.play(6) == []
        route = project.route("rides")
        assert route is not None
        for _ in range(5):
            day = life.town.day(life.now)
            life.play_day(day._replace(rides=[{**ride, "zone": f"new {ride['zone']}"} for ride in day.rides]))
        scene = tick.scene_of(project, project.model(), route, life.now, DAY)
        assert set(scene.vocabularies) == {"zone"}
        assert scene.untold == {}
        monkeypatch.setattr("undrift.monitor.texts.not_installed", lambda: "no library")
        blind = tick.scene_of(project, project.model(), route, life.now, DAY)
        assert blind.untold == {"zone.language": "no library"}
        ticks = [event.payload["monitors"] for event in project.journal.events(kinds=("tick.judged",))]
        assert ticks[6] == {"texts": "PASS"}
        assert ticks[-1] == {"texts": "FAIL"}, watch(project.model().monitors, scene, {}, life.now).to_text()
        (incident,) = project.journal.items("incident").values()
        assert {"zone.unknown", "zone.words"} <= set(incident["columns"])
        assert "zone" not in incident["columns"]


def test_a_model_that_was_declared_but_not_applied_is_not_judged_anew(project: Project, alive: Alive) -> None:
    """The worker goes by what was applied: monitors that are only in the file say nothing yet."""
    life = alive(project)
    with redeclared(project, monitors=""):
        life.play()
    (*_, last) = project.journal.events(kinds=("tick.judged",))
    assert set(last.payload["monitors"]) == {"answers", "quality"}


def test_features_served_are_those_computed_offline_and_profiles_are_kept_for_drift(
    project: Project, alive: Alive
) -> None:
    watched = (
        "ud.Monitor(name='skew', kind='skew'), ud.Monitor(name='inputs', kind='drift', history='60d'),"
        " ud.Monitor(name='rows', kind='integrity'), ud.Monitor(name='level', kind='service', limit_ms=1000),"
        " ud.Monitor(name='early', kind='estimate'), ud.Monitor(name='parts', kind='slices'),"
        " ud.Monitor(name='together', kind='multivariate'),"
    )
    write_declarations(project.root, monitors=watched)
    with open_project(project.root) as changed:
        lifecycle.apply(changed, actor=ME)
        life = alive(changed)
        life.play(2)
        last = changed.journal.events(kinds=("tick.judged",))[-1].payload["monitors"]
        assert last["skew"] == "PASS"
        assert last["level"] == "PASS"
        assert set(last) == {"skew", "inputs", "rows", "level", "early", "parts", "together"}
        assert {last[name] for name in ("inputs", "early", "parts", "together")} == {"INCONCLUSIVE"}, "two days are few"
        kept = kept_profiles(changed.lake, "rides", LIVE, LIVE + 2 * DAY)
        assert [(k.start, k.profile.n) for k in kept] == [(LIVE, 160), (LIVE + DAY, 160)]
