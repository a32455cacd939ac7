"""The control API: who may ask, what each operation answers, what is refused with which status, and its description."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from undrift import releases
from undrift.app.api import PREFIX, application, openapi
from undrift.app.operations import OPERATIONS
from undrift.deploy.routes import running
from undrift.errors import SettingsError
from undrift.project import Project, open_project
from undrift.settings import Settings, UiSettings

from living import ME, Alive  # isort: skip
from town import DAY, LIVE, TRAINED_DAYS, Town  # isort: skip

SECRETS = {"ANN": "ann's secret of enough length", "BEN": "ben's secret of enough length"}
TOKENS = ("ann=env:ANN", "ben=env:BEN")
Ask = Callable[..., tuple[int, Any]]


def settings_of(project: Project, tokens: tuple[str, ...] = TOKENS) -> Settings:
    return msgspec.structs.replace(project.settings, ui=UiSettings(tokens=tokens))


def asking(project: Project) -> Ask:
    """Asks the application as Ann, or as somebody else."""
    app = application(settings_of(project), SECRETS)

    def ask(method: str, path: str, body: Any = None, *, who: str = "ANN", **query: str) -> tuple[int, Any]:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
                headers = {"authorization": f"Bearer {SECRETS[who]}"} if who else {}
                return await client.request(method, PREFIX + path, json=body, params=query, headers=headers)

        answer = asyncio.run(once())
        return answer.status_code, answer.json()

    return ask


def test_without_a_token_nobody_is_answered_and_no_api_begins(two: Project) -> None:
    with pytest.raises(SettingsError, match=r"ui\.tokens is empty"):
        application(settings_of(two, ()), SECRETS)
    with pytest.raises(SettingsError, match="fewer than 16 characters"):
        application(settings_of(two, ("ann=env:ANN",)), {"ANN": "short"})
    with pytest.raises(SettingsError, match="the same secret"):
        application(settings_of(two, ("ann=env:ANN", "ben=env:ANN")), SECRETS)
    with pytest.raises(SettingsError, match="is no token"):
        application(settings_of(two, ("env:ANN",)), SECRETS)
    ask = asking(two)
    status, told = ask("GET", "/status", who="")
    assert (status, told["error"]) == (401, "a bearer token of this project was expected.")
    app = application(settings_of(two), SECRETS)

    async def forged() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://control") as client:
            wrong = {"authorization": "Bearer " + SECRETS["ANN"][:-1]}
            return (await client.post(f"{PREFIX}/rollouts", json={}, headers=wrong)).status_code

    assert asyncio.run(forged()) == 401
    assert running(two.journal) == []


def test_a_rollout_is_started_spoken_to_and_ended_over_http_by_name(two: Project) -> None:
    ask = asking(two)
    status, state = ask("POST", "/rollouts", {"version": 2, "why": "release meeting"})
    assert (status, state["status"], state["asked_by"], state["warnings"]) == (200, "running", "person:ann", [])
    rollout = state["id"]
    assert ask("POST", f"/rollouts/{rollout}/pause", {"why": "lunch"}, who="BEN")[1]["status"] == "paused"
    assert ask("POST", f"/rollouts/{rollout}/resume")[1]["status"] == "running"
    status, refused = ask("POST", f"/rollouts/{rollout}/skip", {})
    assert (status, refused["error"]) == (409, "skipping a step needs a reason.")
    assert ask("POST", f"/rollouts/{rollout}/skip", {"why": "seen enough"})[1]["weight"] == 40.0
    assert ask("POST", f"/rollouts/{rollout}/approve", {})[0] == 409
    listed = ask("GET", "/rollouts", model="rides", status="running")[1]["rollouts"]
    assert [row["id"] for row in listed] == [rollout]
    assert ask("GET", "/rollouts", status="aborted")[1]["rollouts"] == []
    found = ask("GET", f"/rollouts/{rollout}")[1]
    assert (found["state"]["weight"], found["judged"]) == (40.0, None)
    event = ask("POST", "/models/rides/roll-back", {"why": "calls"}, who="BEN")[1]
    assert (event["kind"], event["actor"]) == ("rollout.rolled_back", "person:ben")
    status, refused = ask("POST", "/rollouts", {"version": 2})
    assert status == 409
    assert "taken back before: calls" in refused["error"]
    assert ask("POST", f"/rollouts/{rollout}/abort")[0] == 404, "no rollout is under way"
    events = ask("GET", "/history", subject=f"rollout:{rollout}")[1]["events"]
    assert [(e["kind"], e["actor"]) for e in events] == [
        ("rollout.started", "person:ann"),
        ("rollout.paused", "person:ben"),
        ("rollout.resumed", "person:ann"),
        ("rollout.skipped", "person:ann"),
        ("rollout.rolled_back", "person:ben"),
    ]
    back = ask("POST", "/rollouts", {"version": 2, "why": "it was the network"})[1]
    assert ask("POST", f"/rollouts/{back['id']}/abort")[1]["status"] == "aborted"


def test_what_is_wrong_is_told_with_its_place_and_its_status(two: Project) -> None:
    ask = asking(two)
    cases = [
        ("POST", "/rollouts", {"model": "nobody"}, {}, 404, "no model 'nobody' is declared"),
        ("POST", "/rollouts", {"version": 9}, {}, 404, "has no version 9"),
        ("POST", "/rollouts", {"versoin": 2}, {}, 400, "unknown field `versoin`"),
        ("POST", "/rollouts", {"version": "two"}, {}, 400, "Expected `int | null`"),
        ("POST", "/rollouts/none/pause", {}, {}, 404, "there is no rollout 'none'"),
        ("GET", "/history", None, {"limit": "-1"}, 400, "a whole number above 0"),
        ("GET", "/history", None, {"limti": "1"}, 400, "no such parameter"),
        ("GET", "/live", None, {"at": "soon"}, 400, "is no point in time"),
        ("GET", "/predictions/none", None, {}, 404, "no captured prediction"),
        ("POST", "/experiments/plan", {"metric": "brier", "effect": 0.1}, {}, 404, "a plan needs at least"),
        ("POST", "/experiments/plan", {"metric": "brier", "effect": -1}, {}, 422, "the effect must be above 0"),
        ("GET", "/models/rides/shadow-report", None, {}, 404, "answered nothing as champion"),
    ]
    for method, path, body, query, status, told in cases:
        seen, answer = ask(method, path, body, **query)
        assert seen == status, (path, answer)
        assert told in answer["error"], (path, answer)
    state = releases.roll_out(two, actor=ME)
    status, answer = ask("POST", f"/rollouts/{state.id}/replay", {"set": ["alhpa=1"]})
    assert (status, "a rollout has no 'alhpa'" in answer["error"]) == (422, True)


def test_history_replay_shadow_and_plan_answer_what_the_verbs_say(two: Project, alive: Alive) -> None:
    life = alive(two, Town(TRAINED_DAYS + 10))
    life.play()
    state = releases.roll_out(two, actor=ME)
    life.service.follow()
    life.play(3)
    ask = asking(two)
    judged = ask("GET", f"/rollouts/{state.id}")[1]
    assert judged["state"]["status"] == "running"
    assert judged["judged"]["evidence"]["verdict"] in ("PASS", "INCONCLUSIVE")
    again = ask("POST", f"/rollouts/{state.id}/replay")[1]
    assert (again["differs_at"], again["status"]) == (None, "running")
    longer = ask("POST", f"/rollouts/{state.id}/replay", {"set": ["hold=9d"]})[1]
    assert longer["differs_at"] is not None
    before = (LIVE + 0.5 * DAY).isoformat()
    ride = life.answered[-1]
    after = ask("GET", "/live", unit=ride["id"])[1]["models"]["rides"]
    assert (after["variant"], after["answered"]["id"]) == (ride["variant"], ride["id"])
    assert after["answered"]["revision"] == ride["revision"]
    then = ask("GET", "/live", at=before, unit=ride["id"])[1]["models"]["rides"]
    assert (then["version"], then["propensity"], then["answered"]) == (1, 1.0, None)
    assert ask("GET", f"/predictions/{ride['id']}")[1]["revision"] == ride["revision"]
    report = ask("GET", "/models/rides/shadow-report", version="2")[1]
    titles = [table["title"].split(" ")[0] for table in report["tables"]]
    assert titles == ["Disagreement", "Differences", "Answers", "By", "Cost", "Quality", "The"]
    plan = ask("POST", "/experiments/plan", {"metric": "brier", "effect": 0.05})[1]
    assert plan["units_a_day"] == pytest.approx(160, rel=0.05)
    assert plan["units"] > 0
    assert plan["rollout"] == state.id
    assert ask("GET", "/status")[1]["models"]["rides"]["champion"] == 1


def test_the_description_holds_every_operation_and_nothing_else(two: Project) -> None:
    document = openapi()
    described = {
        (method.upper(), path): operation
        for path, each in document["paths"].items()
        for method, operation in each.items()
    }
    assert set(described) == {(each.method, PREFIX + each.path) for each in OPERATIONS}
    for (_, path), operation in described.items():
        named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path))
        body = operation.get("requestBody")
        if body is not None:
            name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert document["components"]["schemas"][name]["type"] == "object"
    status, served = asking(two)("GET", "/openapi.json", who="")
    assert (status, served["openapi"]) == (200, "3.1.0")


def test_every_operation_is_on_its_page_of_the_reference() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/api.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(GET|POST) (/api/v1[^`]*)`", page))
    assert told == {(each.method, PREFIX + each.path) for each in OPERATIONS} | {("GET", f"{PREFIX}/openapi.json")}


def test_the_command_serves_it_until_it_is_told_to_end(two: Project) -> None:
    toml = two.root / "undrift.toml"
    toml.write_text(toml.read_text() + '\n[ui]\nport = 0\ntokens = ["ann=env:ANN"]\n')
    command = [sys.executable, "-m", "undrift.app.cli", "ui", "-C", str(two.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **SECRETS}) as child:
        assert child.stdout is not None
        told = child.stdout.readline()
        try:
            base = re.search(r"http://\S+/api/v1", told)
            assert base is not None, told
            headers = {"authorization": f"Bearer {SECRETS['ANN']}"}
            answer = httpx.get(f"{base[0]}/status", headers=headers, timeout=30)
            assert answer.json()["models"]["rides"]["champion"] == 1
            assert httpx.get(f"{base[0]}/status", timeout=30).status_code == 401
        finally:
            child.terminate()
        assert child.wait(30) == 0
    silent = subprocess.run([*command], capture_output=True, text=True, env={**os.environ, "ANN": "short"}, check=False)
    assert (silent.returncode, "fewer than 16 characters" in silent.stderr) == (2, True)
    with open_project(two.root) as again:
        assert running(again.journal) == []
