"""Alerts to Slack, by an incoming webhook (https://api.slack.com/messaging/webhooks).

Slack has no key by which it would know a message again: a worker killed between Slack's answer and its own note of it
posts the message once more.
"""

from __future__ import annotations

from typing import Any, Final

from undrift.integrations.webhook import post
from undrift.monitor.notices import Notice
from undrift.settings import SinkSettings, given

__all__ = ["SlackSink"]

SIGNS: Final = {"opened": ":red_circle:", "updated": ":large_yellow_circle:", "resolved": ":large_green_circle:"}
LONGEST: Final = 2900
"""Characters of a section; Slack takes 3,000."""


class SlackSink:
    """A channel.

    Parameters
    ----------
    settings : ``url``, the webhook's address: a secret, so best a reference, ``env:SLACK_URL``.
    """

    def __init__(self, settings: SinkSettings) -> None:
        self.settings = settings

    def send(self, notice: Notice) -> None:
        """See `monitor.notices.Sink`."""
        post("slack", given(self.settings.url), message(notice), timeout=self.settings.timeout_seconds)


def message(notice: Notice) -> dict[str, Any]:
    """The message: one line for notifications, then blocks with what a person needs."""
    sign = SIGNS.get(notice.stage, ":large_blue_circle:")
    head = f"{sign} *{notice.stage}* {_plain(notice.model)}: {_plain(notice.title)}"
    facts = [
        f"severity {notice.severity}",
        f"since {notice.onset:%Y-%m-%d %H:%M} UTC",
        f"incident {notice.fingerprint}",
    ]
    facts += [f"owner {notice.owner}"] if notice.owner else []
    lines = [head, _plain(notice.text)] if notice.text != notice.title else [head]
    lines += [f"• {_plain(why)}" for _, why in notice.details[:5]]
    lines += [f"Runbook: {_plain(notice.runbook)}"] if notice.runbook else []
    lines += [f"<{notice.link}|open in undrift>"] if notice.link else []
    return {
        "text": f"{notice.stage}: {_plain(notice.model)}: {_plain(notice.title)}",
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": "\n".join(lines)[:LONGEST]}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": _plain(" · ".join(facts))}]},
        ],
    }


def _plain(text: str) -> str:
    """Text that Slack reads as text: its three control characters escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
