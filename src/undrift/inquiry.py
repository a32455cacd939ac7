"""The verbs that tell and change nothing: status, history, what was live when, and why a prediction came out so.

Each returns plain values that the command line, the API and notebooks render; what they say comes from the event log
and the lake alone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from undrift.capture.ingest import TAKEN_IN, WATERMARK
from undrift.capture.spool import waiting
from undrift.declarations import load_declarations
from undrift.delivery import permissions, sinks_status
from undrift.deploy.replay import Replayed, changed, rejudge
from undrift.deploy.rollout import Exposure, Rollout, RolloutState
from undrift.deploy.routes import rollout_of
from undrift.deploy.strategy import frozen_until
from undrift.errors import NotFoundError, UndriftError
from undrift.event import Event
from undrift.explanations import explanation_of
from undrift.finding import Report
from undrift.ids import from_micros
from undrift.inference.router import Route, pick
from undrift.monitor.alerts import open_incidents
from undrift.project import Project
from undrift.serving.supervisor import serve_folder
from undrift.serving.telemetry import costs
from undrift.tick import rollout_evidence

__all__ = ["history", "judgement", "live_at", "replay", "served", "serving", "status", "why"]


def serving(project: Project) -> list[dict[str, Any]]:
    """The server processes that are alive and which routing epoch each has taken, from the files they write."""
    folder = project.settings.path(project.settings.stores.spool).parent / "serve"
    alive = []
    for file in sorted(folder.glob("*.json")):
        try:
            row = json.loads(file.read_text(encoding="utf-8"))
            os.kill(int(row["pid"]), 0)
        except (OSError, ValueError, KeyError):
            continue
        if "epoch" in row:  # the supervisor's address stands beside its workers
            alive.append(row)
    return alive


def status(project: Project) -> dict[str, Any]:
    """Where everything stands: per model its champion, rollout, incidents and retraining; servers; the worker.

    Returns
    -------
    dict with keys ``project``, ``now``, ``models``, ``serving``, ``costs``, ``work``, ``sinks``.
    """
    journal = project.journal
    waits = waiting(project.settings.path(project.settings.stores.spool), time.time())
    rollouts = journal.items("rollout")
    incidents = journal.items("incident")
    models = {}
    for name, model in sorted(project.declarations.models.items()):
        route = project.route(name)
        applied = journal.get("model", name)
        running = [
            {**r, "id": key}
            for key, r in rollouts.items()
            if r.get("model") == name and r.get("status") in ("running", "paused")
        ]
        models[name] = {
            "task": model.task,
            "applied": None if applied is None else applied["hash"] == model.hash,
            "champion": None if route is None else route.get("champion_version"),
            "revision": None if route is None else route.get("champion"),
            "served_as": _served_as(project, route),
            "versions": len(project.versions(name)),
            "rollout": running[0] if running else None,
            "incidents": open_incidents(incidents, name),
            "retrain": journal.get("retrain", name),
            "paging": {
                monitor: {"may": found.may, "why": found.why}
                for monitor, found in permissions(project, name, model.monitors).items()
            },
        }
    return {
        "project": project.settings.project.name,
        "now": project.now().now().isoformat(),
        "models": models,
        "serving": serving(project),
        "costs": [{**msgspec.to_builtins(cost), "text": cost.text} for cost in costs(serve_folder(project.settings))],
        "work": {
            "watermark": _moment(journal.get_setting(TAKEN_IN if project.settings.time.mode == "wall" else WATERMARK)),
            "ticked": _moment(journal.get_setting("ticked")),
            "waiting_bytes": waits.size,
            "lag_seconds": round(waits.seconds, 3),
            "jobs": project.jobs.counts(),
        },
        "sinks": sinks_status(project),
    }


def _served_as(project: Project, route: dict[str, Any] | None) -> dict[str, Any] | None:
    """The form in which a champion serves, and what the comparison with the original and quantising gave."""
    if route is None or not route.get("champion"):
        return None
    try:
        manifest = project.manifest(route["champion"])
    except UndriftError:  # status tells the rest
        return None
    return {"native": manifest.native, "compiled": manifest.compiled}


def _moment(micros: int | None) -> str | None:
    return None if micros is None else from_micros(micros).isoformat()


def history(
    project: Project, *, subject: str = "", kinds: Sequence[str] = (), until: datetime | None = None, limit: int = 100
) -> list[Event]:
    """The last events, the oldest first: who did what, when and why.

    Parameters
    ----------
    subject : ``model:flights`` or ``rollout:...``; a bare model name stands for all events about the model.
    until : only events whose event time is not later.
    """
    model = subject.removeprefix("model:")
    rows: Iterable[Event] = project.journal.events(kinds=tuple(kinds), until=until)
    if subject:
        rows = (e for e in rows if e.subject in (subject, f"model:{model}") or e.payload.get("model") == model)
    return list(rows)[-limit:]


def live_at(project: Project, at: datetime) -> dict[str, dict[str, Any]]:
    """What answered at a past moment: per model the champion, the candidate and its weight, and since when.

    Replays the reducers of the route projection over the events up to that moment.
    """
    reducers = [r for r in project.journal.reducers if r.name == "route"]
    state: dict[str, dict[str, Any]] = {}
    for event in project.journal.events(until=at):
        for reducer in reducers:
            if event.kind not in reducer.kinds:
                continue
            for key in reducer.keys(event):
                new = reducer.apply(state.get(key), event, key)
                if new is None:
                    state.pop(key, None)
                else:
                    state[key] = {**new, "since": event.at.isoformat(), "by": event.actor, "why": event.why}
    return state


def served(project: Project, at: datetime, unit: str) -> dict[str, dict[str, Any]]:
    """What served a unit at a past moment: per model the variant it was assigned to, and what had answered it last.

    The first follows from the log alone, also for a unit that never came; ``answered`` is from the lake, None where
    nothing was captured of it before the moment.
    """
    found: dict[str, dict[str, Any]] = {}
    for model, route in live_at(project, at).items():
        if not route["champion"]:
            continue
        fields = ("champion", "candidate", "weight", "salt", "rollout")
        choice = pick(Route(model=model, revisions=(), **{name: route[name] for name in fields}), unit)
        last = project.lake.scan(f"predictions_{model}", where=[("unit", "=", unit), ("event_time", "<=", at)])
        fields = ("event_time", "prediction_id", "revision", "version", "error")
        rows = [] if last is None else last.select(fields).to_pylist()
        answers = [row for row in rows if row["error"] is None]
        latest = max(answers, key=lambda row: (row["event_time"], row["prediction_id"]), default=None)
        found[model] = {
            "variant": choice.variant,
            "revision": choice.revision,
            "version": route[f"{choice.variant}_version"],
            "propensity": choice.propensity,
            "rollout": route["rollout"],
            "answered": None
            if latest is None
            else {
                "id": latest["prediction_id"],
                "at": latest["event_time"].isoformat(),
                "revision": latest["revision"],
                "version": latest["version"],
            },
        }
    return found


def judgement(project: Project, rollout_id: str) -> dict[str, Any]:
    """Where a rollout stands, and the last judgement of it with its evidence.

    Raises
    ------
    NotFoundError : there is none of that id.
    """
    state = rollout_of(project.journal, rollout_id)
    judged = [event for event in project.journal.events(subject=state.subject) if event.payload["evidence"]]
    last = judged[-1] if judged else None
    return {
        "state": state,
        "judged": None
        if last is None
        else {"at": last.at, "kind": last.kind, "why": last.why, "evidence": last.payload["evidence"]},
    }


def replay(project: Project, rollout_id: str, *, settings: Sequence[str] = (), declarations: str = "") -> Replayed:
    """Judge a rollout again from the log and the traffic that was captured, by another rule if asked; records nothing.

    Parameters
    ----------
    settings : values of its declaration to change, each as ``path=value``.
    declarations : a file beside undrift.toml whose rule for the model is taken; `settings` change that one.

    Raises
    ------
    NotFoundError : there is no rollout of that id, or its traffic is not in the lake any more.
    DeclarationError : the other rule may not be.
    """
    state = rollout_of(project.journal, rollout_id)
    rule, changes = state.declared, list(settings)
    if declarations:
        rule = load_declarations(project.root, declarations).model(state.model).rollout
        changes.insert(0, f"the rule of {declarations}")
    rule = changed(rule, settings)
    events = project.journal.events(subject=state.subject)
    if (
        state.exposed_units
        and project.lake.scan(f"predictions_{state.model}", where=[("revision", "=", state.candidate)]) is None
    ):
        raise NotFoundError(f"what {state.model} answered during rollout {rollout_id} is not in the lake any more.")

    def judge(now_at: RolloutState, moment: datetime) -> tuple[Report, Exposure]:
        return rollout_evidence(project, now_at, moment)

    return rejudge(events, rule, judge, _frozen_then(project, rule, state.model), changes=changes)


def _frozen_then(project: Project, rule: Rollout, model: str) -> Callable[[datetime], str]:
    """What held rollouts back at each moment of the past: incidents as they were then, and the freezes of a rule."""
    (reducer,) = (each for each in project.journal.reducers if each.name == "incident")
    events = project.journal.events(kinds=tuple(reducer.kinds))

    def frozen(at: datetime) -> str:
        incidents: dict[str, Any] = {}
        for event in events:
            if event.at > at:
                continue
            for key in reducer.keys(event):
                incidents[key] = reducer.apply(incidents.get(key), event, key)
        open_then = open_incidents({k: v for k, v in incidents.items() if v is not None}, model)
        held = next((str(each["title"]) for each in open_then if "freeze" in each["actions"]), "")
        return held or frozen_until(rule.freezes, at)

    return frozen


def why(
    project: Project, request_id: str, *, model: str = "", explained: bool = True, method: str = "auto"
) -> dict[str, Any]:
    """Everything known about one answered prediction.

    Parameters
    ----------
    request_id : the id of a prediction, or of the request it came in (then the first row of it).
    explained : with an explanation, by the revision that answered, of the inputs that were captured.
    method : of the explanation, as in `explain`.

    Returns
    -------
    dict with the inputs, the features with their age, the version and variant, the prediction, the contract findings,
    the outcome if there is one, and ``explanation``; where there is none, ``unexplained`` says why.

    Raises
    ------
    NotFoundError : no such id in the lake (yet: what was answered in the last seconds may still be in the spool).
    """
    names = [model] if model else sorted(project.declarations.models)
    for name in names:
        for column in ("prediction_id", "request_id"):
            table = project.lake.scan(f"predictions_{name}", where=[(column, "=", request_id)])
            if table is not None and table.num_rows:
                row = table.slice(0, 1).to_pylist()[0]
                known = _known(project, name, row)
                return {**known, **explanation_of(project, row, method)} if explained else known
    raise NotFoundError(
        f"no captured prediction has the id {request_id!r} (looked at: {', '.join(names)}).",
        hint="What was answered seconds ago may still be in the spool: is `undrift work` running?",
    )


def _known(project: Project, model: str, row: dict[str, Any]) -> dict[str, Any]:
    labels = project.lake.scan(f"labels_{model}", where=[("prediction_id", "=", row["prediction_id"])])
    outcome = None
    if labels is not None and labels.num_rows:
        last = max(labels.to_pylist(), key=lambda found: (found["event_time"], found["received_at"]))
        value = last["label"] if last["label"] is not None else last["value"]
        outcome = {"label": value, "at": last["event_time"].isoformat()}
    taken: datetime = row["event_time"]
    version = project.version(model, revision=row["revision"])
    manifest = project.manifest(row["revision"])
    ages = {view: None if at is None else _span(taken - at) for view, at in (row.get("feature_times") or {}).items()}
    view_of = {f.name: view.name for view in manifest.interface.views for f in view.outputs}
    features = {
        name: {
            "value": value,
            "view": view_of.get(name, "computed from the request"),
            "age": ages.get(view_of.get(name, "")),
        }
        for name, value in (row.get("features") or {}).items()
    }
    return {
        "id": row["prediction_id"],
        "request_id": row["request_id"],
        "model": model,
        "at": taken.isoformat(),
        "unit": row["unit"],
        "version": row["version"],
        "revision": row["revision"],
        "variant": row["variant"],
        "propensity": row["propensity"],
        "registered": {
            "at": version["at"],
            "by": version["actor"],
            "source": version["source"],
            "run": version["run_id"],
        },
        "inputs": row["inputs"],
        "features": features,
        "score": row["score"],
        "threshold": manifest.interface.threshold if manifest.interface.task == "binary" else None,
        "prediction": row["prediction"],
        "violations": row["violations"] or [],
        "latency_us": row["latency_us"],
        "error": row["error"],
        "outcome": outcome,
    }


def _span(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if abs(seconds) >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds}s"
