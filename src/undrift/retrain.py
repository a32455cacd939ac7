"""A retrain: fresh labelled rows, a challenger, the gate against the champion on the same fresh rows, then a rollout.

A challenger that is not better is refused and logged; one that passes starts its declared rollout and gets no traffic
before that judges it. Whether to retrain at all was decided in improve/triggers.py.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from undrift.assembly import transform_code
from undrift.candidates import classes_of, draft_of_version, judge_by_gate, judge_quality, mirror_version, prepare
from undrift.data import dataset as datasets
from undrift.data.outcomes import outcomes
from undrift.declarations import Model, read_anew, resolve_function
from undrift.deploy.routes import running
from undrift.develop import training
from undrift.develop.performance import label_text
from undrift.errors import DataError
from undrift.event import Draft
from undrift.finding import Report, Verdict
from undrift.ids import duration
from undrift.improve.retraining import Fresh, fresh_rows, training_window
from undrift.improve.triggers import finished
from undrift.monitor.alerts import spoiled_windows
from undrift.project import Project
from undrift.releases import start_rollout

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["run_retrain"]


def run_retrain(project: Project, name: str, at: datetime, *, why: str) -> list[str]:
    """Do the retrain job asked for at a moment; one line per thing worth telling. Done once, it does nothing again."""
    if project.journal.find(f"{name}|retrain.finished|{at.isoformat()}") is not None:
        return []
    model = project.model(name)
    assert model.retrain is not None, "a retrain job exists only for models that declare it"
    window = training_window(model.retrain, at)
    rows = outcomes(project.lake, name, window.start, window.end, at, columns=("event_time", "prediction_id", "inputs"))
    spoiled = spoiled_windows(project.journal.items("incident"), name, at, kinds=model.retrain.refuse_while)
    fresh = fresh_rows(model.retrain, model.interface(), rows, at, spoiled=spoiled)
    if not fresh.enough:
        text = f"not trained: {fresh.why}, {model.retrain.minimum_rows} are needed"
        return _record(project, [finished(name, False, at, text)])
    try:
        return _challenge(project, model, fresh, _with_history(project, model, fresh), at, why)
    except DataError as error:
        return _record(project, [finished(name, False, at, f"not trained: {error.message}")])


def _with_history(project: Project, model: Model, fresh: Fresh) -> pa.Table:
    """The fresh rows, and before them those of the last training data that reach into the window.

    Rows of a prediction that was captured count once: as captured.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    interface = model.interface()
    trained = [row for row in project.versions(model.name) if row["source"] == "train" and row["dataset"]]
    if not trained or not interface.time:
        return fresh.table
    name, _, version = trained[-1]["dataset"].partition("@")
    past = datasets.load(project.lake, name, int(version))
    first = pc.min(fresh.table[interface.time])
    inside = pc.and_(
        pc.greater_equal(past[interface.time], pa.scalar(fresh.window.start, past[interface.time].type)),
        pc.less(past[interface.time], first.cast(past[interface.time].type)),
    )
    past = past.filter(inside)
    labels = past[interface.label]
    if interface.task != "regression":
        coded = labels.combine_chunks().dictionary_encode()
        texts = [label_text(value) for value in coded.dictionary.to_pylist()]
        labels = pa.array(texts, pa.string()).take(coded.indices)
    past = past.set_column(past.column_names.index(interface.label), interface.label, labels)
    shared = [column for column in fresh.table.column_names if column in past.column_names]
    fields = [fresh.table.schema.field(column) for column in shared]
    return pa.concat_tables([past.select(shared).cast(pa.schema(fields)), fresh.table.select(shared)])


def _share_held_out(table: pa.Table, time: str, span: timedelta, otherwise: float) -> float:
    """The share of rows in the newest ``span``, kept between a twentieth and a half."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not time:
        return otherwise
    moments = table[time].cast(pa.timestamp("us", "UTC"))
    newest = pc.max(moments).as_py()
    late = int(pc.sum(pc.greater(moments, pa.scalar(newest - span, pa.timestamp("us", "UTC")))).as_py())
    return float(min(max(late / table.num_rows, 0.05), 0.5))


def _challenge(project: Project, model: Model, fresh: Fresh, table: pa.Table, at: datetime, why: str) -> list[str]:
    name = model.name
    assert model.retrain is not None, "a retrain job exists only for models that declare it"
    read_anew(project.root)  # a worker runs for weeks; the code that is bundled is the file's, so let it be what trains
    prepared = prepare(project, model, table, actor="work", name=f"{name}_fresh")
    held_out = _share_held_out(prepared.table, model.time, duration(model.retrain.fresh), model.holdout)
    function = resolve_function(project.root, model.train, what=f"train of model {name!r}")
    interface = model.interface(classes_of(model, prepared.table))
    with training.threads_limited(project.settings.work.threads):
        fitted = training.fit(
            interface,
            function,
            prepared.table,
            folds=0,
            holdout=held_out,
            seed=model.seed,
            gap=duration(model.maturity),
        )
        quality = judge_quality(
            project, model, fitted.scored, prepared.base, subject=f"{name} retrained at {at:%Y-%m-%d %H:%M}"
        )
        if quality.verdict is not Verdict.PASS:  # as most are: nothing is compiled and kept of what nobody will serve
            return _refuse(project, name, at, quality, fresh, prepared.draft)
        done = training.finish(
            fitted,
            interface,
            artifacts=project.artifacts,
            trust=project.settings.trust,
            tracking=project.tracking,
            dataset=prepared.dataset,
            dataset_hash=prepared.dataset_hash,
            code=transform_code(project, model),
            root=project.root,
            quantised=model.quantise,
            params={"asked_by": why},
        )
    report = judge_by_gate(
        project,
        model,
        done.candidate,
        done.manifest,
        done.bundle,
        prepared.base,
        None,
        subject=f"{name} {done.revision}",
    )
    if report.verdict is not Verdict.PASS:
        return _refuse(project, name, at, report, fresh, prepared.draft)
    version = draft_of_version(
        project,
        name,
        revision=done.revision,
        bundle=done.bundle,
        run_id=done.run_id,
        dataset_label=prepared.dataset,
        metrics=done.metrics,
        report=report,
        actor="work",
        source="retrain",
        why=f"challenger trained because {why}; {report.findings[0].why}",
    )
    number = version.payload["version"]
    text = f"challenger is version {number}: {report.findings[0].why} ({fresh.why})"
    drafts = [prepared.draft, version, finished(name, True, at, text, version=number, report=report)]
    withdrawn = (project.route(name) or {}).get("withdrawn", {})
    # a revision that was taken back needs a person's word for another try, also when a retrain made it again
    if done.revision not in withdrawn and not any(state.model == name for state in running(project.journal)):
        drafts += start_rollout(
            project, model, version.payload, actor="work", why=f"version {number} was trained because {why}", at=at
        ).drafts
    expect = {("version", f"{name}/{number:06d}"): None, ("route", name): project.journal.seq_of("route", name)}
    lines = _record(project, drafts, expect=expect)
    mirror_version(project, version)
    return lines


def _refuse(project: Project, name: str, at: datetime, report: Report, fresh: Fresh, dataset: Draft) -> list[str]:
    worst = report.worse_than(Verdict.PASS)
    reason = worst[0].why if worst else "nothing could be judged"
    text = f"challenger refused, the champion stays: {reason} ({fresh.why})"
    return _record(project, [dataset, finished(name, False, at, text, report=report)])


def _record(project: Project, drafts: list[Draft], **how: Any) -> list[str]:
    project.journal.record(drafts, **how)
    return [f"{draft.at:%Y-%m-%d %H:%M} {draft.kind}: {draft.why}" for draft in drafts]
