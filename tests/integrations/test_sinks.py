"""Every sink against a real receiver: the conformance suite, and what is particular to each."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from undrift.conformance import a_notice
from undrift.delivery import open_sink
from undrift.errors import DeliveryError, SettingsError
from undrift.integrations import alertmanager as alertmanager_module
from undrift.integrations import pagerduty, slack
from undrift.integrations.webhook import WebhookSink
from undrift.monitor.notices import Sink
from undrift.settings import SinkSettings
from undrift.testing import SinkConformance


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINK_KEY", "hush")


class _Http:
    """What was POSTed to an HTTP receiver, read by what a kind of sink sends."""

    def __init__(self, http: Any, title: Callable[[Any], str], ended: Callable[[Any], bool], key: Any) -> None:
        self.http, self._title, self._ended, self._key = http, title, ended, key

    def _held(self) -> list[Any]:
        bodies = zip(self.http.json(), (headers for _, headers, _ in self.http.posts), strict=True)
        return list({self._key(body, headers): body for body, headers in bodies}.values())

    def told(self) -> list[str]:
        return [self._title(body) for body in self._held()]

    def over(self) -> list[str]:
        return [self._title(body) for body in self._held() if self._ended(body)]

    def break_down(self) -> None:
        self.http.status, self.http.answer = 503, b"come back later"


# -- generic webhook ---------------------------------------------------------------------------------------------------


class TestWebhook(SinkConformance):
    @pytest.fixture
    def sink(self, http: Any) -> Sink:
        return open_sink(SinkSettings(kind="webhook", url=f"{http.url}/hook", secret="env:SINK_KEY"))

    @pytest.fixture
    def receiver(self, http: Any) -> Any:
        return _Http(
            http, lambda b: b["data"]["title"], lambda b: b["type"] == "incident.resolved", lambda b, h: h["webhook-id"]
        )


def test_a_webhook_is_signed_so_that_its_receiver_can_check_who_sent_it(http: Any) -> None:
    sink = WebhookSink(SinkSettings(kind="webhook", url=http.url, secret="env:SINK_KEY"), clock=lambda: 1614265330.0)
    sink.send(a_notice())
    _, headers, body = http.posts[0]
    signed = headers["webhook-id"].encode() + b".1614265330." + body
    wanted = base64.b64encode(hmac.new(b"hush", signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{wanted}"
    assert headers["webhook-timestamp"] == "1614265330"
    sink.send(a_notice())
    assert http.posts[1][1]["webhook-id"] == headers["webhook-id"] == a_notice().id


def test_a_redirect_is_refused_because_it_would_lose_the_body(http: Any) -> None:
    http.status = 302
    with pytest.raises(DeliveryError, match="302"):
        open_sink(SinkSettings(kind="webhook", url=http.url)).send(a_notice())


def test_a_webhook_without_an_http_address_is_refused() -> None:
    with pytest.raises(SettingsError, match="https://"):
        open_sink(SinkSettings(kind="webhook", url="file:///etc/passwd")).send(a_notice())


# -- Slack -------------------------------------------------------------------------------------------------------------


class TestSlack(SinkConformance):
    known_again = False

    @pytest.fixture
    def sink(self, http: Any, monkeypatch: pytest.MonkeyPatch) -> Sink:
        monkeypatch.setenv("SLACK_URL", f"{http.url}/services/hush")
        return open_sink(SinkSettings(kind="slack", url="env:SLACK_URL"))

    @pytest.fixture
    def receiver(self, http: Any) -> Any:
        def title(body: Any) -> str:
            plain = body["text"].split(": ", 2)[2]
            return str(plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))

        return _Http(http, title, lambda b: b["text"].startswith("resolved"), lambda b, h: id(b))


def test_a_slack_message_says_what_a_person_needs_and_stays_within_slacks_bounds() -> None:
    made = slack.message(a_notice(details=tuple(("all", "x" * 1000) for _ in range(9))))
    text = made["blocks"][0]["text"]["text"]
    assert len(text) <= 3000
    assert "Fahrenheit" in text
    facts = made["blocks"][1]["elements"][0]["text"]
    assert "severity high" in facts
    assert "owner operations" in facts


# -- PagerDuty ---------------------------------------------------------------------------------------------------------


class TestPagerDuty(SinkConformance):
    @pytest.fixture
    def sink(self, http: Any) -> Sink:
        http.status, http.answer = 202, b'{"status":"success","message":"Event processed","dedup_key":"k"}'
        return open_sink(SinkSettings(kind="pagerduty", url=f"{http.url}/v2/enqueue", secret="env:SINK_KEY"))

    @pytest.fixture
    def receiver(self, http: Any) -> Any:
        return _Http(
            http,
            lambda b: b["payload"]["summary"].removeprefix("flights: "),
            lambda b: b["event_action"] == "resolve",
            lambda b, h: b["dedup_key"],
        )


def test_a_pagerduty_event_has_what_the_events_api_asks_for() -> None:
    # https://developer.pagerduty.com/docs/send-alert-event: required fields, and the four severities
    event = pagerduty.event(a_notice(), "key")
    assert {"routing_key", "event_action", "dedup_key", "payload"} <= set(event)
    assert {"summary", "source", "severity"} <= set(event["payload"])
    assert event["event_action"] == "trigger"
    assert event["payload"]["severity"] == "error"
    assert pagerduty.event(a_notice(stage="acknowledged"), "key")["event_action"] == "acknowledge"
    assert len(pagerduty.event(a_notice(title="x" * 5000), "key")["payload"]["summary"]) == 1024
    levels = {pagerduty.event(a_notice(severity=s), "k")["payload"]["severity"] for s in ("critical", "low", "odd")}
    assert levels == {"critical", "info", "warning"}


def test_an_opening_that_comes_again_is_another_pagerduty_incident() -> None:
    first, again = a_notice(), a_notice(episode="2013-10-01T00:00:00+00:00")
    assert pagerduty.event(first, "k")["dedup_key"] != pagerduty.event(again, "k")["dedup_key"]


def test_an_answer_of_pagerduty_that_is_not_success_is_an_error(http: Any) -> None:
    http.status, http.answer = 202, b'{"status":"invalid event"}'
    with pytest.raises(DeliveryError, match="did not say success"):
        open_sink(SinkSettings(kind="pagerduty", url=http.url, secret="env:SINK_KEY")).send(a_notice())


def test_pagerduty_needs_a_key() -> None:
    with pytest.raises(SettingsError, match="integration key"):
        open_sink(SinkSettings(kind="pagerduty"))


# -- Alertmanager ------------------------------------------------------------------------------------------------------


class TestAlertmanager(SinkConformance):
    @pytest.fixture
    def sink(self, alertmanager: Any) -> Sink:
        return open_sink(SinkSettings(kind="alertmanager", url=alertmanager.url))

    @pytest.fixture
    def receiver(self, alertmanager: Any) -> Any:
        class Held:
            known: dict[str, str] = {}  # noqa: RUF012  one receiver, one test

            def _look(self) -> dict[str, str]:
                now = {a["fingerprint"]: a["annotations"]["summary"][len("flights: ") :] for a in alertmanager.alerts()}
                self.known = {**self.known, **now}
                return now

            def told(self) -> list[str]:
                return list(self._look().values())

            def over(self) -> list[str]:
                known = dict(self.known)
                now = self._look()
                return [title for fingerprint, title in known.items() if fingerprint not in now]

            def break_down(self) -> None:
                alertmanager.close()

        return Held()


def test_alertmanager_keeps_labels_it_can_route_by(alertmanager: Any) -> None:
    open_sink(SinkSettings(kind="alertmanager", url=alertmanager.url)).send(a_notice())
    held = alertmanager.alerts()[0]
    wanted = {"alertname": "undrift_feed", "model": "flights", "monitor": "feeds", "severity": "high"}
    assert wanted.items() <= held["labels"].items()
    assert held["annotations"]["runbook_url"] == "https://wiki.example.org/weather"
    assert held["status"]["state"] == "active"


def test_an_update_and_a_renewal_are_the_same_alert(alertmanager: Any) -> None:
    sink = open_sink(SinkSettings(kind="alertmanager", url=alertmanager.url))
    for stage, title in (("opened", "temp"), ("updated", "temp, dewp"), ("renewed", "temp, dewp")):
        sink.send(a_notice(stage=stage, title=title))
    assert [a["annotations"]["summary"] for a in alertmanager.alerts()] == ["flights: temp, dewp"]


def test_an_incident_of_replayed_time_to_come_is_taken(alertmanager: Any) -> None:
    from datetime import UTC, datetime

    later = datetime(2199, 1, 1, tzinfo=UTC)
    open_sink(SinkSettings(kind="alertmanager", url=alertmanager.url)).send(a_notice(onset=later, at=later))
    assert len(alertmanager.alerts()) == 1
    made = alertmanager_module.alert(a_notice(onset=later, stage="resolved"), datetime(2026, 1, 1, tzinfo=UTC))
    assert made["startsAt"] < made["endsAt"]


# -- e-mail ------------------------------------------------------------------------------------------------------------


class TestEmail(SinkConformance):
    @pytest.fixture
    def mail(self, smtp: Any) -> Any:
        return smtp()

    @pytest.fixture
    def sink(self, mail: Any, certificate: tuple[Path, Path]) -> Sink:
        return open_sink(
            SinkSettings(
                kind="email",
                url=f"smtp://127.0.0.1:{mail[1]}",
                sender="undrift@example.org",
                to=("ann@example.org",),
                user="undrift",
                secret="env:SINK_KEY",
                ca_file=str(certificate[0]),
            )
        )

    @pytest.fixture
    def receiver(self, mail: Any) -> Any:
        box = mail[0]

        class Inbox:
            def _titles(self) -> list[str]:
                return [m["Subject"] for m in {m["Message-ID"]: m for m in box.mails}.values()]

            def told(self) -> list[str]:
                return [subject.split(": ", 2)[2] for subject in self._titles()]

            def over(self) -> list[str]:
                return [s.split(": ", 2)[2] for s in self._titles() if "resolved" in s]

            def break_down(self) -> None:
                box.refuse = "451 try again later"

        return Inbox()


def _email(port: int, **more: Any) -> SinkSettings:
    return SinkSettings(
        kind="email", url=f"smtp://127.0.0.1:{port}", sender="undrift@example.org", to=("ann@example.org",), **more
    )


def test_a_mail_goes_by_tls_with_the_password_and_is_threaded(smtp: Any, certificate: tuple[Path, Path]) -> None:
    box, port = smtp()
    sink = open_sink(_email(port, user="undrift", secret="env:SINK_KEY", ca_file=str(certificate[0])))
    sink.send(a_notice())
    sink.send(a_notice(stage="resolved", id="f" * 32 + "-resolved"))
    assert box.secure == [True, True]
    assert box.logins == [(b"undrift", b"hush")] * 2
    first, last = box.mails
    assert first["References"] == last["References"]
    assert first["Message-ID"] != last["Message-ID"]
    assert "temp: 18.2 from 71 rows" in first.get_content()
    assert "runbook:   https://wiki.example.org/weather" in first.get_content()


def test_a_server_without_tls_gets_no_mail_unless_that_is_wanted(smtp: Any) -> None:
    box, port = smtp(tls=False)
    with pytest.raises(DeliveryError, match="STARTTLS"):
        open_sink(_email(port)).send(a_notice())
    assert box.mails == []
    open_sink(_email(port, tls="none")).send(a_notice())
    assert len(box.mails) == 1


def test_a_server_that_nobody_vouches_for_gets_no_mail(smtp: Any) -> None:
    box, port = smtp()
    with pytest.raises(DeliveryError, match="certificate verify failed"):
        open_sink(_email(port)).send(a_notice())
    assert box.mails == []


def test_a_wrong_password_is_told(smtp: Any, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINK_KEY", "wrong")
    _, port = smtp()
    with pytest.raises(DeliveryError, match="535"):
        open_sink(_email(port, user="undrift", secret="env:SINK_KEY", ca_file=str(certificate[0]))).send(a_notice())


def test_a_password_never_goes_in_the_clear() -> None:
    with pytest.raises(SettingsError, match="in the clear"):
        open_sink(_email(25, tls="none", secret="env:SINK_KEY"))


def test_a_title_with_a_line_break_makes_no_header(smtp: Any) -> None:
    box, port = smtp(tls=False)
    open_sink(_email(port, tls="none")).send(a_notice(title="x\r\nBcc: eve@example.org"))
    assert box.mails[0]["Bcc"] is None


# -- log ---------------------------------------------------------------------------------------------------------------


class TestLog(SinkConformance):
    can_refuse = False

    @pytest.fixture
    def sink(self) -> Sink:
        return open_sink(SinkSettings(kind="log"))

    @pytest.fixture
    def receiver(self, caplog: pytest.LogCaptureFixture) -> Any:
        class Lines:
            def _held(self) -> list[Any]:
                lines = [json.loads(r.getMessage()) for r in caplog.records if r.name == "undrift.alerts"]
                return list({line["id"]: line for line in lines}.values())

            def told(self) -> list[str]:
                return [line["title"] for line in self._held()]

            def over(self) -> list[str]:
                return [line["title"] for line in self._held() if line["stage"] == "resolved"]

            def break_down(self) -> None:
                """A logger refuses nothing."""

        return Lines()


def test_a_logged_notice_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    open_sink(SinkSettings(kind="log")).send(a_notice())
    assert [record.levelno for record in caplog.records if record.name == "undrift.alerts"] == [logging.WARNING]


def test_an_unknown_kind_of_sink_names_those_there_are() -> None:
    with pytest.raises(SettingsError) as caught:
        open_sink(SinkSettings(kind="pigeon"))
    assert "pagerduty" in str(caught.value)
