"""The shadow stage of a rollout: captured traffic with the candidate's own features, replayed apart, judged in pairs.

The rows are those the champion answered since the stage began; features are joined again, point in time, because the
candidate may look up others. The replay runs in a process of its own (deploy/shadow.py); the judge is deploy/paired.py.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from undrift.assembly import with_features
from undrift.data.outcomes import outcomes
from undrift.deploy.paired import judge_shadow
from undrift.deploy.rollout import Exposure, RolloutState
from undrift.deploy.shadow import replay
from undrift.develop.rows import table_columns
from undrift.finding import Finding, Measurement, Report, Verdict
from undrift.project import Project

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["captured_inputs", "shadow_evidence"]


def captured_inputs(rows: pa.Table) -> pa.Table:
    """The request fields of captured predictions as a table of their own, in the same order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    inputs = rows["inputs"]
    columns: dict[str, Any] = {field.name: pc.struct_field(inputs, field.name) for field in inputs.type}
    return pa.table(columns)


def shadow_evidence(project: Project, state: RolloutState, now: datetime) -> tuple[Report, Exposure]:
    """Replay what the champion answered since the stage began, and judge both models on the same rows."""
    import pyarrow.compute as pc

    rows = outcomes(project.lake, state.model, state.started_at, now, now)
    if rows.num_rows:
        rows = rows.filter(pc.and_(pc.equal(rows["revision"], state.champion), pc.is_null(rows["error"])))
    if rows.num_rows == 0:
        seen = Measurement(name="replay", value=None, n=0, problem="no traffic")
        why = "nothing was answered since the stage began"
        nothing = Finding(verdict=Verdict.INCONCLUSIVE, why=why, measurement=seen)
        report = Report(title="Shadow", subject=state.subject, findings=(nothing,), at=now)
        return report, Exposure(step_units=0, total_units=0)
    folder = project.bundle_path(state.candidate)
    interface = project.manifest(state.candidate).interface
    full = with_features(project, interface, captured_inputs(rows), bundle=folder)
    columns = table_columns(interface.inputs, full)
    replayed = replay(folder, columns, rows.num_rows, project.settings.trust)
    return judge_shadow(state.declared, state, interface, rows, replayed, now)
