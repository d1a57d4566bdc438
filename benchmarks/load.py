"""Clients that wait for each answer before the next request, and the CPU time of the server."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial
from http.client import HTTPConnection
from queue import SimpleQueue
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import psutil

from benchmarks.rounds import Figures
from service.wire.pb import pose_pb2, pose_pb2_grpc

BOUNDARY = "a-boundary-that-no-image-holds"


class HttpClient:
    """Posts an image over one connection: as the body, or as the only file of a form."""

    def __init__(self, url: str, image: bytes, *, form: str | None = None) -> None:
        """form: the name of the field; None posts the image itself."""
        parts = urlsplit(url)
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        self._path = parts.path
        if form is None:
            self._body, kind = image, "image/jpeg"
        else:
            head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{form}"; filename="a.jpg"\r\n'
            self._body = (head + "Content-Type: image/jpeg\r\n\r\n").encode() + image
            self._body += f"\r\n--{BOUNDARY}--\r\n".encode()
            kind = f"multipart/form-data; boundary={BOUNDARY}"
        self._headers = {"Content-Type": kind}

    def __call__(self) -> bytes:
        """The body of the answer. Raises RuntimeError if its status is not 200."""
        self._connection.request("POST", self._path, self._body, self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {answer[:200]!r}")
        return answer

    def close(self) -> None:
        self._connection.close()


class UnaryClient:
    """Calls Estimate over its own channel."""

    def __init__(self, address: str, image: bytes) -> None:
        self._channel = _channel(address)
        self._estimate = pose_pb2_grpc.PoseServiceStub(self._channel).Estimate
        self._request = pose_pb2.EstimateRequest(image=image)

    def __call__(self) -> pose_pb2.EstimateResponse:
        return self._estimate(self._request, timeout=120)

    def close(self) -> None:
        self._channel.close()


class StreamClient:
    """Sends frames over one EstimateStream, each after the answer to the previous one."""

    def __init__(self, address: str, image: bytes) -> None:
        self._channel = _channel(address)
        self._frames: SimpleQueue[pose_pb2.EstimateStreamRequest | None] = SimpleQueue()
        self._image, self._sent = image, 0
        self._frames.put(pose_pb2.EstimateStreamRequest(config=pose_pb2.StreamConfig()))
        self._answers = pose_pb2_grpc.PoseServiceStub(self._channel).EstimateStream(
            iter(self._frames.get, None)
        )

    def __call__(self) -> pose_pb2.EstimateStreamResponse:
        """Raises RuntimeError for a frame without poses."""
        self._sent += 1
        frame = pose_pb2.Frame(frame_id=self._sent, image=self._image)
        self._frames.put(pose_pb2.EstimateStreamRequest(frame=frame))
        answer = next(self._answers)
        if answer.WhichOneof("answer") != "poses":
            raise RuntimeError(f"no poses: {answer}")
        return answer

    def close(self) -> None:
        self._frames.put(None)
        self._channel.close()


def _channel(address: str) -> grpc.Channel:
    # by default channels to one target share a connection
    return grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])


def under_load(
    open_client: Callable[[], Any], clients: int, seconds: float, server: psutil.Process
) -> Figures:
    """Figures of all clients together over `seconds`, after one request to warm up.

    cpu_ms: CPU time per request of the server and its children. Raises the first failure of any client.
    """
    with ExitStack() as stack:
        asking = [stack.enter_context(closing(open_client())) for _ in range(clients)]
        asking[0]()
        busy, start = cpu_seconds(server), perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            spans = list(pool.map(partial(_until, start + seconds), asking))
        busy = cpu_seconds(server) - busy
    ends = [end for of_client in spans for _, end in of_client]
    return figures([end - begin for of_client in spans for begin, end in of_client], max(ends) - start, busy)


def figures(latencies: list[float], seconds: float, busy: float) -> Figures:
    """Figures from the latency of each request, the duration and the CPU time, all in seconds."""
    p50, p99 = np.percentile(latencies, (50, 99))
    return {
        "per_second": len(latencies) / seconds,
        "p50_ms": 1000 * float(p50),
        "p99_ms": 1000 * float(p99),
        "cpu_ms": 1000 * busy / len(latencies),
    }


def cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds used so far by a process and its living descendants."""
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            times = each.cpu_times()
            total += times.user + times.system
    return total


def _until(end: float, ask: Callable[[], Any]) -> list[tuple[float, float]]:
    """Start and end of each request until `end`, at least one."""
    spans = []
    while not spans or perf_counter() < end:
        begin = perf_counter()
        ask()
        spans.append((begin, perf_counter()))
    return spans
