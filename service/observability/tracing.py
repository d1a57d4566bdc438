"""Tracing: a request continues its client's trace (W3C Trace Context); with OpenTelemetry it emits spans."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Tracer

logger = logging.getLogger(__name__)
TRACEPARENT = "traceparent"  # HTTP header and gRPC metadata
_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EPOCH_NS = time_ns() - perf_counter_ns()  # one offset for all spans keeps their order
_trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
_tracer: "Tracer | None" = None


def start_tracing() -> None:
    """Send spans to the endpoint in the OTEL_ variables of the environment; none without an endpoint."""
    if not any(name in os.environ for name in _ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("a trace endpoint is set, but the extra `otel` is not installed: no traces are sent")
    else:
        send_spans(BatchSpanProcessor(OTLPSpanExporter()))


def send_spans(processor: "SpanProcessor") -> None:
    """Create spans from now on and pass them to `processor`."""
    global _tracer
    from opentelemetry.sdk.trace import TracerProvider

    os.environ.setdefault("OTEL_SERVICE_NAME", "lgm-pose")
    provider = TracerProvider()
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("service")


def join_trace(traceparent: str | None) -> None:
    """Make this task, and tasks it starts, part of the client's trace, or of a new one if that is invalid."""
    found = _FORM.fullmatch(traceparent or "")
    _trace_id.set(found[1] if found else uuid4().hex)
    if found and traceparent and _tracer is not None:
        from opentelemetry.context import attach
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        attach(TraceContextTextMapPropagator().extract({TRACEPARENT: traceparent}))


@contextmanager
def request_span(name: str, since: float) -> Iterator[str]:
    """A span for a request and all its work; yields the id of its trace, 32 hex digits.

    since: when it began, in seconds of `perf_counter`.
    """
    if _tracer is None:
        yield _trace_id.get() or uuid4().hex
        return
    from opentelemetry.trace import SpanKind

    start = _epoch_ns(since)
    with _tracer.start_as_current_span(name, kind=SpanKind.SERVER, start_time=start) as span:
        yield f"{span.get_span_context().trace_id:032x}"


def describe_span(*, failed: bool, **attributes: str | int) -> None:
    """Set attributes of the current request's span, and whether the service failed."""
    if _tracer is None:
        return
    from opentelemetry.trace import Status, StatusCode, get_current_span

    span = get_current_span()
    span.set_attributes({f"pose.{key}": value for key, value in attributes.items()})
    if failed:
        span.set_status(Status(StatusCode.ERROR))


def stage_spans(**stages: tuple[float, float]) -> None:
    """A span for each stage of an image; stages: start and end in seconds of `perf_counter`."""
    if _tracer is None:
        return
    for name, (start, end) in stages.items():
        _tracer.start_span(name, start_time=_epoch_ns(start)).end(_epoch_ns(end))


def _epoch_ns(moment: float) -> int:
    """Nanoseconds since the epoch of a time in seconds of `perf_counter`."""
    return _EPOCH_NS + int(moment * 1e9)
