"""The shadow stage of a rollout: captured traffic with the candidate's own features, replayed apart, judged in pairs.

The rows are those the champion answered since the stage began; features are joined again, point in time, because the
candidate may look up others. The replay runs in a process of its own (deploy/shadow.py); the judge is deploy/paired.py.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from undrift.assembly import with_features
from undrift.data.outcomes import outcomes
from undrift.deploy.disagreement import disagreement
from undrift.deploy.paired import judge_shadow
from undrift.deploy.rollout import Exposure, RolloutState, start
from undrift.deploy.routes import running
from undrift.deploy.shadow import Replay, replay
from undrift.develop.rows import table_columns
from undrift.errors import NotFoundError
from undrift.finding import Finding, Measurement, Report, Verdict
from undrift.ids import duration
from undrift.project import Project

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["captured_inputs", "shadow_evidence", "shadow_report"]

LAST: Final = "7d"
MOST_ROWS: Final = 20_000


def captured_inputs(rows: pa.Table) -> pa.Table:
    """The request fields of captured predictions as a table of their own, in the same order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    inputs = rows["inputs"]
    columns: dict[str, Any] = {field.name: pc.struct_field(inputs, field.name) for field in inputs.type}
    return pa.table(columns)


def shadow_evidence(project: Project, state: RolloutState, now: datetime) -> tuple[Report, Exposure]:
    """Replay what the champion answered since the stage began, and judge both models on the same rows."""
    rows = _answered(project, state, now)
    if rows.num_rows == 0:
        seen = Measurement(name="replay", value=None, n=0, problem="no traffic")
        why = "nothing was answered since the stage began"
        nothing = Finding(verdict=Verdict.INCONCLUSIVE, why=why, measurement=seen)
        report = Report(title="Shadow", subject=state.subject, findings=(nothing,), at=now)
        return report, Exposure(step_units=0, total_units=0)
    interface = project.manifest(state.candidate).interface
    replayed = _replayed(project, state.candidate, rows)
    return judge_shadow(state.declared, state, interface, rows, replayed, now)


def shadow_report(
    project: Project,
    model: str = "",
    version: int | None = None,
    *,
    last: str = "",
    most: int = MOST_ROWS,
) -> Report:
    """Compare a version with the champion on captured traffic: both replayed apart, judged as in a shadow stage.

    Parameters
    ----------
    version : the candidate; that of the rollout under way, else the newest.
    last : how far back, as ``2d``; since the rollout under way began, else the last seven days.
    most : rows at most, the newest.

    Returns
    -------
    Report
        The findings of the declared guardrails that a replay can judge, and the tables of `disagreement`.

    Raises
    ------
    NotFoundError : no champion, no such version, or no captured traffic.
    """
    declared = project.model(model)
    name, now = declared.name, project.now().now()
    route = project.route(name)
    if route is None or not route["champion"]:
        raise NotFoundError(f"{name} has no champion to compare with.", hint=f"`undrift promote {name}` makes one.")
    under_way = next((state for state in running(project.journal) if state.model == name), None)
    if version is None and under_way is not None:
        version = under_way.candidate_version
    row = project.version(name, version)
    begin = now - duration(last or LAST)
    if not last and under_way is not None and under_way.candidate == row["revision"]:
        begin = under_way.started_at
    candidate, champion = (row["revision"], row["version"]), (route["champion"], route["champion_version"])
    state = start(declared.rollout, "shadow-report", name, candidate, champion, begin).state
    rows = _answered(project, state, now)
    if not rows.num_rows:
        raise NotFoundError(
            f"{name} answered nothing as champion between {begin:%Y-%m-%d %H:%M} and {now:%Y-%m-%d %H:%M} UTC.",
            hint="--last 30d looks further back.",
        )
    rows = rows.slice(max(0, rows.num_rows - most))
    old, new = (_replayed(project, revision, rows, timed=True) for revision in (champion[0], candidate[0]))
    interface = project.manifest(candidate[0]).interface
    report, _ = judge_shadow(declared.rollout, state, interface, rows, new, now)
    return msgspec.structs.replace(
        report,
        title=f"Shadow: version {candidate[1]} against champion {champion[1]}",
        subject=f"model:{name}",
        tables=disagreement(interface, rows, old, new),
        facts={**report.facts, "from": begin.isoformat(), "until": now.isoformat()},
    )


def _answered(project: Project, state: RolloutState, now: datetime) -> pa.Table:
    """What the champion answered since the stage began, with the outcomes known now."""
    import pyarrow.compute as pc

    rows = outcomes(project.lake, state.model, state.started_at, now, now)
    if rows.num_rows:
        rows = rows.filter(pc.and_(pc.equal(rows["revision"], state.champion), pc.is_null(rows["error"])))
    return rows


def _replayed(project: Project, revision: str, rows: pa.Table, *, timed: bool = False) -> Replay:
    """A revision's answers to captured rows, with its own features joined point in time."""
    folder = project.bundle_path(revision)
    interface = project.manifest(revision).interface
    full = with_features(project, interface, captured_inputs(rows), bundle=folder)
    return replay(folder, table_columns(interface.inputs, full), rows.num_rows, project.settings.trust, timed=timed)
