"""The verbs that make versions and let declarations take effect: plan, apply, train, adopt, gate, retrain.

Each reads declarations and state, lets the room concerned decide, and records the outcome in the event log. Traffic is
given and taken in releases.py; scoring stands in scoring.py, what a retrain job does in retrain.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from undrift.assembly import fill_sources, materialise_views, read_table, transform_code, with_features
from undrift.candidates import classes_of, draft_of_version, judge_by_gate, keeping, mirror_version, prepare
from undrift.declarations import Model, differences, resolve_function
from undrift.develop import adoption, training
from undrift.develop.performance import metric_values
from undrift.errors import DeclarationError
from undrift.event import Draft, Event
from undrift.finding import Report, Verdict
from undrift.ids import content_hash, duration
from undrift.project import FEEDS, Project
from undrift.state.jobs import JobDraft

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Trained", "adopt", "apply", "gate", "plan", "retrain", "train"]

Say = Callable[[str], None]


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What training or adopting gave.

    ``version`` is None when the gate said FAIL or ERROR: then nothing was registered. INCONCLUSIVE is registered, but
    gets no traffic unless a person overrules it.
    """

    model: str
    version: int | None
    revision: str
    report: Report
    inspection: Report
    rows: int
    quarantined: int
    metrics: dict[str, float]
    run_id: str
    dataset: str
    compiled: dict[str, Any]
    seconds: float
    problem: str = ""


def plan(project: Project) -> dict[str, tuple[str, ...]]:
    """What `apply` would change, per model one line per value; an empty tuple where nothing would."""
    changes = {}
    for name, model in sorted(project.declarations.models.items()):
        applied = project.journal.get("model", name)
        changes[name] = differences(None if applied is None else applied["declared"], model.declared())
    return changes


def apply(project: Project, *, actor: str, why: str = "") -> list[Event]:
    """Let declarations take effect: record those that changed, load the histories of sources, publish routes."""
    at = project.now().now()
    drafts = _feeds(project, actor)
    for name, lines in plan(project).items():
        if not lines:
            continue
        model = project.declarations.models[name]
        first = project.journal.get("model", name) is None
        drafts.append(
            Draft(
                kind="declaration.applied",
                subject=f"model:{name}",
                at=at,
                actor=actor,
                why=why or ("first declaration" if first else f"{len(lines)} value(s) changed"),
                payload={
                    "model": name,
                    "declared": model.declared(),
                    "interface": msgspec.to_builtins(model.interface()),
                    "hash": model.hash,
                    "changes": list(lines),
                },
            )
        )
    events = project.journal.record(drafts) if drafts else []
    fill_sources(project)
    project.publish_routes()
    return events


def _feeds(project: Project, actor: str) -> list[Draft]:
    """The event that says which sources are declared, if that changed."""
    declared = {
        "sources": msgspec.to_builtins(project.declarations.sources),
        "histories": project.declarations.histories,
    }
    known = project.journal.get("sources", "all")
    if (known or {}).get("hash") == content_hash(declared) or (known is None and not project.declarations.sources):
        return []
    payload = {**declared, "hash": content_hash(declared)}
    names = ", ".join(sorted(project.declarations.sources)) or "none"
    at = project.now().now()
    return [
        Draft(kind="declaration.applied", subject=FEEDS, at=at, actor=actor, why=f"sources: {names}", payload=payload)
    ]


def _ensure_applied(project: Project, model: Model, actor: str) -> None:
    """Training with a declaration that was never applied would leave no record of what was wanted: apply it."""
    current = project.journal.get("model", model.name)
    if current is None or current["hash"] != model.hash or _feeds(project, actor):
        apply(project, actor=actor, why="applied by the command that needed it")
    else:
        fill_sources(project)


def train(
    project: Project, model: str = "", *, actor: str, why: str = "", source: str = "train", quantise: bool = False,
    say: Say = lambda line: None,
) -> Trained:  # fmt: skip
    """Train a version on the declared data, judge it by the gate, and register it unless it fails.

    Parameters
    ----------
    quantise : as if the model declared it: 8-bit weights for a compiled network that judges as well with them.
    say : takes one line per stage, for progress.

    Raises
    ------
    DataError : the data cannot be trained on.
    DeclarationError : the training function raises or returns no estimator.
    """
    begun = time.monotonic()
    declared = project.model(model)
    if not declared.data or not declared.train:
        what = "data" if not declared.data else "train"
        raise DeclarationError(
            f"model {declared.name!r} declares no `{what}`, so it cannot be trained.",
            hint="An adopted model gets new versions by `undrift adopt`.",
        )
    _ensure_applied(project, declared, actor)
    say("reading data")
    prepared = prepare(project, declared, read_table(project.root, declared.data), actor=actor)
    say(f"{prepared.rows:,} rows keep the contract, {prepared.quarantined:,} go to quarantine")
    function = resolve_function(project.root, declared.train, what=f"train of model {declared.name!r}")
    baseline = (
        resolve_function(project.root, declared.baseline, what=f"baseline of model {declared.name!r}")
        if declared.baseline
        else None
    )
    interface = declared.interface(classes_of(declared, prepared.table))
    fitted = training.fit(
        interface,
        function,
        prepared.table,
        baseline=baseline,
        folds=declared.folds,
        holdout=declared.holdout,
        seed=declared.seed,
        gap=duration(declared.maturity) if declared.time else duration(0),
        say=say,
    )
    done = training.finish(
        fitted,
        interface,
        artifacts=project.artifacts,
        trust=project.settings.trust,
        tracking=project.tracking,
        dataset=prepared.dataset,
        dataset_hash=prepared.dataset_hash,
        code=transform_code(project, declared),
        root=project.root,
        quantised=declared.quantise or quantise,
        say=say,
    )
    say("judging")
    report = judge_by_gate(
        project,
        declared,
        done.candidate,
        done.manifest,
        done.bundle,
        prepared.base,
        done.rival,
        subject=f"{declared.name} {done.revision}",
    )
    version = _register(
        project,
        declared.name,
        prepared.draft,
        report,
        {"revision": done.revision, "bundle": done.bundle, "run_id": done.run_id},
        prepared.dataset,
        done.metrics,
        actor,
        source,
        why,
    )
    return Trained(
        model=declared.name,
        version=version,
        revision=done.revision,
        report=report,
        inspection=prepared.inspection,
        rows=prepared.rows,
        quarantined=prepared.quarantined,
        metrics=done.metrics,
        run_id=done.run_id,
        dataset=prepared.dataset,
        compiled=done.compiled,
        seconds=time.monotonic() - begun,
        problem=done.problem,
    )


def _register(
    project: Project,
    model: str,
    dataset_draft: Draft | None,
    report: Report,
    made: dict[str, str],
    dataset_label: str,
    metrics: dict[str, float],
    actor: str,
    source: str,
    why: str,
) -> int | None:
    judged = Draft(
        kind="gate.judged",
        subject=f"model:{model}",
        at=project.now().now(),
        actor=actor,
        why=f"{made['revision']}: {report.verdict.name}",
        payload={
            "model": model,
            "revision": made["revision"],
            "report": msgspec.to_builtins(report),
            "metrics": metrics,
        },
    )
    drafts = [draft for draft in (dataset_draft, judged) if draft is not None]
    if report.verdict > Verdict.INCONCLUSIVE:
        project.journal.record(drafts)
        return None
    version = draft_of_version(
        project,
        model,
        revision=made["revision"],
        bundle=made["bundle"],
        run_id=made["run_id"],
        dataset_label=dataset_label,
        metrics=metrics,
        report=report,
        actor=actor,
        source=source,
        why=why,
    )
    expect = {("version", f"{model}/{version.payload['version']:06d}"): None}
    stored = project.journal.record([*drafts, version], expect=expect)[-1]
    mirror_version(project, version)
    number: int = stored.payload["version"]
    return number


def adopt(
    project: Project, path: str, example: pa.Table | Path, *, model: str = "", actor: str, why: str = "",
    quantise: bool = False,
) -> Trained:  # fmt: skip
    """Register an existing model (a file, an MLflow model folder, ``models:/NAME@ALIAS``) as a version.

    Parameters
    ----------
    example : rows as requests will send them, with labels if there are any.
    quantise : as for `train`.

    Raises
    ------
    UntrustedModelError : opening the format can run code and the settings do not allow it.
    """
    import pyarrow.compute as pc

    begun = time.monotonic()
    declared = project.model(model)
    _ensure_applied(project, declared, actor)
    rows = read_table(project.root, str(example)) if isinstance(example, Path) else example
    interface = declared.interface(classes_of(declared, rows) if declared.label in rows.column_names else ())
    checked = keeping(rows, interface.contract)
    if interface.views:
        materialise_views(project, pc.max(checked.accepted[interface.time]).as_py())
    done = adoption.adopt(
        path,
        with_features(project, interface, checked.accepted),
        name=declared.name,
        artifacts=project.artifacts,
        trust=project.settings.trust,
        label=declared.label,
        interface=interface,
        registry=project.registry if path.startswith("models:/") else None,
        code=transform_code(project, declared),
        quantised=declared.quantise or quantise,
    )
    metrics: dict[str, float] = {}
    baseline = None
    if done.labelled:
        metrics = metric_values(done.scored)
        base = tuple(checked.accepted.column_names)
        report = judge_by_gate(
            project,
            declared,
            done.scored,
            done.manifest,
            done.bundle,
            base,
            baseline,
            subject=f"{declared.name} {done.revision}",
        )
    else:
        report = Report(title="gate", subject=f"{declared.name} {done.revision}", at=project.now().now())
    made = {"revision": done.revision, "bundle": done.bundle, "run_id": ""}
    version = _register(project, declared.name, None, report, made, "", metrics, actor, "adopt", why)
    return Trained(
        model=declared.name,
        version=version,
        revision=done.revision,
        report=report,
        inspection=checked.report,
        rows=checked.accepted.num_rows,
        quarantined=checked.quarantined.num_rows,
        metrics=metrics,
        run_id="",
        dataset="",
        compiled=done.manifest.compiled,
        seconds=time.monotonic() - begun,
    )


def gate(project: Project, model: str = "", version: int | None = None) -> Report:
    """The recorded gate report of a version (the newest if none is named)."""
    row = project.version(project.model(model).name, version)
    return msgspec.convert(row["gate"], Report)


def retrain(project: Project, model: str = "", *, actor: str, why: str) -> str:
    """Ask the worker for a challenger trained on fresh data; returns the key of the job."""
    declared = project.model(model)
    if declared.retrain is None:
        raise DeclarationError(f"model {declared.name!r} declares no `retrain`.")
    at = project.now().now()
    key = f"retrain:{declared.name}:{at.isoformat()}"
    requested = Draft(
        kind="retrain.requested",
        subject=f"model:{declared.name}",
        at=at,
        actor=actor,
        why=why,
        payload={"model": declared.name, "by": actor},
        key=f"{key}:requested",
    )
    payload = {"model": declared.name, "at": at.isoformat(), "why": why}
    project.journal.record([requested], jobs=[JobDraft(kind="retrain", key=key, payload=payload)])
    return key
