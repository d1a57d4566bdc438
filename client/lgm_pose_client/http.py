"""Clients over REST."""

import asyncio
import json
import time
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import httpx

from lgm_pose_client.credentials import ANYBODY, Credentials
from lgm_pose_client.errors import Patience, ServiceError
from lgm_pose_client.frames import Answer, StreamConfig
from lgm_pose_client.pictures import EncodedImage, encoded
from lgm_pose_client.types import Options, Poses, Skeleton

URL = "http://127.0.0.1:8000"
PATIENCE_S = 60.0
_CHUNK = 64 * 1024
# the connection closed: an idle one often does just when the next request is sent
_CLOSED = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)

Build = Callable[[], httpx.Request]
C = TypeVar("C", httpx.Client, httpx.AsyncClient)


class HttpClient:
    """Blocking calls over REST. Each raises ServiceError.

    timeout_s: for a connection, and for each pause within an answer. patience_s: total time for a request
    that the service refuses with Retry-After; the request is then sent again. A request is also sent again,
    once, if its connection closes before the answer begins.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        timeout_s: float = 60,
        patience_s: float = PATIENCE_S,
        credentials: Credentials = ANYBODY,
    ) -> None:
        self._http = _opened(httpx.Client, url, timeout_s, credentials)
        self._patience_s = patience_s

    def estimate(self, image: EncodedImage, options: Options | None = None) -> Poses:
        """The persons of an image: bytes, a file, or an array (height, width, 3) uint8 in BGR.

        Raises OSError and ValueError for an image that cannot be read.
        """
        with self._answer(self._image(image, options, "application/json")) as response:
            response.read()
            return _poses(response)

    def draw(self, image: EncodedImage, options: Options | None = None) -> bytes:
        """The image as a JPEG with its persons' skeletons; see `estimate`."""
        with self._answer(self._image(image, options, "image/jpeg")) as response:
            return response.read()

    def skeleton(self) -> Skeleton:
        """What the keypoints of each person are."""
        with self._answer(lambda: self._http.build_request("GET", "/v1/skeleton")) as response:
            response.read()
            return _skeleton(response)

    def estimate_video(self, video: BinaryIO, config: StreamConfig | None = None) -> Iterator[Answer]:
        """Yields the answer to each frame of a video file; warns of frames that cannot be decoded."""
        rewind = _rewind(video)

        def build() -> httpx.Request:
            rewind()
            content = iter(lambda: video.read(_CHUNK), b"")
            return self._http.build_request("POST", content=content, **_video(config))

        with self._answer(build, repeatable=video.seekable()) as response:
            for line in response.iter_lines():
                if (answer := _answer(line)) is not None:
                    yield answer

    def _image(self, image: EncodedImage, options: Options | None, accept: str) -> Build:
        content = encoded(image)
        return lambda: self._http.build_request("POST", content=content, **_image(options, accept))

    @contextmanager
    def _answer(self, build: Build, *, repeatable: bool = True) -> Iterator[httpx.Response]:
        """A successful response; its body is not read yet."""
        patience = Patience(self._patience_s if repeatable else 0)
        try:
            while True:
                response = self._sent(build, repeatable)
                try:
                    if response.is_success:
                        yield response
                        return
                    response.read()
                finally:
                    response.close()
                time.sleep(patience.pause(_failure(response)))
        except httpx.TransportError as error:
            raise _unreachable(error) from error

    def _sent(self, build: Build, repeatable: bool) -> httpx.Response:
        try:
            return self._http.send(build(), stream=True)
        except _CLOSED:
            if not repeatable:
                raise
            return self._http.send(build(), stream=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()


class AsyncHttpClient:
    """Asynchronous calls over REST. Each raises ServiceError. See HttpClient."""

    def __init__(
        self,
        url: str = URL,
        *,
        timeout_s: float = 60,
        patience_s: float = PATIENCE_S,
        credentials: Credentials = ANYBODY,
    ) -> None:
        self._http = _opened(httpx.AsyncClient, url, timeout_s, credentials)
        self._patience_s = patience_s

    async def estimate(self, image: EncodedImage, options: Options | None = None) -> Poses:
        """See HttpClient."""
        async with self._answer(await self._image(image, options, "application/json")) as response:
            await response.aread()
            return _poses(response)

    async def draw(self, image: EncodedImage, options: Options | None = None) -> bytes:
        """See HttpClient."""
        async with self._answer(await self._image(image, options, "image/jpeg")) as response:
            return await response.aread()

    async def skeleton(self) -> Skeleton:
        """See HttpClient."""
        async with self._answer(lambda: self._http.build_request("GET", "/v1/skeleton")) as response:
            await response.aread()
            return _skeleton(response)

    async def estimate_video(
        self, video: BinaryIO, config: StreamConfig | None = None
    ) -> AsyncIterator[Answer]:
        """See HttpClient."""
        rewind = _rewind(video)

        async def chunks() -> AsyncIterator[bytes]:
            while chunk := await asyncio.to_thread(video.read, _CHUNK):
                yield chunk

        def build() -> httpx.Request:
            rewind()
            return self._http.build_request("POST", content=chunks(), **_video(config))

        async with self._answer(build, repeatable=video.seekable()) as response:
            async for line in response.aiter_lines():
                if (answer := _answer(line)) is not None:
                    yield answer

    async def _image(self, image: EncodedImage, options: Options | None, accept: str) -> Build:
        content = image if isinstance(image, bytes) else await asyncio.to_thread(encoded, image)
        return lambda: self._http.build_request("POST", content=content, **_image(options, accept))

    @asynccontextmanager
    async def _answer(self, build: Build, *, repeatable: bool = True) -> AsyncGenerator[httpx.Response]:
        """See HttpClient."""
        patience = Patience(self._patience_s if repeatable else 0)
        try:
            while True:
                response = await self._sent(build, repeatable)
                try:
                    if response.is_success:
                        yield response
                        return
                    await response.aread()
                finally:
                    await response.aclose()
                await asyncio.sleep(patience.pause(_failure(response)))
        except httpx.TransportError as error:
            raise _unreachable(error) from error

    async def _sent(self, build: Build, repeatable: bool) -> httpx.Response:
        try:
            return await self._http.send(build(), stream=True)
        except _CLOSED:
            if not repeatable:
                raise
            return await self._http.send(build(), stream=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()


def _opened(kind: type[C], url: str, timeout_s: float, credentials: Credentials) -> C:
    """A client that uses the proxy of the environment, except for the hosts of NO_PROXY."""
    try:
        return kind(
            base_url=url,
            timeout=timeout_s,
            headers=credentials.headers(),
            verify=credentials.ssl_context(),
            # httpx opens every proxy that is named, also those that NO_PROXY excludes
            trust_env=not proxy_bypass(urlsplit(url).hostname or ""),
        )
    except ImportError as error:
        raise ServiceError(
            "proxy", "the environment names a SOCKS proxy: pip install 'httpx[socks]', or set NO_PROXY"
        ) from error
    except httpx.InvalidURL as error:
        raise ServiceError("unreachable", f"{url}: {error}") from error
    except ValueError as error:
        raise ServiceError("proxy", f"the environment names a proxy that cannot be used: {error}") from error


def _image(options: Options | None, accept: str) -> dict[str, Any]:
    """Arguments of a request for the persons of an image, without its content."""
    return {
        "url": "/v1/poses",
        "params": asdict(options or Options()),
        "headers": {"accept": accept, "content-type": "image/*"},
    }


def _video(config: StreamConfig | None) -> dict[str, Any]:
    """Arguments of a request for the persons of a video, without its content."""
    chosen = config or StreamConfig()
    return {
        "url": "/v1/videos",
        "params": {
            **asdict(chosen.options),
            "tracking": chosen.tracking,
            "smoothing": chosen.smoothing,
            "detect_every": chosen.detect_every,
            "skip_unchanged": chosen.skip_unchanged,
        },
        "headers": {"content-type": "video/*"},
    }


def _rewind(video: BinaryIO) -> Callable[[], object]:
    """A function that sets a file back to its present position, if the file is seekable."""
    if not video.seekable():
        return lambda: None
    start = video.tell()
    return lambda: video.seek(start)


def _failure(response: httpx.Response) -> ServiceError:
    try:
        retry_after_s = float(response.headers.get("retry-after", ""))
    except ValueError:
        retry_after_s = None
    try:
        problem = response.json()
        return ServiceError(problem["code"], problem["detail"], retry_after_s=retry_after_s)
    except (ValueError, KeyError, TypeError):
        reason = f"status {response.status_code} {response.reason_phrase}"
        return ServiceError(f"http_{response.status_code}", reason, retry_after_s=retry_after_s)


def _unreachable(error: httpx.TransportError) -> ServiceError:
    return ServiceError("unreachable", f"the service cannot be reached: {str(error) or type(error).__name__}")


def _poses(response: httpx.Response) -> Poses:
    try:
        return Poses.from_json(response.json()["results"][0])
    except (ValueError, LookupError, TypeError) as error:
        raise _not_ours(error) from error


def _skeleton(response: httpx.Response) -> Skeleton:
    try:
        return Skeleton.from_json(response.json())
    except (ValueError, LookupError, TypeError) as error:
        raise _not_ours(error) from error


def _answer(line: str) -> Answer | None:
    """An answer of a line of JSON; None for the last line, which warns of frames that were lost.

    Raises ServiceError for a last line that reports a failure.
    """
    try:
        value = json.loads(line)
        if "end" in value:
            if lost := value["end"]["lost"]:
                warnings.warn(f"{lost} frames of the video are damaged and have no answer", stacklevel=2)
            return None
        if "frame_id" not in value:
            raise ServiceError(value["error"]["code"], value["error"]["message"])
        return Answer.from_json(value)
    except (ValueError, LookupError, TypeError) as error:
        raise _not_ours(error) from error


def _not_ours(error: Exception) -> ServiceError:
    return ServiceError("invalid_answer", f"the answer is not that of a pose service: {error!r}")
