"""Spans sent by OpenTelemetry over OTLP/HTTP: the one doorway of the SDK (extra `otel`).

Sampling is decided in trace.py; here everything is sent, in batches, by a thread of the SDK. What cannot be sent is
dropped after the SDK's own attempts, so a collector that is away costs spans and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import metadata

from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from undrift.serving.telemetry import notice
from undrift.serving.trace import Span, Trace

__all__ = ["OtlpSpans"]


class _Given(IdGenerator):
    """Ids that were given out before the span was made; by chance where none was."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = 0
        self._others = RandomIdGenerator()

    def generate_span_id(self) -> int:
        """The id of the next span."""
        found, self.span_id = self.span_id, 0
        return found or self._others.generate_span_id()

    def generate_trace_id(self) -> int:
        """The id of the next trace."""
        return self.trace_id or self._others.generate_trace_id()


class _Notices(logging.Handler):
    """What the SDK logs (that it cannot send), as lines like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        notice("traces not sent", level=record.levelname.lower(), message=record.getMessage()[:500])


class OtlpSpans:
    """Sends spans to an OTLP/HTTP receiver.

    Parameters
    ----------
    address : where it takes traces, as ``http://localhost:4318/v1/traces``.
    """

    def __init__(self, address: str) -> None:
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(_Notices())
        logger.propagate = False
        self._ids = _Given()
        resource = Resource.create({"service.name": "undrift", "service.version": metadata.version("undrift")})
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=address, timeout=5)))
        self._tracer = self._provider.get_tracer("undrift")

    def send(self, trace: Trace, span: Span, inside: Sequence[Span]) -> None:
        """Hand the span of a request, and those inside it, to the SDK's thread."""
        above = None
        if trace.parent:
            above = api.set_span_in_context(api.NonRecordingSpan(_context(trace, trace.parent, remote=True)))
        self._ids.trace_id, self._ids.span_id = int(trace.trace_id, 16), int(trace.span, 16)
        whole = self._tracer.start_span(
            span.name,
            context=above,
            kind=api.SpanKind.SERVER,
            attributes=dict(span.attributes),
            start_time=span.begin,
        )
        within = api.set_span_in_context(whole)
        for part in inside:
            child = self._tracer.start_span(
                part.name, context=within, attributes=dict(part.attributes), start_time=part.begin
            )
            child.end(part.end)
        if span.failed:
            whole.set_status(api.StatusCode.ERROR)
        whole.end(span.end)

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        self._provider.force_flush(3000)
        self._provider.shutdown()


def _context(trace: Trace, span: str, *, remote: bool) -> api.SpanContext:
    return api.SpanContext(
        int(trace.trace_id, 16), int(span, 16), is_remote=remote, trace_flags=api.TraceFlags(trace.flags & 1)
    )
