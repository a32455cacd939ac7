"""One tick of all monitors of a model: faults first, then what is left of the data for drift and performance.

Pure: what was captured comes in as tables, the Report goes out; alerts.py turns it into incidents. Data of a fault are
excluded from everything judged after it, so that one cause gives one incident.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from undrift.data.features import Source
from undrift.data.text import Vocabulary
from undrift.deploy.traffic import values_of
from undrift.develop.bundle import Interface
from undrift.develop.importance import Importance
from undrift.finding import Finding, Report, Verdict, Window
from undrift.monitor.alerts import open_incidents, spoiled_windows
from undrift.monitor.attribution import Influences, judge_attribution
from undrift.monitor.causes import Lost, explain, lost, ranked
from undrift.monitor.cells import Reference, Slots
from undrift.monitor.change import judge_change
from undrift.monitor.drift import judge_drift
from undrift.monitor.estimate import CHECKED, judge_estimate
from undrift.monitor.evidence import Evidence, Expected
from undrift.monitor.feed import LOOK_BACK, Spoiled, judge_feed
from undrift.monitor.frames import inside, micros
from undrift.monitor.freshness import judge_freshness
from undrift.monitor.golden import judge_golden
from undrift.monitor.integrity import judge_integrity
from undrift.monitor.labels import judge_labels
from undrift.monitor.monitors import Monitor
from undrift.monitor.multivariate import PAST_WINDOWS, judge_multivariate
from undrift.monitor.performance import decay_under_fault, judge_performance
from undrift.monitor.seasonal import judge_seasonal
from undrift.monitor.service import BURN_RATES, judge_service
from undrift.monitor.silent import judge_silent
from undrift.monitor.skew import judge_skew
from undrift.monitor.slices import judge_slices
from undrift.monitor.texts import judge_untold, with_texts
from undrift.monitor.windows import WindowProfile, history_of
from undrift.serving.health import Health

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LOOK_BACK", "Scene", "look_back", "watch"]


LOSSES: Final = {"change": judge_change, "estimate": judge_estimate, "slices": judge_slices}
"""What else is judged of the loss, with the same evidence."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a tick sees of one model.

    Parameters
    ----------
    rows : predictions with outcomes, at least `look_back` long.
    sources : source -> (declaration, its rows of `feed.LOOK_BACK`).
    version : the champion's.
    reference : column -> its reference, from the champion's bundle.
    expected : reference losses of the champion, see `judge_performance`.
    changes : (when, what) of releases in the last weeks.
    tick : time between two ticks.
    history : columns by the kept profiles of weeks, see `judge_drift`.
    seasonal : by the name of a monitor with a season, the kept profiles of its windows and of comparable ones.
    vocabularies : of free text among the inputs, which drift monitors see as what is measured of it.
    untold : columns of languages that cannot be told or judged here, and why (`monitor.texts.untold`).
    influences : by the name of a monitor of attributions, what the answers to a sample of requests rest on.
    leans_on : what those rested on that the champion was measured on.
    maturity : how long after an answer its label can be expected.
    workers : what the running workers told of themselves, see `serving.health`; none where the past is judged.
    features : a sample of requests with the features as served, and as computed again offline; see `judge_skew`.
    """

    interface: Interface
    rows: pa.Table
    version: int
    sources: Mapping[str, tuple[Source, pa.Table]] = field(default_factory=dict)
    reference: Mapping[str, Reference] = field(default_factory=dict)
    expected: Mapping[str, Expected] = field(default_factory=dict)
    changes: Sequence[tuple[datetime, str]] = ()
    importance: Mapping[str, float] | None = None
    tick: timedelta = timedelta(days=1)
    history: Mapping[str, Slots] = field(default_factory=dict)
    seasonal: Mapping[str, Sequence[WindowProfile]] = field(default_factory=dict)
    influences: Mapping[str, Influences] = field(default_factory=dict)
    leans_on: Importance | None = None
    vocabularies: Mapping[str, Vocabulary] = field(default_factory=dict)
    untold: Mapping[str, str] = field(default_factory=dict)
    features: tuple[pa.Table, pa.Table] | None = None
    workers: Sequence[Health] = ()
    maturity: timedelta = timedelta(days=1)

    def evidence(self, monitor: Monitor, now: datetime, spoiled: tuple[Window, ...]) -> Evidence:
        """What a monitor of losses, labels or ages judges."""
        return Evidence(
            interface=self.interface,
            rows=self.rows,
            now=now,
            version=self.version,
            expected=self.expected,
            tick=monitor.every(self.tick),
            spoiled=spoiled,
            maturity=self.maturity,
        )


def look_back(
    monitors: Iterable[Monitor], tick: timedelta = timedelta(days=1), maturity: timedelta = timedelta()
) -> timedelta:
    """How much of the past predictions the monitors need."""
    monitors = list(monitors)
    labels = [maturity + 9 * m.span for m in monitors if m.kind == "labels"]
    spans = {
        "drift": 1,
        "performance": 1,
        "slices": 2,
        "change": 1,
        "integrity": 8,
        "freshness": 8,
        "multivariate": PAST_WINDOWS + 1,
        "attribution": 1,
        "estimate": 2 * CHECKED,
    }
    needed = [spans[m.kind] * m.span + m.lasting.n * m.every(tick) for m in monitors if m.kind in spans]
    return max([timedelta(days=9), BURN_RATES[-1].long, *labels, *needed])


def watch(
    monitors: Sequence[Monitor], scene: Scene, incidents: Mapping[str, Mapping[str, Any]], now: datetime
) -> Report:
    """Judge everything that is to be watched at one tick; pure. Monitors that are not due say nothing."""
    monitors = [monitor for monitor in monitors if monitor.due(now, scene.tick)]
    model = scene.interface.model
    known = {key: dict(value) for key, value in incidents.items()}
    findings: list[Finding] = []
    sick: set[str] = set()
    for monitor in (m for m in monitors if m.kind == "feed"):
        for name, (source, rows) in sorted(scene.sources.items()):
            if monitor.source and monitor.source != name:
                continue
            mine = [i for i in open_incidents(known, model, ("feed",)) if i["source"] == name]
            changed = {column: detail for i in mine for column, detail in i["details"].items()}
            since = min((datetime.fromisoformat(i["onset"]) for i in mine), default=None)
            past = _past(known.values(), model, name)
            judged = judge_feed(monitor, source, rows, now, spoiled=past, since=since, open_changes=changed)
            judged = [_of_source(finding, name) for finding in judged]
            findings += judged
            if any(f.verdict is Verdict.FAIL for f in judged):
                sick.add(name)
    silent_past = spoiled_windows(known, model, now, kinds=("silent",))
    for monitor in (m for m in monitors if m.kind == "silent"):
        judged = judge_silent(
            monitor,
            scene.rows,
            now,
            spoiled=tuple(w for w in silent_past if monitor.first_day is None or w.start >= monitor.first_day),
            tick=monitor.every(scene.tick),
            kept=scene.seasonal.get(monitor.name, ()),
        )
        findings += _without(judged, _fed_by(scene.interface, sick))
    feeds = (*spoiled_windows(known, model, now, kinds=("feed",)), *_fresh(findings, "feed", now))
    findings += _without(
        _integrity_and_service(monitors, scene, (*feeds, *silent_past), now), _fed_by(scene.interface, sick)
    )
    answers = (*silent_past, *_fresh(findings, "silent", now))
    findings += _drift_and_performance(monitors, scene, findings, known, (feeds, answers), now)
    return Report(title="Monitors", subject=f"model:{model}", findings=tuple(findings), at=now)


def _drift_and_performance(
    monitors: Sequence[Monitor],
    scene: Scene,
    faults: Sequence[Finding],
    known: Mapping[str, dict[str, Any]],
    windows: tuple[tuple[Window, ...], tuple[Window, ...]],
    now: datetime,
) -> list[Finding]:
    feeds, answers = windows
    spoiled = (*feeds, *answers)
    drift: list[Finding] = []
    reference = {name: known for name, known in scene.reference.items() if name not in scene.untold}
    for monitor in (m for m in monitors if m.kind == "drift"):
        drift += judge_untold(monitor, scene.untold, scene.reference, now)
    for monitor in (m for m in monitors if m.kind == "drift" and m.season):
        drift += judge_seasonal(
            monitor,
            history_of(scene.seasonal.get(monitor.name, ()), reference, scene.version),
            reference,
            now,
            tick=monitor.every(scene.tick),
            spoiled=feeds,
            answers_spoiled=answers,
            alarmed=_told(monitor, known, scene.interface.model, now),
        )
    by_training = [m for m in monitors if m.kind == "drift" and not m.season]
    rows = with_texts(scene.rows, scene.vocabularies) if by_training else scene.rows
    for monitor in by_training:
        drift += judge_drift(
            monitor,
            rows,
            reference,
            now,
            tick=monitor.every(scene.tick),
            spoiled=feeds,
            answers_spoiled=answers,
            version=scene.version,
            history=scene.history if monitor.history else None,
        )
    for monitor in (m for m in monitors if m.kind == "multivariate"):
        drift += judge_multivariate(monitor, scene.rows, now, tick=monitor.every(scene.tick), spoiled=feeds)
    for monitor in (m for m in monitors if m.kind == "attribution"):
        seen, every = scene.influences.get(monitor.name), monitor.every(scene.tick)
        drift += judge_attribution(monitor, scene.leans_on, seen, now, tick=every, spoiled=spoiled)
    performance: list[Finding] = []
    for monitor in (m for m in monitors if m.kind == "performance"):
        evidence = scene.evidence(monitor, now, spoiled)
        performance += judge_performance(monitor, evidence)
        present = [w for w in spoiled if w.end >= now]
        if present:
            fault = min(present, key=lambda w: w.start)
            damage = decay_under_fault(monitor, evidence, fault)
            performance += [damage] if damage is not None else []
    for monitor in (m for m in monitors if m.kind in LOSSES):
        performance += LOSSES[monitor.kind](monitor, scene.evidence(monitor, now, spoiled))
    others = [*faults, *drift, *performance]
    sick = open_incidents(known, scene.interface.model, ("feed", "silent"))
    explained = [
        explain(f, ranked(f, others, sick, scene.changes, scene.importance, scene.interface), _lost(f, monitors, scene))
        if f.verdict is Verdict.FAIL
        else f
        for f in performance
    ]
    return [*drift, *explained]


def _integrity_and_service(
    monitors: Sequence[Monitor], scene: Scene, spoiled: tuple[Window, ...], now: datetime
) -> list[Finding]:
    findings: list[Finding] = []
    views = {view.name: frozenset(o.name for o in view.outputs) for view in scene.interface.views}
    for monitor in monitors:
        if monitor.kind == "integrity":
            findings += judge_integrity(
                monitor,
                scene.rows,
                scene.reference,
                now,
                tick=scene.tick,
                spoiled=spoiled,
                views=views,
                version=scene.version,
            )
        elif monitor.kind == "service":
            findings += judge_service(monitor, scene.rows, now, model=scene.interface.model, workers=scene.workers)
        elif monitor.kind == "labels":
            findings += judge_labels(monitor, scene.evidence(monitor, now, spoiled))
        elif monitor.kind == "freshness":
            findings += judge_freshness(monitor, scene.evidence(monitor, now, spoiled))
        elif monitor.kind == "golden":
            findings += judge_golden(monitor, scene.interface.model, scene.workers, now)
        elif monitor.kind == "skew":
            findings += judge_skew(monitor, scene.features, Window(now - monitor.span, now), tick=scene.tick)
    return findings


def _lost(finding: Finding, monitors: Sequence[Monitor], scene: Scene) -> Lost | None:
    """What a loss of performance has cost so far: in its metric, for the whole also in errors and in money."""
    seen, window = finding.measurement, finding.measurement.window
    name = "absolute_error" if scene.interface.task == "regression" else "error"
    expected = scene.expected.get(name)
    if seen.detail.get("kind") != "performance":
        return None  # an estimate has no outcomes yet, and a slice is told by itself
    if seen.segment or window is None or expected is None:
        return lost(finding)
    value = values_of(scene.rows, scene.interface, [name])[name]
    held = inside(micros(scene.rows, "event_time"), window.start, window.end) & np.isfinite(value)
    held &= scene.rows["version"].to_numpy() == scene.version
    worth = next((m.value_per_error for m in monitors if m.name == seen.detail.get("monitor")), 0.0)
    return lost(finding, (float(value[held].mean()), expected.value), worth) if held.any() else lost(finding)


def _past(incidents: Iterable[Mapping[str, Any]], model: str, source: str) -> tuple[Spoiled, ...]:
    """The windows of a source's past incidents, with the columns that were wrong in them."""
    return tuple(
        Spoiled(Window(datetime.fromisoformat(start), datetime.fromisoformat(end)), frozenset(columns))
        for incident in incidents
        if incident["model"] == model and incident["kind"] == "feed" and incident["source"] == source
        for start, end, columns in incident["windows"]
    )


def _of_source(finding: Finding, name: str) -> Finding:
    finding.measurement.detail.setdefault("source", name)
    return finding


def _fed_by(interface: Interface, sources: set[str]) -> set[str]:
    """The features that come from any of the sources."""
    return {output.name for view in interface.views if view.source in sources for output in view.outputs}


def _without(findings: Sequence[Finding], columns: set[str]) -> list[Finding]:
    """The findings without nulls that a sick feed explains."""
    return [
        f
        for f in findings
        if not (f.measurement.name in ("nulls", "missing") and f.measurement.detail.get("column") in columns)
    ]


def _told(monitor: Monitor, known: Mapping[str, dict[str, Any]], model: str, now: datetime) -> tuple[Window, ...]:
    """The windows that a monitor told about, from the day on that its normal begins."""
    mine = {key: incident for key, incident in known.items() if incident["monitor"] == monitor.name}
    first = monitor.first_day
    told = spoiled_windows(mine, model, now, kinds=(monitor.kind,))
    return tuple(window for window in told if first is None or window.start >= first)


def _fresh(findings: Iterable[Finding], kind: str, now: datetime) -> tuple[Window, ...]:
    """The windows that this tick's own faults of a kind spoil."""
    details = [f.measurement.detail for f in findings if f.verdict is Verdict.FAIL]
    onsets = [datetime.fromisoformat(str(detail["onset"])) for detail in details if detail["kind"] == kind]
    return tuple(Window(onset, now) for onset in onsets if onset < now)
