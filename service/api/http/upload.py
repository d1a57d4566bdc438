"""The images in the body of an HTTP request."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from service.errors import (
    Abandoned,
    ImageTooLarge,
    InvalidArgument,
    MalformedBody,
    PoseError,
    ReceiptTimeout,
    UnsupportedMediaType,
)

FIELD = "image"


async def read_images(request: Request, *, max_bytes: int, timeout_s: float) -> list[bytes]:
    """The encoded images of a multipart form's `image` fields, or the one that is the body itself.

    At most max_bytes and timeout_s for the whole body. Raises PoseError of many kinds.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = limited(request, max_bytes)
    async with receipt(timeout_s):
        if media_type == "multipart/form-data":
            return await _read_form(request, body, max_bytes)
        if media_type.startswith("image/"):
            return [b"".join([chunk async for chunk in body])]
    raise UnsupportedMediaType(
        f"content type {media_type or 'none'!r} is not taken:"
        f" send multipart/form-data with the field {FIELD!r}, or image/*"
    )


@asynccontextmanager
async def receipt(timeout_s: float) -> AsyncIterator[None]:
    """Open while a body arrives. Raises ReceiptTimeout, and Abandoned when the client goes away."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise ReceiptTimeout(f"the body did not arrive within {timeout_s:g} s") from None
    except ClientDisconnect:
        raise Abandoned("the client closed the connection") from None


async def limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body, chunk by chunk. Raises ImageTooLarge as soon as it is known to pass max_bytes."""
    too_large = ImageTooLarge(f"the body is larger than {max_bytes} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise too_large
        yield chunk


async def _read_form(request: Request, body: AsyncGenerator[bytes, None], max_bytes: int) -> list[bytes]:
    parser = MultiPartParser(request.headers, body, max_fields=16)
    parser.spool_max_size = max_bytes  # the limit keeps bodies in memory; nothing is written to disk
    try:
        form = await parser.parse()
    except PoseError:
        raise
    except (MultiPartException, ValueError, KeyError) as error:
        raise MalformedBody(f"not a sound multipart form: {getattr(error, 'message', error)}") from error
    if unknown := sorted({name for name, _ in form.multi_items()} - {FIELD}):
        raise InvalidArgument(f"unknown form field {unknown[0][:64]!r}: images go into {FIELD!r}")
    files = [value for _, value in form.multi_items()]
    if not files:
        raise InvalidArgument(f"the form has no field {FIELD!r}")
    return [await file.read() if isinstance(file, UploadFile) else _refuse_text() for file in files]


def _refuse_text() -> bytes:
    raise InvalidArgument(f"the form field {FIELD!r} is text, not a file: give the part a filename")
