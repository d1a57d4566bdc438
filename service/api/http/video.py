"""Video files over REST: frames are answered while the file is read."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Annotated, BinaryIO

from fastapi import FastAPI, Query, Request
from fastapi.responses import StreamingResponse

from service.api.http.schemas import problems
from service.api.http.stream_schemas import VIDEO_BODY, FrameAnswer, VideoQuery, failure_json
from service.api.http.upload import limited, receipt
from service.core.estimator import Estimator
from service.errors import PoseError, UnsupportedMediaType
from service.observability.access_log import Access
from service.streaming.frames import Answer, StreamFrame
from service.streaming.stream import Stream
from service.streaming.video import open_video


class JsonLines(StreamingResponse):
    """Newline-delimited JSON."""

    media_type = "application/x-ndjson"


@dataclass(frozen=True)
class VideoApi:
    """The route /v1/videos. receipt_timeout_s: for the whole body to arrive."""

    estimator: Estimator
    decoders: Executor
    max_bytes: int
    max_seconds: float
    receipt_timeout_s: float

    def install(self, app: FastAPI) -> None:
        """Add the route to an application."""
        app.add_api_route(
            "/v1/videos",
            self.videos,
            methods=["POST"],
            summary="The persons of each frame of a video",
            response_class=JsonLines,
            response_model=FrameAnswer,
            response_description="A line of JSON for each frame.",
            responses=problems(400, 408, 413, 415, 422, 429, 500, 501, 503),
            openapi_extra=VIDEO_BODY,
        )

    async def videos(self, request: Request, query: Annotated[VideoQuery, Query()]) -> JsonLines:
        """A line of JSON for each frame, in order, as soon as it is done.

        Closing the connection ends the work. A failure in mid-video is told in a last line with an `error`
        and no `frame_id`.
        """
        config = query.config()
        file = await self._receive(request)
        access: Access = request.scope["state"]["access"]
        loop = asyncio.get_running_loop()
        frames = await loop.run_in_executor(self.decoders, self._open, file)
        stream = Stream(self.estimator, config, api="video", ident=access.request_id)
        answers = stream.answers(self._frames(frames))
        first = await anext(answers, None)  # a stream for which there is no place gets a status of its own
        return JsonLines(_lines(first, answers))

    async def _receive(self, request: Request) -> BinaryIO:
        """The body as a temporary file, at its start. Raises PoseError of many kinds."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not media_type.startswith("video/") and media_type != "application/octet-stream":
            raise UnsupportedMediaType(f"content type {media_type or 'none'!r} is not taken: send video/*")
        # a file, as most containers cannot be read without going back and forth
        file = TemporaryFile()  # noqa: SIM115  it is closed with its frames
        try:
            async with receipt(self.receipt_timeout_s):
                async for chunk in limited(request, self.max_bytes):
                    file.write(chunk)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return file

    def _open(self, file: BinaryIO) -> Iterator[StreamFrame]:
        pixels = self.estimator.max_pixels
        return open_video(file, max_seconds=self.max_seconds, max_pixels=pixels)

    async def _frames(self, frames: Iterator[StreamFrame]) -> AsyncIterator[StreamFrame]:
        """The frames, decoded beside the event loop as they are asked for."""
        loop = asyncio.get_running_loop()
        while (frame := await loop.run_in_executor(self.decoders, next, frames, None)) is not None:
            yield frame


async def _lines(first: Answer | None, answers: AsyncGenerator[Answer, None]) -> AsyncIterator[bytes]:
    async with aclosing(answers):
        try:
            if first is not None:
                yield first.json() + b"\n"
            async for answer in answers:
                yield answer.json() + b"\n"
        except PoseError as error:
            yield failure_json(error) + b"\n"
