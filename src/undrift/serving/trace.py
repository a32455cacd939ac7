"""W3C trace context: taken from a request, given to its answer and records, and sampled spans made of it.

Spans are made after the answer, of times that were measured anyway, and only for requests that are sampled: by the
caller's flag, or by chance where a request begins its own trace. What sends them stands in spans.py (extra `otel`).
Source: W3C Recommendation "Trace Context", https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final, NamedTuple, Protocol

from undrift.plugins import resolve_path
from undrift.settings import ObserveSettings

__all__ = ["NO_TRACE", "Span", "Spans", "Trace", "Tracing", "parse", "within"]

_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE: Final = re.compile(rb"[\x20-\x7e]{0,512}")


class Trace(NamedTuple):
    """The trace of one request.

    ``parent`` is the caller's span ('' if the trace begins here), ``span`` ours; all as lower-case hexadecimal digits.
    ``flags`` are as the caller sent them, with the lowest bit set where the request is sampled.
    """

    trace_id: str
    parent: str
    span: str
    flags: int
    state: bytes = b""

    @property
    def sampled(self) -> bool:
        """Whether its spans are wanted."""
        return bool(self.flags & 1)

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What the answer carries, and what a call on its behalf should."""
        if not self.trace_id:
            return ()
        found = (b"traceparent", f"00-{self.trace_id}-{self.span}-{self.flags:02x}".encode())
        return (found, (b"tracestate", self.state)) if self.state else (found,)


NO_TRACE: Final = Trace("", "", "", 0)


class Span(NamedTuple):
    """One span; times in nanoseconds since 1970."""

    name: str
    begin: int
    end: int
    attributes: Mapping[str, Any]
    failed: bool = False


def within(stages: Sequence[tuple[str, str, float, float]], started: float, begin: int) -> list[Span]:
    """The spans inside a request's: what it went through, by readings of the clock that ``started`` was read from.

    Parameters
    ----------
    begin : nanoseconds since 1970 at ``started``.
    """
    return [
        Span(name, begin + int((since - started) * 1e9), begin + int((until - started) * 1e9), {"undrift.revision": by})
        for name, by, since, until in stages
    ]


class Spans(Protocol):
    """Where spans go; must not block."""

    def send(self, trace: Trace, span: Span, inside: Sequence[Span]) -> None:
        """Send the span of a request, and those inside it."""
        ...

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        ...


def parse(header: bytes, state: bytes = b"") -> Trace | None:
    """The caller's trace; its own span is that of the caller until there is one of ours. None if it is not valid.

    >>> parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").trace_id
    '4bf92f3577b34da6a3ce929d0e0e4736'
    >>> parse(b"00-00000000000000000000000000000000-00f067aa0ba902b7-01") is None
    True
    """
    match = _TRACEPARENT.fullmatch(header.strip())
    if match is None:
        return None
    version, trace_id, span, flags, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest) or set(trace_id) == {48} or set(span) == {48}:
        return None
    known = int(flags, 16) & 1  # of the flags of later versions nothing is known, so nothing is passed on
    kept = state if _STATE.fullmatch(state) else b""
    return Trace(trace_id.decode(), span.decode(), span.decode(), known, kept)


class Tracing:
    """Which requests are traced.

    Parameters
    ----------
    settings : where spans go, and how many of the traces that begin here are sampled.
    random : gives ids and chance.
    spans : what sends them; made from the settings if None and they name an address.
    """

    def __init__(self, settings: ObserveSettings, random: Random, spans: Spans | None = None) -> None:
        self._ratio, self._random, self.spans = settings.trace_ratio, random, spans
        if settings.traces and spans is None:
            make: Callable[[str], Spans] = resolve_path(
                "undrift.serving.spans:OtlpSpans", wanted_for="observe.traces", extra="otel"
            )
            self.spans = make(settings.traces)

    def begin(self, headers: Mapping[bytes, bytes]) -> Trace:
        """The trace of a request by its headers."""
        header = headers.get(b"traceparent")
        found = parse(header, headers.get(b"tracestate", b"")) if header is not None else None
        if self.spans is None:
            return found or NO_TRACE
        span = f"{self._random.getrandbits(64) or 1:016x}"
        if found is not None:
            return found._replace(span=span)
        trace_id = f"{self._random.getrandbits(128) or 1:032x}"
        return Trace(trace_id, "", span, int(self._random.random() < self._ratio))

    def end(self, trace: Trace, span: Span, inside: Sequence[Span] = ()) -> None:
        """Send the spans of a sampled request."""
        if self.spans is not None and trace.sampled:
            self.spans.send(trace, span, inside)

    def close(self) -> None:
        """Send what is left."""
        if self.spans is not None:
            self.spans.close()
