"""Keys and rates over every protocol."""

import asyncio
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import Any

import grpc
import httpx
import pytest
import websockets
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lgm_pose_client import (
    AsyncGrpcClient,
    AsyncHttpClient,
    Credentials,
    GrpcClient,
    HttpClient,
    ServiceError,
)
from lgm_pose_client.frames import Dropped, Policy, StreamConfig, StreamFrame
from lgm_pose_client.types import Poses
from service.errors import ConfigError
from service.security.keys import Keys
from service.wire.pb import openinference_pb2, pose_pb2
from tests.api.test_lifecycle import run, until
from tests.support.clients import JPEG
from tests.support.networks import save_networks
from tests.support.service import ROOT, Launch, Service
from tests.support.streams import config_text, websocket_url

KEY, OTHER = "correct-horse-battery", "staple_~.0123456789"
BEARER = {"authorization": f"Bearer {KEY}"}
OPEN = {"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}
WRONG = [
    {},
    {"authorization": "Bearer"},
    {"authorization": "Bearer wrong-horse-battery"},
    {"authorization": f"Basic {KEY}"},
    {"authorization": f"Bearer {KEY[:-1]}"},
    {"x-api-key": "x" * 10_000},
    {"x-api-key": "\xff" * 20},
]


@pytest.fixture(scope="module")
def guarded(networks: dict[bool, Path]) -> Iterator[Service]:
    service = Service(weights=networks[False], api_keys=f"camera:{KEY},{OTHER}")
    yield service
    service.close()


async def test_every_path_requires_a_key_except_the_open_ones(guarded: Service) -> None:
    async with httpx.AsyncClient(base_url=guarded.url) as http:
        document = (await http.get("/openapi.json")).json()
        assert {"bearer", "header"} == document["components"]["securitySchemes"].keys()
        assert {"/v1/poses", "/v1/videos"} < document["paths"].keys()
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                status = (await http.request(method, path)).status_code
                assert (status == 401) == ("security" in operation) == (path not in OPEN), path
                assert status != 401 or {"401", "429"} <= operation["responses"].keys()
        assert (await http.get("/")).status_code == 200
        for path in ("/v1/nothing", "/healthz/", "/page", "/v1/%2e%2e/healthz"):
            assert (await http.get(path)).status_code == 401, path


@pytest.mark.parametrize("headers", WRONG, ids=lambda each: str(each)[:40])
async def test_http_without_a_good_key_is_refused(
    guarded: Service, photo: bytes, headers: dict[str, str]
) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    async with httpx.AsyncClient(base_url=guarded.url) as http:
        response = await http.post("/v1/poses", content=photo, headers={**JPEG, **raw})  # type: ignore[dict-item]
        assert response.status_code == 401
        assert response.json()["code"] == "unauthenticated"
        assert response.headers["www-authenticate"] == "Bearer"
        with pytest.raises(websockets.InvalidStatus) as refused:
            shown = {} if "\xff" in str(headers) else headers
            await websockets.connect(websocket_url(guarded), additional_headers=shown)
    too_long = len(str(headers)) > 8192
    assert refused.value.response.status_code == (400 if too_long else 401)
    assert (b"malformed_body" if too_long else b"unauthenticated") in refused.value.response.body


async def test_a_request_is_refused_before_its_body_is_read(guarded: Service) -> None:
    host, port = guarded.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/poses HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\n")
    answered = await asyncio.wait_for(reader.readuntil(b"unauthenticated"), 60)
    assert answered.startswith(b"HTTP/1.1 401 ")
    writer.close()


def test_every_call_requires_a_key_except_health_and_reflection(guarded: Service) -> None:
    services = (
        pose_pb2.DESCRIPTOR.services_by_name["PoseService"],
        openinference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    )
    with grpc.insecure_channel(guarded.grpc) as channel:
        for service in services:
            for method in service.methods:
                # no message is sent: a call is refused before it is read
                call = channel.stream_stream(f"/{service.full_name}/{method.name}")(forever())
                if method.name in ("ServerLive", "ServerReady"):
                    call.cancel()
                    continue
                assert call.code() == grpc.StatusCode.UNAUTHENTICATED, method.name
                assert dict(call.trailing_metadata())["x-request-id"]
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING


def forever() -> Iterator[bytes]:
    Event().wait(60)
    yield b""


@pytest.mark.parametrize("headers", WRONG[:-1], ids=lambda each: str(each)[:40])
def test_grpc_without_a_good_key_is_refused(guarded: Service, photo: bytes, headers: dict[str, str]) -> None:
    with grpc.insecure_channel(guarded.grpc) as channel:
        call = channel.unary_unary("/pose.v1.PoseService/GetSkeleton")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", metadata=tuple(headers.items()))
        if refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:  # by grpc itself, from 8 KB on
            assert len(str(headers)) > 8192 and "metadata" in refused.value.details()
        else:
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        for good in ({"x-api-key": KEY}, BEARER, {"authorization": f"bearer {OTHER}"}):
            assert call(b"", metadata=tuple(good.items()))


async def test_names_of_keys_are_in_the_log_and_keys_are_not(guarded: Service, photo: bytes) -> None:
    shown = Credentials(KEY)
    with (
        HttpClient(guarded.url, credentials=shown) as http,
        GrpcClient(guarded.grpc, credentials=shown) as rpc,
    ):
        for client in (http, rpc):
            assert (await asyncio.to_thread(client.estimate, photo)).persons
    async with AsyncHttpClient(guarded.url, credentials=Credentials(OTHER)) as http2:
        assert (await http2.estimate(photo)).persons
    async with AsyncGrpcClient(guarded.grpc, credentials=shown) as rpc2:
        answers = [answer async for answer in rpc2.stream(frames(photo, 2), StreamConfig(policy=Policy.ALL))]
        assert all(isinstance(answer.outcome, Poses) for answer in answers)
    await asyncio.to_thread(guarded.wait_for_log, "stream ended")
    await over_websocket(guarded, photo, additional_headers=BEARER)
    encoded = urlsafe_b64encode(KEY.encode()).decode().rstrip("=")
    await over_websocket(guarded, photo, subprotocols=["pose.v1", f"bearer.{encoded}"])

    def ends() -> list[dict[str, Any]]:
        return [line for line in guarded.log if line["message"] == "stream ended"]

    await until(lambda: len(ends()) == 3)
    assert {line["key"] for line in ends()} == {"camera"}
    logged = [line for line in guarded.log if line["message"] == "request" and line["code"] in ("200", "OK")]
    assert {line["key"] for line in logged} == {"camera", f"key-{sha256(OTHER.encode()).hexdigest()[:8]}"}
    assert KEY not in str(guarded.log) and OTHER not in str(guarded.log)
    assert encoded not in str(guarded.log)


async def frames(photo: bytes, count: int) -> Any:
    for number in range(count):
        yield StreamFrame(number, photo)


async def over_websocket(service: Service, photo: bytes, **how: Any) -> None:
    async with websockets.connect(websocket_url(service), **how) as socket:
        await socket.send(config_text(StreamConfig()))
        await socket.send(photo)
        assert '"persons":[{' in str(await socket.recv())
        assert socket.subprotocol == ("pose.v1" if "subprotocols" in how else None)


async def test_refusals_are_counted(guarded: Service) -> None:
    httpx.get(f"{guarded.url}/v1/skeleton")
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(websocket_url(guarded))
    with GrpcClient(guarded.grpc) as rpc, pytest.raises(ServiceError):
        rpc.estimate(b"")
    for labels in (
        {"api": "rest", "code": "401"},
        {"api": "websocket", "code": "UNAUTHENTICATED"},
        {"api": "grpc", "code": "UNAUTHENTICATED"},
    ):
        assert guarded.metric("pose_requests_total", **labels) > 0, labels


async def test_a_page_may_offer_its_protocol_without_keys(service: Service, photo: bytes) -> None:
    await over_websocket(service, photo, subprotocols=["pose.v1", "bearer.eA"])


async def test_the_rate_of_a_key_applies_over_all_protocols(launch: Launch, photo: bytes) -> None:
    """At one request in about 15 minutes, a refused request stays refused during the test."""
    entries = [f"user{number}:{KEY}{number}" for number in range(6)]
    service = launch(api_keys=",".join(entries), rate_limit=0.001)
    shown = [Credentials(f"{KEY}{number}") for number in range(6)]
    for credentials in shown[:2]:  # one does not pay for the other
        async with httpx.AsyncClient(base_url=service.url, headers=credentials.headers()) as http:
            assert (await http.get("/v1/skeleton")).status_code == 200
            refused = await http.post("/v1/poses", content=photo, headers=JPEG)
            assert refused.status_code == 429
            assert refused.json()["code"] == "rate_limited"
            assert 900 < int(refused.headers["retry-after"]) <= 1000
    async with httpx.AsyncClient(base_url=service.url, headers=shown[2].headers()) as http:
        files = [("image", photo)] * 3
        assert (await http.post("/v1/poses", files=files)).status_code == 200
        refused = await http.post("/v1/poses", files=files)
        assert 2900 < int(refused.headers["retry-after"]) <= 3000  # each image counts
    with GrpcClient(service.grpc, credentials=shown[3]) as rpc:
        assert rpc.estimate(photo).persons
        with pytest.raises(ServiceError) as failed:
            rpc.estimate(photo)
        assert failed.value.code == "resource_exhausted"
        with pytest.raises(ServiceError) as failed:
            list(rpc.stream([StreamFrame(0, photo)]))
        assert failed.value.code == "resource_exhausted"
    await refused_over_websocket(service, shown[3].headers())
    async with httpx.AsyncClient(base_url=service.url, headers=shown[3].headers()) as http:
        assert (
            await http.post("/v1/videos", content=b"", headers={"content-type": "video/mp4"})
        ).status_code == 429
        assert (await http.get("/healthz")).status_code == 200
    lines = [line for line in service.log if line.get("code") in ("429", "RESOURCE_EXHAUSTED")]
    assert {line["key"] for line in lines} == {"user0", "user1", "user2", "user3"}


async def refused_over_websocket(service: Service, headers: dict[str, str]) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(websocket_url(service), additional_headers=headers)
    assert refused.value.response.status_code == 429
    assert int(refused.value.response.headers["retry-after"]) > 900


@pytest.mark.parametrize("policy", [Policy.ALL, Policy.LATEST])
async def test_a_stream_is_limited_to_its_rate(launch: Launch, small: bytes, policy: Policy) -> None:
    """At five per second and a burst of ten, at most that number of frames is estimated and none fails."""
    service, count = launch(api_keys=KEY, rate_limit=5), 30
    start = perf_counter()
    async with AsyncGrpcClient(service.grpc, credentials=Credentials(KEY)) as client:
        answers = [each async for each in client.stream(frames(small, count), StreamConfig(policy=policy))]
    allowed = 10 + 5 * (perf_counter() - start)
    outcomes = [type(answer.outcome) for answer in answers]
    assert len(outcomes) == count
    assert outcomes.count(Poses) + 1 <= allowed  # the call counts as one
    assert outcomes.count(Poses) + outcomes.count(Dropped) == count
    assert policy is Policy.LATEST or outcomes.count(Poses) == count


async def test_a_file_of_keys_is_read_again(launch: Launch, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# for the cameras\ncamera:{KEY}\n\n")
    service = launch(api_keys_file=file)

    def status(key: str) -> int:
        return httpx.get(f"{service.url}/v1/skeleton", headers={"x-api-key": key}).status_code

    assert (status(KEY), status(OTHER)) == (200, 401)
    file.write_text(f"camera:{KEY}\ncamera:{OTHER}")
    await until(lambda: status(OTHER) == 200)
    assert status(KEY) == 200
    replaced = tmp_path / "new"
    replaced.write_text(f"camera:{OTHER}\n")
    replaced.rename(file)
    await until(lambda: status(KEY) == 401)
    for bad in ("short", "", "a name:" + KEY):
        before = len(failures(service))
        file.write_text(bad)
        await until(lambda before=before: len(failures(service)) > before)  # type: ignore[misc]
        assert (status(KEY), status(OTHER)) == (401, 200)
    file.unlink()
    await until(lambda: "cannot be read" in failures(service)[-1])
    assert status(OTHER) == 200
    assert KEY not in str(service.log)


def failures(service: Service) -> list[str]:
    return [line["message"] for line in service.log if line["level"] == "error"]


def test_a_rate_is_kept_when_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"camera:{KEY}")
    keys = Keys("", file, 1)
    before = keys.client(KEY)
    file.write_text(f"camera:{OTHER}")
    keys.load()
    assert keys.client(OTHER) is before


@pytest.mark.parametrize("given", ["short", f"{KEY} {KEY}", "käse" * 5, "a b:" + KEY, ",", "x" * 257])
def test_invalid_keys_are_refused_and_not_shown(given: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Keys(given, None, 0)
    assert len(given) < 3 or given not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [{"api_keys": "short"}, {"api_keys_file": "nowhere"}, {"rate_limit": 3}, {"tls_cert": "nowhere"}],
    ids=str,
)
def test_invalid_keys_and_certificates_stop_start_up_with_one_line(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    done = run(weights=save_networks(tmp_path), http_port=0, grpc_port=0, **settings)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert f"POSE_{next(iter(settings)).upper()}" in line


def test_a_public_address_with_keys_causes_no_warning(launch: Launch) -> None:
    service = launch(host="0.0.0.0", api_keys=KEY)
    assert not [line for line in service.log if line["level"] == "warning"]
    assert "$POSE_API_KEY" in service.greeting()
    assert KEY not in service.greeting()


@pytest.mark.parametrize("how", ["option", "environment", "none"])
def test_the_command_shows_a_key(guarded: Service, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "environment":
        monkeypatch.setenv("POSE_API_KEY", KEY)
    more = ["--api-key", KEY] if how == "option" else []
    photo = str(ROOT / "examples" / "astronaut.jpg")
    for arguments in ([photo, "--url", guarded.url], ["stream", photo, "--address", guarded.grpc]):
        done = subprocess.run(
            [sys.executable, "-m", "lgm_pose_client", *arguments, *more],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode == 0) == (how != "none"), done.stderr
        assert how != "none" or "key" in done.stderr


async def test_headers_of_every_answer(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.url) as http:
        for path in ("/", "/healthz", "/v1/skeleton", "/nothing", "/docs"):
            headers = (await http.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert path in ("/", "/docs") or headers["cache-control"] == "no-store"
