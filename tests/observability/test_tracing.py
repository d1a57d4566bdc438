"""Traces: the client's trace is continued, exemplars have its id, stages become spans."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import httpx
import pytest
import websockets
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from service.wire.pb import pose_pb2
from tests.support.clients import JPEG, GrpcClient, RestClient, frames
from tests.support.service import ROOT, Launch, Service
from tests.support.streams import websocket_url

PARENT = "b7ad6b7169203331"
STAGES = ["queue", "decode", "detect", "pose"]


def traceparent(trace: str) -> str:
    return f"00-{trace}-{PARENT}-01"


def ask(client: RestClient | GrpcClient, image: bytes, trace: str) -> None:
    """One request as part of a trace."""
    if isinstance(client, RestClient):
        headers = {**JPEG, "traceparent": traceparent(trace)}
        client.http.post("/v1/poses", content=image, headers=headers)
    else:
        metadata = (("traceparent", traceparent(trace)),)
        client.stub.Estimate.with_call(pose_pb2.EstimateRequest(image=image), metadata=metadata)


class Collector:
    """Receives spans like an OpenTelemetry collector."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: dict[str, str] = {}
        self._changed = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        with self._changed:
            for group in request.resource_spans:
                about = {each.key: each.value.string_value for each in group.resource.attributes}
                self.resources |= about
                self.spans += [span for scope in group.scope_spans for span in scope.spans]
            self._changed.notify_all()

    def of(self, trace: str, count: int) -> list[Span]:
        """The spans of a trace in the order of their start, when that number has arrived."""

        def found() -> list[Span]:
            return [span for span in self.spans if span.trace_id.hex() == trace]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, timeout=60), found()
            assert len(found()) == count
            return sorted(found(), key=lambda span: (span.start_time_unix_nano, -span.end_time_unix_nano))

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def traced(launch: Launch, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    return launch()


@pytest.mark.parametrize("kind", [RestClient, GrpcClient])
def test_a_request_is_a_span_of_its_callers_trace_with_one_for_each_stage(
    traced: Service, collector: Collector, photo: bytes, kind: Callable[[Service], Any]
) -> None:
    client, trace = kind(traced), "4bf92f3577b34da6a3ce929d0e0e4736"
    ask(client, photo, trace)
    request, *stages = collector.of(trace, 5)
    assert request.name == client.api and request.kind == Span.SPAN_KIND_SERVER
    assert request.parent_span_id.hex() == PARENT
    assert request.status.code == Status.STATUS_CODE_UNSET
    assert [span.name for span in stages] == STAGES
    assert {span.parent_span_id for span in stages} == {request.span_id}
    for before, after in pairwise(stages):
        assert before.end_time_unix_nano <= after.start_time_unix_nano
    for span in stages:
        assert request.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= request.end_time_unix_nano
    assert collector.resources["service.name"] == "lgm-pose"
    client.close()


@pytest.mark.parametrize("kind", [RestClient, GrpcClient])
def test_a_bad_image_has_a_span_and_no_stages(
    traced: Service, collector: Collector, kind: Callable[[Service], Any]
) -> None:
    client, trace = kind(traced), "00000000000000000000000000000abc"
    try:
        ask(client, b"no image", trace)
    except Exception as error:
        assert "INVALID_ARGUMENT" in str(error)
    (span,) = collector.of(trace, 1)
    codes = {each.key: each.value.string_value for each in span.attributes}
    assert codes["pose.code"] == {"rest": "400", "grpc": "INVALID_ARGUMENT"}[client.api]
    client.close()


def test_each_frame_of_a_stream_is_a_span_of_its_trace(
    traced: Service, collector: Collector, photo: bytes
) -> None:
    client, trace = GrpcClient(traced), "11111111111111111111111111111111"
    metadata = (("traceparent", traceparent(trace)),)
    answers = list(client.stub.EstimateStream(iter(frames([photo] * 3)), metadata=metadata))
    assert len(answers) == 3
    spans = collector.of(trace, 15)
    requests = [span for span in spans if span.name == "grpc_stream"]
    assert len(requests) == 3
    assert {span.parent_span_id.hex() for span in requests} == {PARENT}
    for request in requests:
        assert [span.name for span in spans if span.parent_span_id == request.span_id] == STAGES
    client.close()


async def test_a_frame_over_websocket_is_a_span_of_its_trace(
    traced: Service, collector: Collector, photo: bytes
) -> None:
    trace = "55555555555555555555555555555555"
    given = {"traceparent": traceparent(trace)}
    async with websockets.connect(websocket_url(traced), additional_headers=given) as socket:
        await socket.send("{}")
        await socket.send(photo)
        await socket.recv()
    request, *stages = await asyncio.to_thread(collector.of, trace, 5)
    assert (request.name, request.parent_span_id.hex()) == ("websocket", PARENT)
    assert [span.name for span in stages] == STAGES


@pytest.mark.parametrize("kind", [RestClient, GrpcClient])
def test_a_latency_has_its_trace_as_exemplar_and_in_the_log(
    service: Service, photo: bytes, kind: Callable[[Service], Any]
) -> None:
    client, trace = kind(service), "22222222222222222222222222222222"
    ask(client, photo, trace)
    assert (client.api, trace) in exemplars(service)
    assert trace in {line.get("trace_id") for line in service.log}
    client.close()


INVALID = ["", "00-0-0-00", traceparent("0" * 32), "ff" + traceparent("3" * 32)[2:]]


@pytest.mark.parametrize("invalid", INVALID)
def test_an_invalid_traceparent_starts_a_new_trace(service: Service, photo: bytes, invalid: str) -> None:
    ident = f"invalid-{abs(hash(invalid))}"
    headers = {**JPEG, "traceparent": invalid, "x-request-id": ident}
    assert httpx.post(f"{service.url}/v1/poses", content=photo, headers=headers).status_code == 200
    exemplars(service)  # the log is written by then
    (line,) = [line for line in service.log if line.get("request_id") == ident]
    assert len(line["trace_id"]) == 32 and line["trace_id"] not in ("0" * 32, "3" * 32)


def exemplars(service: Service) -> set[tuple[str, str]]:
    """API and trace of each exemplar, read with the OpenMetrics parser."""
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    response = httpx.get(f"{service.url}/metrics", headers=accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    return {
        (sample.labels["api"], sample.exemplar.labels["trace_id"])
        for family in text_string_to_metric_families(response.text)
        if family.name == "pose_request_seconds"
        for sample in family.samples
        if sample.exemplar
    }


def test_without_the_extra_an_endpoint_is_warned_of_and_all_works() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from service.observability import tracing; tracing.start_tracing(); tracing.join_trace(None)\n"
        "with tracing.request_span('rest', 0) as trace: tracing.describe_span(failed=True, code='500')\n"
        "tracing.stage_spans(decode=(0, 1)); print(len(trace))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "32\n"
    assert "extra `otel`" in done.stderr
