"""One tick: features materialised, then for each model its monitors, its rollout and its retrain trigger judged.

All a model's decisions of a tick are recorded in one transaction with the event `tick.judged`, whose key is the tick:
a tick that runs again after a crash finds it and does nothing. What is judged stands in monitor/, deploy/ and improve/;
here the evidence is fetched and the decisions are written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from undrift.assembly import materialise_views, with_features
from undrift.data.outcomes import outcomes
from undrift.data.profile import Profile
from undrift.data.text import Vocabulary
from undrift.declarations import Model
from undrift.delivery import notices_for
from undrift.deploy.evidence import collect
from undrift.deploy.judge import judge_rollout
from undrift.deploy.rollout import Exposure, RolloutState, reconcile
from undrift.deploy.routes import running
from undrift.develop.bundle import Interface, read_manifest
from undrift.develop.importance import read_importance
from undrift.develop.packing import Reference as Profiles
from undrift.develop.performance import Performance
from undrift.errors import ConflictError, DataError
from undrift.event import Draft
from undrift.finding import Report
from undrift.ids import duration, to_micros
from undrift.improve.triggers import consider
from undrift.monitor.actions import take_back
from undrift.monitor.alerts import decide as decide_alerts
from undrift.monitor.alerts import open_incidents
from undrift.monitor.attribution import Influences
from undrift.monitor.cells import Reference, Slots, reference_from
from undrift.monitor.evidence import Expected, expectations
from undrift.monitor.influences import influences_of
from undrift.monitor.monitors import Monitor
from undrift.monitor.seasonal import seasonal_profiles
from undrift.monitor.skew import sampled
from undrift.monitor.texts import untold
from undrift.monitor.watch import LOOK_BACK, Scene, look_back, watch
from undrift.monitor.windows import WindowProfile, asked_for, history_of, keep_profiles, kept_profiles
from undrift.project import FEEDS, Project
from undrift.releases import freeze_of
from undrift.serving.health import Health, read_health
from undrift.serving.supervisor import serve_folder
from undrift.shadows import captured_inputs, shadow_evidence
from undrift.state.jobs import JobDraft

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["rollout_evidence", "run_tick", "scene_of"]

ATTEMPTS: Final = 3
RELEASES: Final = timedelta(days=30)


def run_tick(project: Project, boundary: datetime, tick: timedelta) -> list[str]:
    """Do one tick of all models; one line per thing worth telling.

    Raises
    ------
    ConflictError : people changed the same rollout again and again while it was judged.
    """
    materialise_views(project, boundary)
    project.journal.put_setting("materialised", to_micros(boundary))  # from here on requests find this tick's features
    lines: list[str] = []
    for name in sorted(project.declarations.models):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                lines += _judge_model(project, project.declarations.models[name], boundary, tick)
                break
            except ConflictError:
                if attempt == ATTEMPTS:
                    raise
    return lines


def _judge_model(project: Project, model: Model, now: datetime, tick: timedelta) -> list[str]:
    journal = project.journal
    key = f"tick:{model.name}:{now.isoformat()}"
    route = project.route(model.name)
    if route is None or not route["champion"] or journal.find(key) is not None:
        return []
    rollouts = [state for state in running(journal) if state.model == model.name]
    expect = {("route", model.name): journal.seq_of("route", model.name)}
    expect.update({("rollout", state.id): journal.seq_of("rollout", state.id) for state in rollouts})
    # read before the incidents themselves: what a person says meanwhile is then a conflict, and decided upon anew
    expect.update({("incident", each): journal.seq_of("incident", each) for each in journal.items("incident")})
    incidents = journal.items("incident")
    scene = scene_of(project, model, route, now, tick, workers=_workers(project, model, now, tick))
    report = watch(model.monitors, scene, incidents, now)
    drafts = list(decide_alerts(model.name, model.monitors, incidents, report, now, owner=model.owner))
    asked = notices_for(project, drafts, incidents)
    after = dict(incidents)
    after.update({d.payload["incident"]["fingerprint"]: d.payload["incident"] for d in drafts})
    taken_back = _take_back(project, model, route, rollouts, drafts, now)
    drafts += taken_back
    for state in [] if taken_back else rollouts:
        drafts += _judge_rollout(project, model, state, after, now)
    if model.retrain is not None:
        decision = consider(
            model.retrain,
            model.name,
            journal.get("retrain", model.name),
            after,
            under_way=bool(rollouts),  # one that ends now counts too: the next tick sees what came of it
            now=now,
        )
        drafts += decision.drafts
        if decision.wanted:
            asked.append(
                JobDraft(
                    kind="retrain",
                    key=f"retrain:{model.name}:{now.isoformat()}",
                    payload={"model": model.name, "at": now.isoformat(), "why": decision.why},
                )
            )
    judged = Draft(
        kind="tick.judged",
        subject=f"model:{model.name}",
        at=now,
        actor="work",
        why=f"{report.verdict.name}: {len(report.findings)} findings, {len(drafts)} decisions",
        payload={
            "model": model.name,
            "verdict": report.verdict.name,
            "monitors": _summary(report),
            "rows": scene.rows.num_rows,
        },
        key=key,
    )
    first, *others = journal.record([judged, *drafts], jobs=asked, expect=expect)
    new = [event for event in others if event.seq > first.seq]  # the rest was decided at an earlier tick already
    if any(event.kind.startswith(("rollout.", "revision.")) and event.kind != "rollout.judged" for event in new):
        project.publish_routes()  # at once: the next model may take long to judge
    for event in new:
        if event.kind == "rollout.succeeded":
            project.mirror_champion(model.name, event.payload["state"]["candidate_version"])
    return [f"{now:%Y-%m-%d %H:%M} {event.kind}: {event.why}" for event in new if event.kind != "rollout.judged"]


def _take_back(
    project: Project,
    model: Model,
    route: dict[str, Any],
    rollouts: list[RolloutState],
    drafts: list[Draft],
    now: datetime,
) -> tuple[Draft, ...]:
    """The roll-back that an incident which opened now asks for, if a release may be its cause."""
    if not any("roll_back" in d.payload["incident"]["actions"] for d in drafts if d.kind == "alert.opened"):
        return ()
    took_over = project.journal.events(kinds=("revision.promoted", "rollout.succeeded"))
    since = [e.at for e in took_over if e.payload.get("model") == model.name]
    before = [name for name in route["previous"] if name not in route.get("withdrawn", {})]
    former = project.version(model.name, revision=before[0]) if before else None
    champion = {"revision": route["champion"], "since": since[-1] if since else None}
    return take_back(model.name, drafts, rollouts, champion, former, now)


def _summary(report: Report) -> dict[str, str]:
    """The worst verdict of each monitor."""
    worst: dict[str, Any] = {}
    for finding in report.findings:
        name = str(finding.measurement.detail.get("monitor", ""))
        worst[name] = max(worst.get(name, finding.verdict), finding.verdict)
    return {name: verdict.name for name, verdict in sorted(worst.items())}


# -- the scene: what a tick sees of one model ---------------------------------------------------------------------


def _workers(project: Project, model: Model, now: datetime, tick: timedelta) -> Sequence[Health]:
    """What the running workers told of themselves, if a monitor that is due looks at it."""
    if not any(monitor.kind in ("golden", "service") and monitor.due(now, tick) for monitor in model.monitors):
        return ()
    return read_health(serve_folder(project.settings), datetime.now(UTC))


def scene_of(
    project: Project,
    model: Model,
    route: dict[str, Any],
    now: datetime,
    tick: timedelta,
    *,
    workers: Sequence[Health] = (),
) -> Scene:
    """What a tick sees of one model: rows as known then, the sources it watches, what its champion promised."""
    champion = route["champion"]
    manifest = project.manifest(champion)
    due = [monitor for monitor in model.monitors if monitor.due(now, tick)]
    start = now - look_back(due, tick, duration(model.maturity))
    rows = outcomes(project.lake, model.name, start, now, now)
    folder = str(project.bundle_path(champion))
    reference, expected = _expectations(folder)
    sources: dict[str, tuple[Any, pa.Table]] = {}
    if any(monitor.kind == "feed" for monitor in due):
        wanted = {view.source for view in model.views} | {m.source for m in due if m.source}
        for name in sorted(wanted & set(project.declarations.sources)):
            where = [("date", ">=", (now - LOOK_BACK).date()), ("date", "<=", now.date())]
            found = project.lake.scan(f"source_{name}", where=where)
            if found is not None:
                sources[name] = (project.declarations.sources[name], found)
    history: dict[str, Slots] = {}
    seasonal: dict[str, list[WindowProfile]] = {}
    asked = asked_for(model.monitors, tick)
    if asked is not None and asked_for(due, tick) is not None:
        begin, words = now - asked.span, _words(folder)
        keep_profiles(
            project.lake, manifest.interface, rows, _edges(folder), begin, now, segments=asked.segments, texts=words
        )
        if asked.reach:
            kept = kept_profiles(project.lake, model.name, now - asked.reach, now)
            history = history_of(kept, reference, route["champion_version"])
        seasonal = seasonal_profiles(project.lake, model.name, due, now, tick)
    return Scene(
        interface=manifest.interface,
        rows=rows,
        version=route["champion_version"],
        sources=sources,
        reference=reference,
        expected=expected,
        changes=_releases(project, model.name, now),
        importance=_importance(str(project.bundle_path(champion))),
        tick=tick,
        history=history,
        vocabularies=_words(folder),
        untold=untold(_words(folder), reference) if any(m.kind == "drift" for m in due) else {},
        seasonal=seasonal,
        influences=_influences(project, due, manifest.interface, champion, rows, now, tick),
        leans_on=read_importance(Path(folder)) if any(m.kind == "attribution" for m in due) else None,
        workers=workers,
        maturity=duration(model.maturity),
        features=_twice(project, model, manifest.interface, champion, rows, now),
    )


def _influences(
    project: Project, due: Sequence[Monitor], interface: Interface, champion: str, rows: pa.Table, now: datetime,
    tick: timedelta,
) -> dict[str, Influences]:  # fmt: skip
    """What the champion's answers rest on, for the monitors of attributions that are due."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = {}
    for monitor in (m for m in due if m.kind == "attribution"):
        start = now - monitor.span - (monitor.lasting.n - 1) * monitor.every(tick)
        since = pc.greater_equal(rows["event_time"], pa.scalar(start, rows["event_time"].type))
        mine = rows.filter(pc.and_(pc.equal(rows["revision"], champion), since))
        folder, trust = project.bundle_path(champion), project.settings.trust
        found[monitor.name] = influences_of(
            folder, interface, trust, mine, most=monitor.sample, seconds=monitor.seconds
        )
    return found


def _twice(
    project: Project, model: Model, interface: Interface, champion: str, rows: pa.Table, now: datetime
) -> tuple[pa.Table, pa.Table] | None:
    """A sample of the champion's requests with the features as they were served, and as they are computed offline."""
    import pyarrow as pa
    import pyarrow.compute as pc

    asking = [monitor for monitor in model.monitors if monitor.kind == "skew"]
    if not asking or "features" not in rows.column_names or (interface.views and not interface.time):
        return None
    start = now - max(monitor.span for monitor in asking)
    since = pc.greater_equal(rows["event_time"], pa.scalar(start, rows["event_time"].type))
    mine = rows.filter(pc.and_(pc.equal(rows["revision"], champion), since))
    mine = mine.take(pa.array(sampled(mine["prediction_id"].to_pylist())))
    if not mine.num_rows:
        return None
    served = pa.table({f.name: pc.struct_field(mine["features"], f.name) for f in mine["features"].type})
    try:
        full = with_features(project, interface, captured_inputs(mine), bundle=project.bundle_path(champion))
    except DataError:  # a view without rows: nothing can be computed again, and the monitor says so
        return None
    return served, full.select([name for name in served.column_names if name in full.column_names])


@lru_cache(maxsize=8)
def _words(folder: str) -> dict[str, Vocabulary]:
    """The vocabularies of a bundle's free text."""
    return Profiles.read(Path(folder)).vocabularies


@lru_cache(maxsize=8)
def _edges(folder: str) -> Profile:
    """The reference profile on whose edges later ones are made."""
    profiles = Profiles.read(Path(folder))
    return Profile(n=0, columns={**profiles.inputs.columns, **profiles.outcomes.columns})


def _releases(project: Project, model: str, now: datetime) -> list[tuple[datetime, str]]:
    """What changed in the last weeks: versions with the data they learnt from, declarations, feeds."""
    kinds = ("revision.promoted", "rollout.succeeded", "declaration.applied")
    learnt = {row["revision"]: row for row in project.versions(model)}
    found = []
    for event in project.journal.events(kinds=kinds, until=now):
        if event.at < now - RELEASES or (event.payload.get("model") != model and event.subject != FEEDS):
            continue
        revision = event.payload.get("revision") or event.payload.get("state", {}).get("candidate", "")
        row = learnt.get(revision)
        told = f"version {row['version']} since {event.at:%Y-%m-%d}" if row else f"declared {event.at:%Y-%m-%d}"
        data = f", learnt from {row['dataset']}" if row and row["dataset"] else ""
        found.append((event.at, f"{told}{data} ({event.why})"))
    return found


@lru_cache(maxsize=8)
def _importance(folder: str) -> dict[str, float] | None:
    """How much the answers of a bundle depend on each column; None for bundles that do not tell."""
    known = read_importance(Path(folder))
    return None if known is None else dict(known.values)


@lru_cache(maxsize=8)
def _expectations(folder: str) -> tuple[dict[str, Reference], dict[str, Expected]]:
    """What a bundle says of its inputs and outcomes in training, and of its losses on the held-out rows."""
    profiles = Profiles.read(Path(folder))
    columns = {**profiles.inputs.columns, **profiles.outcomes.columns}
    manifest = read_manifest(Path(folder), verify=False)
    for name in (
        "prediction",
        *manifest.interface.personal,
        *manifest.interface.texts,
    ):  # what is personal is not captured: nothing to compare
        columns.pop(name, None)
    reference = {name: reference_from(column) for name, column in columns.items()}
    performance = Performance.expected(manifest)
    return reference, expectations(performance) if performance is not None else {}


# -- the rollout under way ----------------------------------------------------------------------------------------


def _judge_rollout(
    project: Project, model: Model, state: RolloutState, incidents: dict[str, Any], now: datetime
) -> tuple[Draft, ...]:
    report, exposure = rollout_evidence(project, state, now, project.routing_path.parent / "tallies")
    frozen = next((str(i["title"]) for i in open_incidents(incidents, state.model) if "freeze" in i["actions"]), "")
    frozen = frozen or freeze_of(model, state.declared, now)
    return reconcile(state.declared, state, report, exposure, now, frozen=frozen).drafts


def rollout_evidence(
    project: Project, state: RolloutState, now: datetime, keep: Path | None = None
) -> tuple[Report, Exposure]:
    """What the captured traffic says of a rollout at a moment, judged by its declaration; a replay asks the same.

    Parameters
    ----------
    keep : where the tally is kept from tick to tick; a replay keeps none, so that it changes nothing.
    """
    if state.stage == "shadow":
        return shadow_evidence(project, state, now)
    evidence = collect(project.lake, project.manifest(state.candidate).interface, state, now, keep)
    return judge_rollout(state, evidence, now), evidence.exposure
