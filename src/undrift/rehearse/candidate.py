"""Candidates of a rehearsal: the champion's twin put into the declared rollout, or one that is really trained.

One that is trained learns from the stage's own captured rows by the retrain job of the worker, and meets the declared
gate; only if that lets it pass does it get traffic. What a scenario does to the lesson stands in the scenarios.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import msgspec

from undrift.deploy.metrics import Metric
from undrift.deploy.routes import running
from undrift.deploy.strategy import Guardrail, Rollout
from undrift.develop.bundle import MANIFEST_FILE, revision_id
from undrift.event import Draft
from undrift.finding import Verdict
from undrift.improve.triggers import Retrain
from undrift.rehearse.row import Sighting
from undrift.rehearse.scratch import ME
from undrift.rehearse.stage import Stage
from undrift.releases import start_rollout
from undrift.retrain import run_retrain

__all__ = ["CLEAN", "WORTH", "introduce", "refused_by_gate", "roll_out"]

WORTH: Final = "rehearsed_worth"
"""The business event of rehearsals, where the rollout looks at none of its own."""
CLEAN: Final = 5
"""Days after the lesson, whose rows are as ever: the newest rows, on which the gate compares.

Where requests have no time the gate holds rows out at random, so the lesson cannot be kept from it: there are no clean
days then, and it is the rollout that meets the world as it is.
"""


def introduce(stage: Stage, *, lesson: int, worth: bool) -> str:
    """Bring a candidate in: trained on so many days of a lesson where the model can be trained, else the twin.

    Returns why nothing could be trained and judged; empty where something was.

    Parameters
    ----------
    lesson : days in which the scenario's `lesson` acts; 0 for a candidate that is not trained.
    worth : whether the rollout is to look at what units are worth.
    """
    if not lesson or not stage.model.train:
        roll_out(stage, worth=worth)
        return ""
    clean = CLEAN if stage.interface.time else 0
    stage.teaching = True
    for _ in range(lesson):
        stage.play()
    stage.teaching = False
    for _ in range(clean):
        stage.play()
    stage.sent = stage.exposed = stage.violations = 0
    stage.trained = True
    _retrain(stage, lesson + clean, clean)
    ended = stage.events("retrain.finished")
    return ended[-1].why if ended and ended[-1].payload["gate"] is None else ""


def _retrain(stage: Stage, days: int, clean: int) -> None:
    """The retrain job of the worker on the days since the onset, the clean ones held out."""
    asked = stage.model.retrain or Retrain()
    fewest = min(asked.minimum_rows, days * stage.per_day // 2)
    declared = msgspec.structs.replace(
        stage.model,
        rollout=_without_shadow(stage.model.rollout),
        retrain=msgspec.structs.replace(
            asked,
            window=f"{days}d",
            fresh=f"{max(clean, 1)}d",
            minimum_rows=fewest,
        ),
    )
    payload: dict[str, Any] = {
        "model": declared.name,
        "declared": declared.declared(),
        "interface": msgspec.to_builtins(declared.interface()),
        "hash": declared.hash,
        "changes": [],
    }
    stage.project.journal.record(
        [
            Draft(
                kind="declaration.applied", subject=f"model:{declared.name}", at=stage.now, actor=ME, payload=payload,
                why="a retrain of the rehearsal's days",
            )
        ]
    )  # fmt: skip
    stage.project.follow()
    run_retrain(stage.project, declared.name, stage.now, why="a rehearsal asked for it")
    stage.project.publish_routes()
    stage.candidate = next((state.candidate for state in running(stage.project.journal)), "")


def refused_by_gate(stage: Stage) -> Sighting | None:
    """The gate's refusal of a candidate that was trained, if it failed; one that only could not be told is none."""
    for event in stage.events("retrain.finished"):
        findings = (event.payload["gate"] or {}).get("findings", ())
        if any(finding["verdict"] == Verdict.FAIL.value for finding in findings):
            return Sighting(at=event.at, by="the gate", what=event.why)
    return None


def _without_shadow(declared: Rollout) -> Rollout:
    return msgspec.structs.replace(declared, strategy="canary", shadow=None, approval=False)


def _with_worth(declared: Rollout) -> tuple[Rollout, str]:
    """The rollout, and the business event it looks at: its own where it has one, else that of rehearsals."""
    held = {guardrail.metric for guardrail in declared.guardrails}
    own = [name for metric in declared.metrics if metric.name in held for name in metric.events]
    if own:
        return declared, own[0]
    metric = Metric(name=WORTH, of=f"event:{WORTH}", window="1d", better="higher")
    guardrail = Guardrail(metric=WORTH, margin=0.05, relative=True, by_segment=False)
    return (
        msgspec.structs.replace(
            declared, metrics=(*declared.metrics, metric), guardrails=(*declared.guardrails, guardrail)
        ),
        WORTH,
    )


def roll_out(stage: Stage, *, worth: bool = False) -> str:
    """Put the champion's twin into the declared rollout (without its shadow stage); its revision."""
    project, name = stage.project, stage.model.name
    route = project.route(name)
    assert route is not None, "the copy was made with a champion"
    row = project.version(name, revision=route["champion"])
    folder = Path(project.settings.root) / "candidate"
    shutil.copytree(project.artifacts.get(row["bundle"]), folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    file = folder / MANIFEST_FILE
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest.setdefault("trained", {})["rehearsed"] = True
    file.write_text(json.dumps(manifest), encoding="utf-8")
    digest = project.artifacts.put(folder)
    shutil.rmtree(folder)
    revision = revision_id(digest)
    version = {k: v for k, v in row.items() if k not in ("at", "actor")}
    version |= {"version": row["version"] + 1, "revision": revision, "bundle": digest}
    registered = Draft(
        kind="version.registered", subject=f"model:{name}", at=stage.now, actor=ME, why="as in the project",
        payload=version,
    )  # fmt: skip
    project.journal.record([registered])
    rollout = _without_shadow(stage.model.rollout)
    if worth:
        rollout, stage.worth_event = _with_worth(rollout)
    declared = msgspec.structs.replace(stage.model, rollout=rollout)
    decision = start_rollout(project, declared, version, actor=ME, why="rehearsed", at=stage.now)
    project.journal.record(decision.drafts)
    stage.candidate = revision
    return revision
