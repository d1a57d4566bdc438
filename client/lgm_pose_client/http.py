"""Clients over REST."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from types import TracebackType
from typing import Any, BinaryIO, Self

import httpx

from lgm_pose_client.credentials import ANYBODY, Credentials
from lgm_pose_client.errors import ServiceError
from lgm_pose_client.frames import Answer, StreamConfig
from lgm_pose_client.types import Options, Poses

URL = "http://127.0.0.1:8000"
_CHUNK = 64 * 1024


class HttpClient:
    """Blocking calls over REST. Each raises ServiceError."""

    def __init__(self, url: str = URL, *, timeout_s: float = 60, credentials: Credentials = ANYBODY) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout_s, **_shown(credentials))

    def estimate(self, image: bytes, options: Options | None = None) -> Poses:
        """The persons of an encoded image."""
        return _poses(self._post(image, options, "application/json"))

    def draw(self, image: bytes, options: Options | None = None) -> bytes:
        """An encoded image as a JPEG with its persons' skeletons."""
        return self._post(image, options, "image/jpeg").content

    def estimate_video(self, video: BinaryIO, config: StreamConfig | None = None) -> Iterator[Answer]:
        """The answer to each frame of a video file, as it comes; every frame is worked on."""
        chunks = iter(lambda: video.read(_CHUNK), b"")
        try:
            with self._http.stream("POST", **_video(config), content=chunks) as response:
                if response.is_error:
                    response.read()
                    raise _failure(response)
                for line in response.iter_lines():
                    yield _answer(json.loads(line))
        except httpx.TransportError as error:
            raise _unreachable(error) from error

    def _post(self, image: bytes, options: Options | None, accept: str) -> httpx.Response:
        try:
            return _checked(self._http.post(**_image(image, options, accept)))
        except httpx.TransportError as error:
            raise _unreachable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()


class AsyncHttpClient:
    """Asynchronous calls over REST. Each raises ServiceError."""

    def __init__(self, url: str = URL, *, timeout_s: float = 60, credentials: Credentials = ANYBODY) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout_s, **_shown(credentials))

    async def estimate(self, image: bytes, options: Options | None = None) -> Poses:
        """See HttpClient."""
        return _poses(await self._post(image, options, "application/json"))

    async def draw(self, image: bytes, options: Options | None = None) -> bytes:
        """See HttpClient."""
        return (await self._post(image, options, "image/jpeg")).content

    async def estimate_video(
        self, video: BinaryIO, config: StreamConfig | None = None
    ) -> AsyncIterator[Answer]:
        """See HttpClient."""

        async def chunks() -> AsyncIterator[bytes]:
            while chunk := video.read(_CHUNK):
                yield chunk

        try:
            async with self._http.stream("POST", **_video(config), content=chunks()) as response:
                if response.is_error:
                    await response.aread()
                    raise _failure(response)
                async for line in response.aiter_lines():
                    yield _answer(json.loads(line))
        except httpx.TransportError as error:
            raise _unreachable(error) from error

    async def _post(self, image: bytes, options: Options | None, accept: str) -> httpx.Response:
        try:
            return _checked(await self._http.post(**_image(image, options, accept)))
        except httpx.TransportError as error:
            raise _unreachable(error) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()


def _shown(credentials: Credentials) -> dict[str, Any]:
    """Arguments of a client for who it is."""
    return {"headers": credentials.headers(), "verify": credentials.ssl_context()}


def _image(image: bytes, options: Options | None, accept: str) -> dict[str, Any]:
    """Arguments of a request for the persons of an image."""
    chosen = options or Options()
    return {
        "url": "/v1/poses",
        "content": image,
        "params": asdict(chosen),
        "headers": {"accept": accept, "content-type": "image/*"},
    }


def _video(config: StreamConfig | None) -> dict[str, Any]:
    """Arguments of a request for the persons of a video, but for its content."""
    chosen = config or StreamConfig()
    return {
        "url": "/v1/videos",
        "params": {
            **asdict(chosen.options),
            "tracking": chosen.tracking,
            "smoothing": chosen.smoothing,
            "detect_every": chosen.detect_every,
        },
        "headers": {"content-type": "video/*"},
    }


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_error:
        raise _failure(response)
    return response


def _failure(response: httpx.Response) -> ServiceError:
    try:
        problem = response.json()
        return ServiceError(problem["code"], problem["detail"])
    except (ValueError, KeyError):
        return ServiceError(f"http_{response.status_code}", response.reason_phrase)


def _unreachable(error: httpx.TransportError) -> ServiceError:
    return ServiceError("unreachable", f"the service cannot be reached: {error}")


def _poses(response: httpx.Response) -> Poses:
    return Poses.from_json(response.json()["results"][0])


def _answer(line: dict[str, Any]) -> Answer:
    """An answer of a line of JSON. Raises ServiceError for a last line that tells a failure."""
    if "frame_id" not in line:
        raise ServiceError(line["error"]["code"], line["error"]["message"])
    return Answer.from_json(line)
