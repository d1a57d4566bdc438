"""Receives the body of an HTTP request and the images in it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.api.http.access import access_of
from service.api.http.blocks import BLOCK, Blocks
from service.api.http.form import FormReader, form_boundary
from service.api.intake import Intake
from service.errors import Abandoned, ImageTooLarge

_FIELDS = ("image", "file")
_WINDOW = 2**16  # bytes parsed at a time; between them other threads get the interpreter's lock


@asynccontextmanager
async def received_images(request: Request, intake: Intake, decoders: Executor) -> AsyncIterator[list[bytes]]:
    """The encoded images of a multipart form, or the body as the only image; open until the answer.

    Raises several kinds of PoseError.
    """
    boundary = form_boundary(request.headers.get("content-type", ""), "image", _FIELDS)
    async with received_body(request, intake) as body:
        read = partial(_read_image, body) if boundary is None else partial(_read_form, body, boundary)
        if boundary is None and body.size <= BLOCK:
            yield read()
        else:  # takes milliseconds
            yield await asyncio.get_running_loop().run_in_executor(decoders, read)


@asynccontextmanager
async def received_body(request: Request, intake: Intake) -> AsyncIterator[Blocks]:
    """The whole body; holds its memory while open. Raises several kinds of PoseError."""
    async with intake.admitted(host_of(request), content_length(request, intake.max_bytes)) as held:
        body = Blocks()
        async with held.arriving():
            async for chunk in limited(request, intake.max_bytes):
                body.write(chunk)
                held.received = body.size
        access_of(request.scope).receipt_ended()
        held.shrink(body.size)
        yield body


def host_of(request: Request) -> str:
    """The address of the client, without its port; empty over a Unix socket."""
    return request.client.host if request.client else ""


def content_length(request: Request, max_bytes: int) -> int | None:
    """The Content-Length, if there is one. Raises ImageTooLarge."""
    announced = request.headers.get("content-length", "")
    if not announced.isdigit():
        return None
    if int(announced) > max_bytes:
        raise _too_large(max_bytes)
    return int(announced)


async def limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body in chunks. Raises ImageTooLarge above max_bytes, and Abandoned."""
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > max_bytes:
                raise _too_large(max_bytes)
            yield chunk
    except ClientDisconnect:
        raise Abandoned("the client closed the connection") from None


def _too_large(max_bytes: int) -> ImageTooLarge:
    return ImageTooLarge(f"the body is larger than {max_bytes} bytes")


def _read_image(body: Blocks) -> list[bytes]:
    return [body.take()]


def _read_form(body: Blocks, boundary: bytes) -> list[bytes]:
    """The files of a form, in order. Raises MalformedBody or InvalidArgument."""
    files: list[Blocks] = []

    def new_file() -> Blocks:
        files.append(Blocks())
        return files[-1]

    form = FormReader(boundary, _FIELDS, new_file)
    for window in body.windows(_WINDOW):
        form.write(window)
    form.close()
    return [file.take() for file in files]
