"""What a real Prometheus makes of a real server, of the alert rules and of the dashboard."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from servers import Routed, Serve, flights  # isort: skip

FOLDER = Path(__file__).parents[2] / "observability"
RULES = FOLDER / "prometheus/alerts.yml"


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "grafana/undrift.json").read_text(encoding="utf-8"))
    return found


def expressions() -> list[str]:
    """All queries of the dashboard, its variables filled in."""
    found = dashboard()
    asked = [target["expr"] for panel in found["panels"] for target in panel.get("targets", [])]
    asked += [each["expr"] for each in found["annotations"]["list"]]
    for name in ("job", "instance", "model"):
        asked = [text.replace(f"${name}", ".*") for text in asked]
    return [text.replace("$__rate_interval", "1m") for text in asked]


@pytest.mark.parametrize(
    "command",
    [["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]],
)
def test_promtool_finds_no_fault_with_the_rules(command: list[str]) -> None:
    done = subprocess.run(["promtool", *command], cwd=RULES.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_is_tested_to_fire_and_documented() -> None:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    alerts = {rule["alert"] for rule in group["rules"]}
    tests = yaml.safe_load((RULES.parent / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == alerts
    page = (FOLDER.parent / "docs/how-to/watch-with-prometheus.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(Undrift\w+)`", page)) == alerts
    assert {rule["labels"]["severity"] for rule in group["rules"]} == {"critical", "warning"}


def test_the_dashboard_is_whole() -> None:
    found = dashboard()
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    shown = [panel for panel in found["panels"] if panel["type"] != "row"]
    assert all(panel["title"] and panel["targets"] for panel in shown)
    places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in found["panels"]}
    assert len(places) == len(ids)
    assert {each["name"] for each in found["templating"]["list"]} == {"datasource", "job", "instance", "model"}


class Prometheus:
    """A real one that scrapes one server every second."""

    def __init__(self, folder: Path, target: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": "undrift", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]},
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._log = (folder / "prometheus.log").open("wb")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=self._log, stderr=self._log,
        )  # fmt: skip
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=20)

    def get(self, path: str, **asked: str) -> Any:
        try:
            answer = self.client.get(path, params=asked)
        except httpx.TransportError:
            return {}
        return answer.json() if answer.headers.get("content-type") == "application/json" else {}

    def value(self, query: str) -> float:
        """The sum of what a query finds; 0 before there is anything."""
        found = self.get("/query", query=query).get("data", {}).get("result", [])
        return sum(float(each["value"][1]) for each in found)

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(30)
        self._log.close()


@pytest.fixture
def prometheus(serve: Serve, routed: Routed, tmp_path: Path) -> Iterator[Any]:
    server = serve(routed("r-one", "r-two", 30.0), settings="workers = 2")
    found = Prometheus(tmp_path, server.port)
    yield server, found
    found.stop()


def test_prometheus_scrapes_a_server_and_answers_the_dashboard(prometheus: Any) -> None:
    server, scraper = prometheus
    for n in range(20):
        assert server.predict(flights(5, 5 * n)).status_code == 200
    until = time.monotonic() + 60
    while scraper.value("sum(undrift_predictions_total)") < 100 and time.monotonic() < until:
        time.sleep(0.2)
    # both workers' rows, each counted once, whoever was scraped
    assert scraper.value("sum(undrift_predictions_total)") == 100
    assert scraper.value('up{job="undrift"}') == 1
    assert scraper.value("count(count by (variant) (undrift_predictions_total))") == 2
    for expression in expressions():
        answer = scraper.get("/query", query=expression)
        assert answer.get("status") == "success", (expression, answer)
    rules = [rule for group in scraper.get("/rules")["data"]["groups"] for rule in group["rules"]]
    assert len(rules) == 12
    assert {rule["state"] for rule in rules} <= {"inactive"}, rules
    assert not [rule for rule in rules if rule.get("lastError")]


def test_every_metric_the_rules_and_the_dashboard_ask_for_is_served(serve: Serve, routed: Routed) -> None:
    server = serve(routed("r-one"))
    server.predict([{**flights(1)[0], "distance": 5000.0}])
    served = set(re.findall(r"^# TYPE (\S+)", server.client.get("/metrics").text, re.M))
    asked = {name for text in (*expressions(), RULES.read_text()) for name in re.findall(r"undrift_[a-z0-9_]+", text)}
    stems = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    assert stems - served == set()
