"""The body of an HTTP request, and the images in it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from io import BytesIO

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from service.api.http.form import FIELDS, read_form
from service.errors import Abandoned, ImageTooLarge, MalformedBody, ReceiptTimeout, UnsupportedMediaType

_MAX_CONTENT_TYPE = 256  # a boundary has at most 70 characters


async def read_images(
    request: Request, decoders: Executor, *, max_bytes: int, timeout_s: float
) -> list[bytes]:
    """The encoded images of a multipart form, or the one that is the body itself.

    At most max_bytes and timeout_s for the whole body. Raises PoseError of many kinds.
    """
    content_type = request.headers.get("content-type", "")
    # no more of it: the parser takes half a second for 64 kB of semicolons
    kind, options = parse_options_header(content_type[:_MAX_CONTENT_TYPE])
    if kind == b"multipart/form-data":
        if not (boundary := options.get(b"boundary")):
            raise MalformedBody("not a valid multipart form: its content type has no boundary")
        body = await read_body(request, max_bytes=max_bytes, timeout_s=timeout_s)
        return await asyncio.get_running_loop().run_in_executor(decoders, read_form, body, boundary)
    if kind.startswith(b"image/") or kind == b"application/octet-stream":
        return [await read_body(request, max_bytes=max_bytes, timeout_s=timeout_s)]
    given = kind.decode(errors="replace")[:64] or "none"
    raise UnsupportedMediaType(
        f"content type {given!r} is not taken: send the bytes of an image as image/* or"
        f" application/octet-stream, or files in the field {FIELDS[0]!r} of multipart/form-data;"
        " base64 is not decoded here"
    )


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body. Raises ImageTooLarge, ReceiptTimeout or Abandoned."""
    body = BytesIO()  # which gives its bytes without copying them once more
    async with receipt(timeout_s):
        async for chunk in limited(request, max_bytes):
            body.write(chunk)
    return body.getvalue()


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
