"""Clients of every protocol while the worker is killed and networks are replaced.

POSE_TEST_KILLS and POSE_TEST_SWAPS set how often; the suite does it a few times.
"""

import asyncio
import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import numpy.typing as npt
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.wire.pb import pose_pb2, pose_pb2_grpc
from tests.support.clients import JPEG, frames, plain
from tests.support.networks import save_networks
from tests.support.service import Launch, Pixels, Service, encode

KILLS = int(os.environ.get("POSE_TEST_KILLS", "3"))
SWAPS = int(os.environ.get("POSE_TEST_SWAPS", "6"))
CALLERS = 3  # of each protocol
GOOD, LOST = {200, "OK", "poses"}, {503, "UNAVAILABLE", "worker_lost"}
Answer = npt.NDArray[np.float32]  # (N, 56): box, score and keypoints of each person


class Load:
    """Clients that send different images without a pause and check every answer."""

    def __init__(self, service: Service, images: dict[bytes, Answer]) -> None:
        self._service, self.images = service, images
        self._ended = False
        self.outcomes: Counter[object] = Counter()

    def good(self) -> int:
        """The number of correct answers so far."""
        return sum(self.outcomes[kind] for kind in GOOD)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the load; no client may hang at the end."""
        asks = (self._rest, self._grpc, self._stream)
        callers = [asyncio.create_task(self._call(ask, n)) for ask in asks for n in range(CALLERS)]
        try:
            yield
        finally:
            self._ended = True
            async with asyncio.timeout(60):
                await asyncio.gather(*callers)

    async def _call(self, ask: Callable[[bytes, Answer], Awaitable[None]], first: int) -> None:
        images = [*self.images.items()]
        while not self._ended:
            for image, known in images[first:] + images[:first]:
                good = self.good()
                async with asyncio.timeout(60):
                    await ask(image, known)
                if self.good() == good:
                    await asyncio.sleep(0.05)  # refused: clients retry

    async def _rest(self, image: bytes, known: Answer) -> None:
        async with httpx.AsyncClient(base_url=self._service.url, timeout=60) as http:
            response = await http.post("/v1/poses", content=image, headers=JPEG)
        if response.status_code == 200:
            assert np.array_equal(_array(response.json()["results"][0]), known)
        else:
            assert response.json()["code"] == "worker_lost"
            assert int(response.headers["retry-after"]) > 0
        self.outcomes[response.status_code] += 1

    async def _grpc(self, image: bytes, known: Answer) -> None:
        async with _channel(self._service) as stub:
            try:
                answer = await stub.Estimate(pose_pb2.EstimateRequest(image=image))
            except grpc.aio.AioRpcError as error:
                self.outcomes[error.code().name] += 1
            else:
                assert np.array_equal(_array(plain(answer.poses)), known)
                self.outcomes["OK"] += 1

    async def _stream(self, image: bytes, known: Answer) -> None:
        """A short stream: one answer for each frame, and correct counts."""
        sent, answers = 4, []
        async with _channel(self._service) as stub:
            async for answer in stub.EstimateStream(frames([image] * sent)):
                answers.append(answer)
                if answer.WhichOneof("answer") == "error":
                    self.outcomes[answer.error.code] += 1
                else:
                    assert np.array_equal(_array(plain(answer.poses)), known)
                    self.outcomes["poses"] += 1
        assert [answer.frame_id for answer in answers] == [100 + n for n in range(sent)]
        errors = [answer for answer in answers if answer.WhichOneof("answer") == "error"]
        counts = answers[-1].counts
        assert (counts.received, counts.errors, counts.poses) == (sent, len(errors), sent - len(errors))


@asynccontextmanager
async def _channel(service: Service) -> AsyncIterator[Any]:
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(service.grpc, options) as channel:
        yield pose_pb2_grpc.PoseServiceStub(channel)


def _array(poses: dict[str, Any]) -> Answer:
    """An answer with the precision of gRPC's floats."""
    rows = [[*each["bbox"], each["score"], *np.ravel(each["keypoints"])] for each in poses["persons"]]
    return np.array(rows, np.float32)


def known_answers(service: Service, pixels: Pixels) -> dict[bytes, Answer]:
    """Images with different answers, and their answers without load."""
    pictures = pixels, pixels[:, ::-1], pixels[::2, ::2], pixels[100:, 50:]
    known = {}
    for image in map(encode, pictures):
        response = httpx.post(f"{service.url}/v1/poses", content=image, headers=JPEG, timeout=60)
        known[image] = _array(response.json()["results"][0])
    assert len({answer.tobytes() for answer in known.values()}) == len(pictures)
    return known


def worker_of(service: Service) -> int:
    """The process id of the service's only child."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    (worker,) = [child for child, parent in parents.items() if parent == service.process.pid]
    return worker


async def watch(service: Service, statuses: list[int]) -> None:
    """Records every change of the gRPC health status."""
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        async for update in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
            statuses.append(update.status)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(120):
        while not await condition():
            await asyncio.sleep(0.01)


@pytest.mark.timeout(300 + 60 * KILLS)
async def test_requests_to_a_killed_worker_fail_at_once_until_it_restarts(
    launch: Launch, pixels: Pixels
) -> None:
    service = launch(worker="process")
    load = Load(service, known_answers(service, pixels))
    statuses: list[int] = []
    watching = asyncio.create_task(watch(service, statuses))
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http, load.running():

        async def ready() -> bool:
            assert (await http.get("/healthz")).status_code == 200
            return (await http.get("/readyz")).status_code == 200

        async def seen_lost(kills: int) -> bool:
            """Whether a client sees that the worker is lost before it is back."""
            async with asyncio.timeout(120):
                while statuses.count(health_pb2.HealthCheckResponse.SERVING) <= kills:
                    if not await ready():
                        return True
                    await asyncio.sleep(0.01)
            return False

        kills = losses = 0
        while losses < KILLS:
            good = load.good()
            await until(ready)
            await until(lambda good=good: _grown(load, good + 20))  # type: ignore[misc]
            os.kill(worker_of(service), signal.SIGKILL)
            kills += 1
            losses += await seen_lost(kills)
        await until(ready)
        good = load.good()
        await until(lambda: _grown(load, good + 20))
    watching.cancel()
    print(dict(load.outcomes))
    assert load.outcomes.keys() == GOOD | (load.outcomes.keys() & LOST)
    assert load.outcomes.keys() & LOST
    assert statuses == [1, *[2, 1] * kills]
    assert service.metric("pose_worker_restarts_total") == kills
    assert service.metric("pose_queue_depth") == 0
    for image, known in known_answers(service, pixels).items():
        assert np.array_equal(known, load.images[image])


async def _grown(load: Load, count: int) -> bool:
    return load.good() >= count


async def test_a_deadline_of_requests_kills_no_worker(launch: Launch, photo: bytes) -> None:
    service = launch(worker="process", slow=True, threads=1, request_timeout_s=0.05)
    worker = worker_of(service)
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:
        for _ in range(5):
            # work for 2 s: a busy machine may wake the service late, when the first answers are there
            posts = [http.post("/v1/poses", content=photo, headers=JPEG) for _ in range(20)]
            codes = {response.status_code for response in await asyncio.gather(*posts)}
            assert 504 in codes and codes <= {200, 504}
    assert worker_of(service) == worker
    assert service.metric("pose_worker_restarts_total") == 0


@pytest.mark.timeout(300 + 30 * SWAPS)
@pytest.mark.parametrize(
    ("kind", "runtime"), [("thread", "onnx"), ("process", "onnx"), ("thread", "openvino")]
)
async def test_valid_networks_replace_the_old_ones_without_a_failed_request(
    launch: Launch, pixels: Pixels, tmp_path: Path, kind: str, runtime: str
) -> None:
    folder, odd = save_networks(tmp_path / "weights"), save_networks(tmp_path / "odd", not_finite=True)
    service = launch(worker=kind, weights=folder, runtime=runtime)
    load = Load(service, known_answers(service, pixels))
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http, load.running():

        async def version() -> str:
            models = (await http.get("/v1/models")).json()
            assert models["pose"]["version"] == models["detector"]["version"]
            return str(models["pose"]["version"])

        refused = 0
        for swap in range(1, SWAPS + 1):
            if swap % 2:
                refused += 1
                shutil.copy(odd / "pose.onnx", folder / "pose.onnx")
                service.process.send_signal(signal.SIGHUP)
                await until(lambda n=refused: _refusals(http, n))  # type: ignore[misc]
                assert await version() == str(swap - 1)
            save_networks(folder, version=str(swap))
            service.process.send_signal(signal.SIGHUP)
            await until(lambda swap=swap: _equal(version(), str(swap)))  # type: ignore[misc]
    print(dict(load.outcomes))
    assert load.outcomes.keys() == GOOD
    name = {"onnx": "onnxruntime"}.get(runtime, runtime)
    labels = {
        "commit": "0" * 40,
        "name": "tiny-pose",
        "precision": "float32",
        "runtime": name,
        "task": "pose",
    }
    assert service.metric("pose_model_info", **labels, version=str(SWAPS)) == 1
    assert service.metric("pose_model_reloads_total", outcome="done") == SWAPS


async def _refusals(http: httpx.AsyncClient, count: int) -> bool:
    line = f'pose_model_reloads_total{{outcome="refused"}} {count}.0'
    return line in (await http.get("/metrics")).text.splitlines()


async def _equal(work: Awaitable[str], value: str) -> bool:
    return await work == value
