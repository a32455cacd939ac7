"""A rehearsal: a copy of the project lives some quiet weeks, then each scenario is played from that same moment.

The control is the same weeks with nothing wrong (and, for candidates, a sound one in the same rollout). What is told:
was it seen, how long after the onset, how many rows were exposed, what undrift did by itself, and false alarms.
"""

from __future__ import annotations

import difflib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from undrift.errors import ConflictError, NotFoundError, SettingsError
from undrift.finding import Finding, Measurement, Report, Verdict
from undrift.plugins import names, resolve
from undrift.project import Project
from undrift.rehearse.candidate import CLEAN, introduce, refused_by_gate
from undrift.rehearse.live import LiveStage, live_settings
from undrift.rehearse.material import Material, gather, gather_days
from undrift.rehearse.scenario import Scenario, Sighting
from undrift.rehearse.scratch import copy_project
from undrift.rehearse.stage import Stage

__all__ = ["Control", "Outcome", "Rehearsal", "rehearse", "scenarios"]

QUIET_DAYS: Final = 16
"""Days before the onset: more than the longest default window of a monitor."""
MOST_DAYS: Final = 21
PER_DAY: Final = 300
BUSIER: Final = 5
"""So many times the rows of a day while a candidate is rolled out: its first step may be a small part of them."""
Say = Callable[[str], None]
TWIN: Final = "had a twin of the champion for a candidate, as the gate lets none through that is trained on these rows"
DEEDS: Final = {
    "alert.opened": "opened an incident",
    "rollout.rolled_back": "rolled back",
    "rollout.succeeded": "let the candidate win",
    "rollout.aborted": "ended the rollout",
    "retrain.requested": "asked for a retrain",
    "retrain.refused": "refused to retrain",
    "retrain.finished": "trained a candidate",
    "revision.promoted": "took the release back",
}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario at one strength.

    ``missing`` says why it could not be played; then nothing else counts. ``days`` from onset to detection (None: not
    seen), ``predictions`` answered in that time, ``exposed`` of them touched by the fault.
    """

    scenario: str
    story: int
    title: str
    truth: str
    strength: str
    missing: str = ""
    detected: bool = False
    days: int | None = None
    predictions: int = 0
    exposed: int = 0
    by: str = ""
    what: str = ""
    did: tuple[str, ...] = ()


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """The same time without a fault: its days, and what was called an alarm in it."""

    name: str
    days: int
    false_alarms: tuple[str, ...] = ()


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """What a rehearsal showed."""

    model: str
    origin: str
    per_day: int
    quiet_days: int
    most_days: int
    seed: int
    outcomes: tuple[Outcome, ...]
    controls: tuple[Control, ...]
    seconds: float

    @property
    def detected(self) -> float:
        """The share of the scenarios played that were detected, in [0, 1]; 0 if none was played."""
        played = [outcome for outcome in self.outcomes if not outcome.missing]
        return sum(outcome.detected for outcome in played) / len(played) if played else 0.0

    @property
    def false_alarms(self) -> int:
        """Alarms in the controls."""
        return sum(len(control.false_alarms) for control in self.controls)

    def report(self) -> Report:
        """As a Report: a finding per scenario and strength, and one per control."""
        found = [_finding(outcome) for outcome in self.outcomes]
        for control in self.controls:
            bad = control.false_alarms
            why = f"{control.name}: {len(bad)} false alarms in {control.days} days" + (
                f": {'; '.join(bad)}" if bad else ""
            )
            seen = Measurement(name="false alarms", value=float(len(bad)), n=control.days)
            found.append(Finding(verdict=Verdict.FAIL if bad else Verdict.PASS, why=why, measurement=seen))
        return Report(title="Rehearsal", subject=f"model:{self.model}", findings=tuple(found))


def _finding(outcome: Outcome) -> Finding:
    seen = Measurement(
        name=outcome.scenario,
        value=None if outcome.days is None else float(outcome.days),
        n=outcome.exposed,
        unit="day",
        segment={"strength": outcome.strength},
        problem=outcome.missing,
    )
    if outcome.missing:
        return Finding(
            verdict=Verdict.INCONCLUSIVE, why=f"{outcome.title}: not played: {outcome.missing}", measurement=seen
        )
    if not outcome.detected:
        why = f"{outcome.title}: not seen; {outcome.exposed} of {outcome.predictions} rows were exposed"
        return Finding(verdict=Verdict.FAIL, why=why, measurement=seen)
    exposed = f"{outcome.exposed} rows exposed"
    why = f"{outcome.title}: seen by {outcome.by} after {outcome.days} days, {exposed}: {outcome.what}"
    return Finding(verdict=Verdict.PASS, why=why, measurement=seen)


def scenarios(wanted: Sequence[str] = ()) -> list[Scenario]:
    """The scenarios of some names (all that are known, if none is named), by their story.

    Raises
    ------
    NotFoundError : a name is unknown; lists those there are.
    """
    known = names("scenario")
    unknown = [name for name in wanted if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise NotFoundError(
            f"no scenario is called {unknown[0]!r}; there are: {', '.join(known)}.",
            hint=f"Did you mean {near[0]!r}?" if near else "`undrift rehearse --list` says what each is.",
        )
    found: list[Scenario] = [resolve("scenario", name)() for name in wanted or known]
    return sorted(found, key=lambda scenario: (scenario.story or 99, scenario.name))


def rehearse(
    project: Project,
    wanted: Sequence[str] = (),
    *,
    model: str = "",
    strengths: Sequence[str] = ("default",),
    quiet_days: int = QUIET_DAYS,
    most_days: int = MOST_DAYS,
    per_day: int = PER_DAY,
    seed: int = 1,
    live: bool = False,
    say: Say = lambda line: None,
) -> Rehearsal:
    """Play scenarios on copies of a project in a scratch folder; nothing of the project itself changes.

    Parameters
    ----------
    wanted : names of scenarios; all if empty.
    strengths : names of strengths, as ``default``.
    quiet_days : before the onset. most_days : after it, at most. per_day : rows of each, five times as many while a
        candidate is rolled out.
    live : the copy is served and judged by processes of its own, and rows are requests.
    say : takes one line per step.

    Raises
    ------
    ConflictError : nothing is in force, or the model has no champion.
    DataError : too few labelled rows to play with.
    SettingsError : a strength that a scenario does not have, or too few days to be played live as they were.
    """
    begun = time.monotonic()
    played = scenarios(wanted)
    for scenario in played:
        for strength in strengths:
            if strength not in scenario.strengths:
                known = ", ".join(scenario.strengths)
                raise SettingsError(f"scenario {scenario.name!r} has no strength {strength!r}; it has: {known}.")
    applied = project.applied()
    if not applied.models:
        raise ConflictError(
            "nothing is in force yet, so there is nothing to rehearse with.", hint="`undrift train`, `undrift promote`."
        )
    declared = applied.model(model)
    route = project.route(declared.name)
    if route is None or not route["champion"]:
        raise ConflictError(
            f"{declared.name} has no champion, so there is nothing to rehearse with.",
            hint="`undrift train`, `undrift promote`.",
        )
    lesson = max((scenario.teaches for scenario in played), default=0)
    if live and declared.views:
        material = gather_days(project, declared, quiet_days + (lesson + CLEAN if lesson else 0) + most_days, seed)
    else:
        material = gather(project, declared, seed)
    say(f"playing with {material.origin}")
    with tempfile.TemporaryDirectory(prefix="undrift-rehearse-") as scratch:
        theatre = _Theatre(project, declared.name, material, Path(scratch), per_day, seed, say, live=live)
        controls = [theatre.prepare(declared, quiet_days)]
        controls.append(theatre.control("nothing wrong", most_days, rollout=False))
        if any(scenario.candidate for scenario in played):
            controls.append(theatre.control("a sound candidate", most_days, rollout=True))
        if lesson and declared.train:
            controls.append(theatre.control("a sound retrain", most_days, rollout=True, lesson=lesson))
        outcomes = [theatre.play(s, strength, most_days) for s in played for strength in strengths]
    return Rehearsal(
        model=declared.name,
        origin=material.origin,
        per_day=per_day,
        quiet_days=quiet_days,
        most_days=most_days,
        seed=seed,
        outcomes=tuple(outcomes),
        controls=tuple(controls),
        seconds=time.monotonic() - begun,
    )


class _Theatre:
    """The scratch folder with the copy as it is after the quiet days, and a fresh copy of that for each run."""

    def __init__(
        self, project: Project, model: str, material: Material, scratch: Path, per_day: int, seed: int, say: Say,
        *, live: bool,
    ) -> None:  # fmt: skip
        self._project, self._model, self._material = project, model, material
        self._scratch, self._per_day, self._seed, self._say = scratch, per_day, seed, say
        self._day, self._runs = 0, 0
        self._refused_sound = False
        self._live = live
        self._base = scratch / "base"

    def prepare(self, declared: Any, days: int) -> Control:
        """The quiet days, which are a control themselves."""
        settings = live_settings() if self._live else ()
        as_was = self._material.start if self._material.as_was else None
        copy_project(self._project, declared, self._base, settings, as_was=as_was)
        stage = self._stage(self._base)
        try:
            for day in range(days):
                self._say(f"quiet day {day + 1} of {days}")
                stage.play()
            alarms = _alarms(stage)
        finally:
            stage.close()
        self._day = days
        return Control(name="the quiet days", days=days, false_alarms=alarms)

    def _stage(self, folder: Path) -> Stage:
        kind = LiveStage if self._live else Stage
        return kind(folder, self._model, self._material, per_day=self._per_day, seed=self._seed, day=self._day)

    def _fresh(self) -> Stage:
        self._runs += 1
        folder = self._scratch / f"run-{self._runs}"
        shutil.copytree(self._base, folder)
        return self._stage(folder)

    def control(self, name: str, days: int, *, rollout: bool, lesson: int = 0) -> Control:
        """A run without a fault; with a candidate that is trained on so many days, or the twin for none."""
        self._say(f"control: {name}")
        stage = self._fresh()
        try:
            stage.begin(Scenario(), 0.0)
            if rollout:
                stage.per_day *= BUSIER
                problem = introduce(stage, lesson=lesson, worth=True)
                name = f"{name} ({problem})" if problem else name
            played = 0
            while played < days and not (rollout and stage.rollout_over()):
                stage.play()
                played += 1
            alarms = _alarms(stage)
            refused, back = refused_by_gate(stage), stage.rolled_back()
            if refused is not None:
                self._refused_sound, name = True, f"{name} (the gate fails it, so candidates are twins of the champion)"
            return Control(name=name, days=played, false_alarms=alarms + ((back.what,) if back else ()))
        finally:
            stage.close()

    def play(self, scenario: Scenario, strength: str, most_days: int) -> Outcome:
        """One scenario until it is seen, or the time is over.

        A trained candidate shows nothing where the gate fails a sound one too, or leaves open whether it is worse: it
        gets no traffic then. The champion's twin is the candidate instead.
        """
        self._say(f"{scenario.name} ({strength})")
        teaches = scenario.teaches
        found = None if teaches and self._refused_sound else self._play(scenario, strength, most_days, lesson=teaches)
        if found is None:
            self._say(f"{scenario.name} ({strength}), with a twin of the champion")
            found = self._play(scenario, strength, most_days, lesson=0)
            assert found is not None, "a twin is not judged by the gate"
            found = msgspec.structs.replace(found, did=(TWIN, *found.did))
        return found

    def _play(self, scenario: Scenario, strength: str, most_days: int, *, lesson: int) -> Outcome | None:
        """As `play`, with a candidate trained on so many days, if any; None where the gate left it open."""
        stage = self._fresh()
        told: dict[str, Any] = {
            "scenario": scenario.name, "story": scenario.story, "title": scenario.title, "truth": scenario.truth,
            "strength": strength,
        }  # fmt: skip
        try:
            missing = scenario.missing(stage)
            if missing:
                return Outcome(**told, missing=missing)
            value = float(scenario.strengths[strength])
            stage.begin(scenario, value)
            seen: Sighting | None = None
            days = 0
            if scenario.apart:
                seen = scenario.run_apart(stage, value)
            else:
                if scenario.candidate:
                    stage.per_day *= BUSIER
                    problem = introduce(stage, lesson=lesson, worth=scenario.sells)
                    if problem:
                        return Outcome(**told, missing=problem)
                    seen = scenario.sighting(stage)
                    if lesson and stage.trained and seen is None and stage.rollout_over():
                        return None
                stage.sent = 0
                while seen is None and days < most_days and not (scenario.candidate and stage.rollout_over()):
                    stage.play()
                    if stage.off:
                        return Outcome(**told, missing=f"{stage.off}; without --live it can be played")
                    days += 1
                    seen = scenario.sighting(stage)
            return Outcome(
                **told,
                detected=seen is not None,
                days=days if seen else None,
                predictions=stage.sent,
                exposed=stage.exposed,
                by=seen.by if seen else "",
                what=seen.what if seen else "",
                did=_deeds(stage),
            )
        finally:
            stage.close()


def _alarms(stage: Stage) -> tuple[str, ...]:
    return tuple(f"{e.payload['incident']['monitor']}: {e.why}" for e in stage.events("alert.opened"))


def _deeds(stage: Stage) -> tuple[str, ...]:
    """What undrift did by itself since the onset, each once."""
    found = [f"{DEEDS[event.kind]}: {event.why}" for event in stage.events(*DEEDS)]
    found += [f"refused {len(stage.refused)} requests"] if stage.refused else []
    found += [f"flagged {stage.violations} rows"] if stage.violations else []
    return tuple(dict.fromkeys(found))
