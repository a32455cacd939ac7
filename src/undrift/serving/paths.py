"""The table of paths: which handler answers which method at which path, and which bodies it takes.

A protocol adds its paths by a list of `Path`; the gateway joins the lists. What handlers do stands with them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

import httptools
import msgspec

from undrift.inference.endpoint import Call
from undrift.serving.connection import JSON, Reply

__all__ = ["Asked", "Found", "Handler", "Path", "Paths"]

REMEMBERED: Final = 4096
"""Targets whose handler is remembered."""


class Asked(msgspec.Struct, frozen=True):
    """What handlers see of a request: the parts of the path in braces, and the query as it was sent."""

    parts: Mapping[str, str]
    body: bytes
    call: Call
    headers: dict[bytes, bytes]
    query: bytes

    @property
    def name(self) -> str:
        """The part ``{name}`` of the path."""
        return self.parts.get("name", "")


Handler = Callable[[Asked], Awaitable[Reply]]


class Path(NamedTuple):
    """One line of the table.

    ``pattern``: a path with parts in braces, each of which stands for anything but a slash. ``label``: what metrics
    call it. ``types``: content types of the body, for POST. ``abandon``: whether the work may be dropped when the
    caller has hung up before the answer. ``direct``: whether the handler may begin outside of a task, because it has no
    use for the current one (as `asyncio.timeout` has) before it first waits for something.
    """

    method: str
    pattern: str
    handler: Handler
    label: str
    types: tuple[bytes, ...] = (JSON,)
    abandon: bool = False
    direct: bool = False


class Found(NamedTuple):
    """What is at a target: the line by method, and the parts of the path."""

    path: str
    by_method: dict[str, Path]
    parts: dict[str, str]
    query: bytes

    @property
    def allowed(self) -> str:
        """The methods, as the Allow header says them."""
        return ", ".join(sorted(self.by_method))


class Paths:
    """The table, compiled.

    Parameters
    ----------
    paths : all lines. GET answers HEAD too. Of two patterns that fit, the first is taken.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        grouped: dict[str, dict[str, Path]] = {}
        for path in paths:
            methods = grouped.setdefault(path.pattern, {})
            methods[path.method] = path
            if path.method == "GET":
                methods["HEAD"] = path
        self._patterns = [(re.compile(_expression(pattern)), methods) for pattern, methods in grouped.items()]
        self._known: dict[bytes, Found] = {}

    def find(self, target: bytes) -> Found:
        """What is at a request's target; ``by_method`` is empty where there is nothing."""
        known = self._known.get(target)
        if known is None:
            known = self._look(target)
            if len(self._known) < REMEMBERED and known.by_method and len(target) < 512:
                self._known[target] = known
        return known

    def _look(self, target: bytes) -> Found:
        try:
            url = httptools.parse_url(target)
            path = unquote((url.path or b"/").decode("ascii"), errors="strict")
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            return Found(repr(target)[2:-1], {}, {}, b"")
        for expression, methods in self._patterns:
            match = expression.fullmatch(path)
            if match is not None:
                return Found(path, methods, match.groupdict(), url.query or b"")
        return Found(path, {}, {}, b"")


def _expression(pattern: str) -> str:
    pieces = re.split(r"\{(\w+)\}", pattern)
    return "".join(f"(?P<{piece}>[^/]+)" if place % 2 else re.escape(piece) for place, piece in enumerate(pieces))
