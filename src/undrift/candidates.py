"""A candidate on its way in: rows checked and stored, features joined, a rival scored on the same rows, a gate judged.

Training, adoption and retraining share this way, so a version is never registered by another measure than the gate's.
Deciding what traffic a registered version gets stands in releases.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from undrift.assembly import materialise_views, with_features
from undrift.data import dataset
from undrift.data.contract import Contract
from undrift.data.inspect import Inspection, check
from undrift.declarations import Model
from undrift.develop.bundle import Interface, Manifest
from undrift.develop.performance import Performance, Scored, label_text
from undrift.develop.rows import in_order, table_columns
from undrift.errors import ContractError, DataError, StateError
from undrift.event import Draft
from undrift.finding import Report, Verdict
from undrift.inference.predictor import Predictor, load
from undrift.project import Project
from undrift.validate import checks
from undrift.validate.gate import judge_candidate

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Prepared",
    "classes_of",
    "draft_of_version",
    "judge_by_gate",
    "judge_quality",
    "keeping",
    "prepare",
    "score_with",
]

LATENCY_ROWS = 200


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """Rows ready to train on, and what became of those that broke the contract."""

    table: Any
    base: tuple[str, ...]
    inspection: Report
    rows: int
    quarantined: int
    dataset: str
    dataset_hash: str
    draft: Draft


def keeping(table: pa.Table, contract: Contract) -> Inspection:
    """A table checked, of which at least one row keeps the contract; columns that it does not name do not matter.

    Raises
    ------
    ContractError : no row keeps the contract.
    """
    checked = check(table, msgspec.structs.replace(contract, unknown="ignore"))
    if checked.accepted.num_rows == 0:
        broken = [finding.why for finding in checked.report.worse_than(Verdict.PASS)]
        text = f"none of {table.num_rows} rows keeps the contract {contract.name!r}."
        raise ContractError(text, findings=broken, hint=broken[0] if broken else "")
    return checked


def prepare(project: Project, model: Model, table: pa.Table, *, actor: str, name: str = "") -> Prepared:
    """Check rows against the contract, store them as a dataset version, and join their features point in time.

    Raises
    ------
    ContractError : no row keeps the contract.
    DataError : the label or a column is missing.
    """
    import pyarrow.compute as pc

    if model.label not in table.column_names:
        raise DataError(f"the data has no column {model.label!r} to learn; it has {', '.join(table.column_names)}.")
    interface = model.interface()
    names = [field.name for field in interface.contract.fields]
    checked = keeping(table, interface.contract)
    accepted, quarantined = checked.accepted, checked.quarantined
    base = tuple(dict.fromkeys([*names, model.label]))
    accepted = accepted.select(list(base))
    stored = dataset.store(project.lake, name or model.name, accepted, quarantined=quarantined)
    label = f"{stored.name}@{stored.version}"
    if interface.time:
        latest = pc.max(accepted[interface.time]).as_py()
        project.learnt_until(latest)
        if interface.views:
            materialise_views(project, latest)
    return Prepared(
        table=with_features(project, interface, accepted),
        base=base,
        inspection=checked.report,
        rows=accepted.num_rows,
        quarantined=quarantined.num_rows,
        dataset=label,
        dataset_hash=stored.hash,
        draft=Draft(
            kind="dataset.recorded",
            subject=f"dataset:{label}",
            at=project.now().now(),
            actor=actor,
            why=f"{accepted.num_rows} rows kept the contract, {quarantined.num_rows} are in quarantine",
            payload={
                "model": model.name,
                "name": stored.name,
                "version": stored.version,
                "hash": stored.hash,
                "rows": accepted.num_rows,
                "quarantined": quarantined.num_rows,
                "contract": interface.contract.hash,
                "inspection": checked.report.to_text(),
            },
            key=f"dataset:{label}",
        ),
    )


def classes_of(model: Model, table: pa.Table) -> tuple[str, ...]:
    """The classes of a classifier: as declared, else those in the label column, sorted (numbers as numbers)."""
    if model.task == "regression" or model.classes:
        return model.classes
    found = {label_text(value) for value in table[model.label].drop_null().unique().to_pylist()}
    numeric = all(text.lstrip("-").isdigit() for text in found)
    return tuple(sorted(found, key=int) if numeric else sorted(found))


def score_with(predictor: Predictor, interface: Interface, table: pa.Table, like: Scored) -> Scored:
    """The rows of ``like`` as another model answers them; ``table`` holds that model's inputs for the same rows."""
    given = predictor.manifest.interface
    columns = table_columns(given.inputs, table)
    out = predictor.predict(columns)
    if given.task == "binary":
        p = np.asarray(out.score, dtype=np.float64)
        raw = np.stack([1 - p, p], axis=1)
    elif given.task == "multiclass":
        raw = in_order(interface, np.asarray(out.scores, dtype=np.float64), given.classes)
    else:
        raw = np.asarray(out.score, dtype=np.float64)
    return Scored(interface=interface, table=like.table, label=like.label, raw=raw, time=like.time)


def _champion(
    project: Project, model: Model, candidate: Scored, base: tuple[str, ...]
) -> tuple[Scored, str, Performance | None] | None:
    """The champion's answers on the candidate's held-out rows, with the champion's own features and transforms."""
    route = project.route(model.name)
    if route is None or not route["champion"]:
        return None
    folder = project.bundle_path(route["champion"])
    predictor = load(folder, project.settings.trust)
    own = predictor.manifest.interface
    rows = candidate.table.select([name for name in base if name in candidate.table.column_names])
    table = with_features(project, own, rows, bundle=folder)
    scored = score_with(predictor, candidate.interface, table, candidate)
    return scored, f"champion, version {route['champion_version']}", Performance.expected(predictor.manifest)


def judge_quality(project: Project, model: Model, candidate: Scored, base: tuple[str, ...], *, subject: str) -> Report:
    """Judge by the part of the gate that needs no bundle, against the champion: the cheap questions come first."""
    found = _champion(project, model, candidate, base)
    rival, rival_name, usual = found if found is not None else (None, "the baseline", None)
    gate = msgspec.structs.replace(model.gate, latency_ms=None, absent="any", compiled="any")
    return judge_candidate(
        gate, candidate, rival, usual=usual, subject=subject, rival_name=rival_name, at=project.now().now()
    )


def judge_by_gate(
    project: Project, model: Model, candidate: Scored, manifest: Manifest, bundle: str, base: tuple[str, ...],
    baseline: Scored | None, *, subject: str,
) -> Report:  # fmt: skip
    """Judge a bundled candidate by its model's gate, against the champion if there is one, else the baseline."""
    folder = project.artifacts.get(bundle)
    predictor = load(folder, project.settings.trust)
    found = _champion(project, model, candidate, base)
    rival, rival_name, usual = found if found is not None else (baseline, "the baseline", None)
    sample = candidate.table.slice(0, LATENCY_ROWS)
    columns = table_columns(manifest.interface.inputs, sample)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    gate = model.gate
    latency = checks.latency_of(predictor.predict, rows) if gate.latency_ms is not None else None
    absent = checks.missing_inputs(manifest.interface, predictor.predict, rows) if gate.absent == "answer" else None
    return judge_candidate(
        gate,
        candidate,
        rival,
        usual=usual,
        latency=latency,
        absent=absent,
        compiled=manifest.compiled,
        subject=subject,
        rival_name=rival_name,
        at=project.now().now(),
    )


def draft_of_version(
    project: Project,
    model: str,
    *,
    revision: str,
    bundle: str,
    run_id: str,
    dataset_label: str,
    metrics: dict[str, float],
    report: Report,
    actor: str,
    source: str,
    why: str = "",
) -> Draft:
    """The event that makes a bundle a version of its model, numbered next."""
    number = max((row["version"] for row in project.versions(model)), default=0) + 1
    return Draft(
        kind="version.registered",
        subject=f"model:{model}",
        at=project.now().now(),
        actor=actor,
        why=why or f"version {number} by {source}: gate {report.verdict.name}",
        payload={
            "model": model,
            "version": number,
            "revision": revision,
            "bundle": bundle,
            "run_id": run_id,
            "dataset": dataset_label,
            "metrics": metrics,
            "gate": msgspec.to_builtins(report),
            "source": source,
        },
        key=f"version:{model}:{revision}",
    )


def mirror_version(project: Project, draft: Draft) -> None:
    """Register the version with MLflow too; that it is away is no reason to lose a version."""
    try:
        project.registry.register(
            draft.payload["model"],
            draft.payload["version"],
            bundle=draft.payload["bundle"],
            run_id=draft.payload["run_id"],
            tags={"undrift.source": draft.payload["source"]},
        )
    except StateError as error:
        project.note(str(error))
