"""What can be asked of the control API: one row an operation, with what it reads of a request and the verb it calls.

Nothing is decided here, and nothing of HTTP stands here but methods and paths: who may ask, bodies and statuses are the
business of api.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from undrift import experiments, inquiry, releases, shadows
from undrift.app import render
from undrift.app.terminal import moment
from undrift.deploy.routes import rollout_of
from undrift.errors import NotFoundError, RequestError, SettingsError
from undrift.project import Project

__all__ = ["OPERATIONS", "Ask", "Operation"]

Text = Annotated[str, msgspec.Meta(max_length=2000)]


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start the declared rollout of a version (the newest if left out)."""

    model: str = ""
    version: int | None = None
    why: Text = ""


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reason, kept with the event."""

    why: Text = ""


class Back(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Take a release back; ``to`` is a version or a revision."""

    to: int | str | None = None
    why: Text = ""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another rule for a replay: values of the declaration as ``path=value``."""

    set: list[str] = []


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The effect that an experiment is to find, in the metric's unit."""

    metric: str
    effect: float
    model: str = ""
    power: float = 0.8


class Ask(NamedTuple):
    """What an operation sees of a request."""

    actor: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any


class Operation(NamedTuple):
    """One operation: how it is asked for, what it reads and what it calls. ``query`` says what each parameter is."""

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    call: Callable[[Project, Ask], Any]
    body: type | None = None
    query: Mapping[str, str] = {}


# -- the operations -------------------------------------------------------------------------------------------------


def _model(project: Project, name: str) -> str:
    known = project.declarations.models
    if name and name not in known:
        raise NotFoundError(f"no model {name[:100]!r} is declared; declared: {', '.join(sorted(known)) or 'none'}.")
    return project.model(name).name


def _rollouts(project: Project, ask: Ask) -> Any:
    rows = [{**row, "id": key} for key, row in project.journal.items("rollout").items()]
    wanted = {name: ask.query[name] for name in ("model", "status") if ask.query.get(name)}
    return {"rollouts": [row for row in rows if all(row[name] == value for name, value in wanted.items())]}


def _rollout(project: Project, ask: Ask) -> Any:
    return inquiry.judgement(project, ask.path["rollout"])


def _start(project: Project, ask: Ask) -> Any:
    name = _model(project, ask.body.model)
    state = releases.roll_out(project, name, ask.body.version, actor=ask.actor, why=ask.body.why)
    return {**msgspec.to_builtins(state), "warnings": experiments.outlook(project, name)}


def _saying(word: str) -> Callable[[Project, Ask], Any]:
    def call(project: Project, ask: Ask) -> Any:
        state = rollout_of(project.journal, ask.path["rollout"])
        return releases.say(
            project, word, state.model, actor=ask.actor, why=ask.body.why, rollout_id=ask.path["rollout"]
        )

    return call


def _roll_back(project: Project, ask: Ask) -> Any:
    name = _model(project, ask.path["model"])
    return releases.roll_back(project, name, to=ask.body.to, actor=ask.actor, why=ask.body.why)


def _replay(project: Project, ask: Ask) -> Any:
    return inquiry.replay(project, ask.path["rollout"], settings=ask.body.set)


def _shadow(project: Project, ask: Ask) -> Any:
    found = shadows.shadow_report(project, _model(project, ask.path["model"]), _number(ask, "version"))
    return render.plain_report(found)


def _status(project: Project, ask: Ask) -> Any:
    return inquiry.status(project)


def _history(project: Project, ask: Ask) -> Any:
    kinds = tuple(part for part in ask.query.get("kind", "").split(",") if part)
    limit = _number(ask, "limit") or 100
    return {"events": inquiry.history(project, subject=ask.query.get("subject", ""), kinds=kinds, limit=limit)}


def _live(project: Project, ask: Ask) -> Any:
    now = project.now().now()
    at = _time(ask, now)
    if ask.query.get("unit"):
        return {"at": at, "models": inquiry.served(project, at, ask.query["unit"])}
    return {"at": at, "models": inquiry.live_at(project, at)}


def _why(project: Project, ask: Ask) -> Any:
    return inquiry.why(project, ask.path["id"])


def _plan(project: Project, ask: Ask) -> Any:
    name = _model(project, ask.body.model)
    return experiments.plan_experiment(project, name, ask.body.metric, ask.body.effect, power=ask.body.power)


def _number(ask: Ask, name: str) -> int | None:
    text = ask.query.get(name, "")
    if text and not (text.isdigit() and 0 < int(text) < 1_000_000):
        raise RequestError(f"a whole number above 0 was expected, not {text[:50]!r}", path=f"?{name}")
    return int(text) if text else None


def _time(ask: Ask, now: datetime) -> datetime:
    text = ask.query.get("at", "")
    try:
        return moment(text, now=now) if text else now
    except SettingsError as error:
        raise RequestError(error.message, path="?at", hint=error.hint) from error


_AT: Final = {"at": "ISO 8601 (UTC where no offset is written), or a span as 2h for ago; now if left out"}

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation("GET", "/status", "status", "Where everything stands.", _status),
    Operation(
        "GET", "/rollouts", "listRollouts", "All rollouts, the oldest first.", _rollouts,
        query={"model": "only of this model", "status": "only in this status"},
    ),
    Operation("POST", "/rollouts", "startRollout", "Start the declared rollout of a version.", _start, Start),
    Operation(
        "GET", "/rollouts/{rollout}", "getRollout", "Where a rollout stands and how it was judged last.", _rollout
    ),
    Operation("POST", "/rollouts/{rollout}/approve", "approveRollout", "Approve it.", _saying("approve"), Said),
    Operation("POST", "/rollouts/{rollout}/pause", "pauseRollout", "Hold it where it is.", _saying("pause"), Said),
    Operation("POST", "/rollouts/{rollout}/resume", "resumeRollout", "Let it go on.", _saying("resume"), Said),
    Operation("POST", "/rollouts/{rollout}/skip", "skipStep", "Go to its next step now.", _saying("skip"), Said),
    Operation("POST", "/rollouts/{rollout}/abort", "abortRollout", "End it.", _saying("abort"), Said),
    Operation("POST", "/rollouts/{rollout}/replay", "replayRollout", "Judge it again from its log.", _replay, Rule),
    Operation("POST", "/models/{model}/roll-back", "rollBack", "Take a release back.", _roll_back, Back),
    Operation(
        "GET", "/models/{model}/shadow-report", "shadowReport", "A version against the champion on captured traffic.",
        _shadow, query={"version": "which version; the newest if left out"},
    ),
    Operation(
        "GET", "/history", "history", "Who did what, when and why.", _history,
        query={"subject": "a model, or rollout:ID", "kind": "kinds of events, with commas", "limit": "how many"},
    ),
    Operation(
        "GET", "/live", "liveAt", "What answered at a past moment, and whom.", _live,
        query={**_AT, "unit": "what served this unit"},
    ),
    Operation("GET", "/predictions/{id}", "explainPrediction", "Which revision answered, from what.", _why),
    Operation("POST", "/experiments/plan", "planExperiment", "Units and days until an effect is found.", _plan, Plan),
)  # fmt: skip
