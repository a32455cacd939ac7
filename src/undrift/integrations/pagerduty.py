"""Alerts to PagerDuty, by its Events API v2 (https://developer.pagerduty.com/docs/events-api-v2-overview).

``dedup_key`` names one opening of an incident, so what is sent twice is one PagerDuty incident, and its end resolves
that one.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from undrift.errors import DeliveryError, SettingsError
from undrift.integrations.webhook import post
from undrift.monitor.notices import Notice
from undrift.settings import SinkSettings, given, secret

__all__ = ["PagerDutySink"]

URL: Final = "https://events.pagerduty.com/v2/enqueue"
ACTIONS: Final = {"resolved": "resolve", "acknowledged": "acknowledge"}
SEVERITIES: Final = {"critical": "critical", "high": "error", "medium": "warning", "low": "info"}
LONGEST: Final = 1024
"""Characters of a summary."""


class PagerDutySink:
    """A service.

    Parameters
    ----------
    settings : ``secret``, a reference to the integration key (routing key); ``url`` for another region.
    """

    def __init__(self, settings: SinkSettings) -> None:
        if not settings.secret:
            raise SettingsError("a sink of kind 'pagerduty' needs a `secret`: a reference to its integration key.")
        self.settings = settings

    def send(self, notice: Notice) -> None:
        """See `monitor.notices.Sink`."""
        url = given(self.settings.url) or URL
        answer = post(
            "pagerduty", url, event(notice, secret(self.settings.secret)), timeout=self.settings.timeout_seconds
        )
        try:
            status = msgspec.json.decode(answer).get("status")
        except (msgspec.DecodeError, AttributeError):
            status = None
        if status != "success":
            raise DeliveryError(f"pagerduty did not say success: {answer[:200].decode(errors='replace')}")


def event(notice: Notice, routing_key: str) -> dict[str, Any]:
    """The event as PagerDuty's reference has it."""
    sent: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": ACTIONS.get(notice.stage, "trigger"),
        "dedup_key": notice.key[:255],
        "client": "undrift",
        "payload": {
            "summary": f"{notice.model}: {notice.title}"[:LONGEST],
            "source": f"undrift/{notice.model}",
            "severity": SEVERITIES.get(notice.severity, "warning"),
            "timestamp": notice.onset.isoformat(),
            "component": notice.model,
            "group": notice.monitor,
            "class": notice.kind,
            "custom_details": {
                "what": notice.text,
                "evidence": [why for _, why in notice.details],
                "columns": list(notice.columns),
                "segments": list(notice.segments),
                "owner": notice.owner,
                "runbook": notice.runbook,
            },
        },
    }
    links = [{"href": notice.link, "text": "open in undrift"}] if notice.link else []
    if notice.runbook.startswith(("http://", "https://")):
        links.append({"href": notice.runbook, "text": "runbook"})
    if links:
        sent["links"] = links
    return sent
