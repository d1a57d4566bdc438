"""Video files over REST: answers are sent while the file is read."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass
from shutil import disk_usage
from tempfile import TemporaryFile, gettempdir
from typing import BinaryIO, TypeVar, cast

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from service.api.http.access import access_of
from service.api.http.form import FormReader, form_boundary
from service.api.http.query import RequestRoute, parameters, read_query
from service.api.http.schemas import problems
from service.api.http.stream_schemas import VIDEO_BODY, FrameAnswer, VideoQuery, end_json, failure_json
from service.api.http.upload import content_length, host_of, limited
from service.api.intake import Held, Intake
from service.core.estimator import Estimator
from service.errors import InvalidArgument, PoseError, StorageFull
from service.streaming.frames import Answer, StreamFrame
from service.streaming.stream import Stream
from service.streaming.video import Video, check_installed, open_video

T = TypeVar("T")
_FIELDS = ("video", "file")
_PIECE = 2**20  # bytes


class JsonLines(StreamingResponse):
    """Newline-delimited JSON."""

    media_type = "application/x-ndjson"


@dataclass(frozen=True)
class VideoApi:
    """The route /v1/videos. intake: for bodies on disk. max_seconds: length of the longest video."""

    estimator: Estimator
    decoders: Executor
    intake: Intake
    max_seconds: float

    def install(self, app: FastAPI) -> None:
        """Add the route to an application."""
        app.router.add_api_route(
            "/v1/videos",
            self.videos,
            route_class_override=RequestRoute,
            methods=["POST"],
            summary="The persons of each frame of a video",
            response_class=JsonLines,
            response_model=FrameAnswer,
            response_description="A line of JSON for each frame, and one for the end.",
            responses=problems(400, 408, 413, 415, 422, 429, 500, 501, 503, 507),
            openapi_extra=VIDEO_BODY | {"parameters": parameters(VideoQuery)},
        )

    async def videos(self, request: Request) -> JsonLines:
        """A line of JSON for each frame, in order, as soon as it is ready; then a line about the end.

        The last line has no `frame_id`. It is `end` with `counts` and the number of frames that could not be
        decoded (`lost`), or the `error` that ended the work. Closing the connection ends the work too.
        """
        config = read_query(request, VideoQuery).config()
        boundary = form_boundary(request.headers.get("content-type", ""), "video", _FIELDS)
        announced = content_length(request, self.intake.max_bytes)
        check_installed()
        loop = asyncio.get_running_loop()
        access = access_of(request.scope)
        async with self.intake.admitted(host_of(request), announced) as held:
            file = await asyncio.to_thread(_open_file, announced or 0)
            try:
                await self._receive(request, held, file, boundary)
                access.receipt_ended()
                video = await loop.run_in_executor(self.decoders, self._open, file)
            except BaseException:
                file.close()
                raise
        stream = Stream(self.estimator, config, api="video", ident=access.request_id)
        answers = stream.answers(self._frames(video))
        first = await anext(answers, None)  # a stream without a place gets an error status
        return JsonLines(_lines(first, answers, lambda: end_json(stream.counts, video.lost)))

    async def _receive(self, request: Request, held: Held, file: BinaryIO, boundary: bytes | None) -> None:
        """Write the video to the file and rewind it. Raises several kinds of PoseError."""
        form = None if boundary is None else FormReader(boundary, _FIELDS, _once(file))
        write = file.write if form is None else form.write
        async with held.arriving():
            async for piece in _pieces(limited(request, self.intake.max_bytes)):
                held.received += len(piece)
                await asyncio.to_thread(_on_disk, write, piece)
        if form is not None:
            form.close()
        await asyncio.to_thread(_on_disk, file.seek, 0)

    def _open(self, file: BinaryIO) -> Video:
        pixels = self.estimator.max_pixels
        return open_video(file, max_seconds=self.max_seconds, max_pixels=pixels)

    async def _frames(self, frames: Iterator[StreamFrame]) -> AsyncIterator[StreamFrame]:
        """The frames, decoded off the event loop on demand."""
        loop = asyncio.get_running_loop()
        while (frame := await loop.run_in_executor(self.decoders, next, frames, None)) is not None:
            yield frame


def _open_file(size: int) -> BinaryIO:
    """A temporary file with room for `size` bytes. Raises StorageFull.

    It is a file because most containers cannot be read without seeking.
    """
    file: BinaryIO = _on_disk(lambda: cast(BinaryIO, TemporaryFile()))  # noqa: SIM115
    free = _on_disk(disk_usage, gettempdir()).free
    if free < size:
        file.close()
        raise StorageFull(f"{free} bytes are free for videos, less than the {size} of this one")
    return file


def _on_disk(work: Callable[..., T], *arguments: object) -> T:
    """The result of work that needs disk space. Raises StorageFull."""
    try:
        return work(*arguments)
    except OSError as error:
        raise StorageFull(f"the video cannot be stored: {error.strerror or error}") from error


def _once(file: BinaryIO) -> Callable[[], BinaryIO]:
    """Returns the file, only for the first part of a form."""
    files = [file]

    def take() -> BinaryIO:
        if not files:
            raise InvalidArgument("the form has more than one video")
        return files.pop()

    return take


async def _pieces(chunks: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """The same bytes in larger pieces, each worth a call to a thread."""
    piece = bytearray()
    async for chunk in chunks:
        piece += chunk
        if len(piece) >= _PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


async def _lines(
    first: Answer | None, answers: AsyncGenerator[Answer, None], end: Callable[[], bytes]
) -> AsyncIterator[bytes]:
    async with aclosing(answers):
        try:
            if first is not None:
                yield first.json() + b"\n"
            async for answer in answers:
                yield answer.json() + b"\n"
            yield end() + b"\n"
        except PoseError as error:
            yield failure_json(error) + b"\n"
