"""Streams over WebSocket: images in, JSON out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import count

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from service.api.http.stream_schemas import StreamQuery, failure_json
from service.core.estimator import Estimator
from service.errors import (
    Abandoned,
    InferenceFailed,
    InvalidArgument,
    Overloaded,
    PoseError,
    ReceiptTimeout,
    ShuttingDown,
)
from service.observability.access_log import observed_opening, request_id
from service.observability.tracing import TRACEPARENT, join_trace
from service.streaming.frames import StreamConfig, StreamFrame
from service.streaming.stream import Stream

# IANA's registry of WebSocket close codes
_VIOLATION = 1008
_CLOSE_CODES = {InferenceFailed: 1011, ShuttingDown: 1012, Overloaded: 1013}
_END = "end"
_MAX_CONFIG = 4096  # characters; a list of a million faults takes 14 s
_SUBPROTOCOL = "pose.v1"


@dataclass(frozen=True)
class WebSocketApi:
    """The route /v1/stream. receipt_timeout_s: limit for a stream's config to arrive."""

    estimator: Estimator
    receipt_timeout_s: float

    def install(self, app: FastAPI) -> None:
        """Add the route to an application."""
        app.add_api_websocket_route("/v1/stream", self.stream)

    async def stream(self, socket: WebSocket) -> None:
        """Receives a text message with the config as JSON, then images; answers each with a text message.

        Frames are numbered from 0. The text `end` finishes the stream after the remaining answers. If the
        stream fails, the last message and the close code report it.
        """
        join_trace(socket.headers.get(TRACEPARENT))
        ident = request_id(socket.headers.get("x-request-id"))
        # a page that sends a key as a subprotocol expects that one is chosen
        subprotocol = _SUBPROTOCOL if _SUBPROTOCOL in socket.scope["subprotocols"] else None
        await socket.accept(subprotocol, headers=[(b"x-request-id", ident.encode())])
        gone = asyncio.Event()
        work = asyncio.create_task(self._converse(socket, ident, gone))
        leaving = asyncio.create_task(gone.wait())
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            leaving.cancel()
            await asyncio.gather(work, leaving, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def _converse(self, socket: WebSocket, ident: str, gone: asyncio.Event) -> None:
        with suppress(WebSocketDisconnect):
            try:
                with observed_opening("websocket", ident) as opening:
                    stream = Stream(self.estimator, await self._config(socket), api="websocket", ident=ident)
                    async with aclosing(stream.answers(_frames(socket, gone))) as answers:
                        async for answer in answers:
                            opening.done = True
                            await socket.send_text(answer.json().decode())
                await socket.close()
            except PoseError as error:
                await socket.send_text(failure_json(error).decode())
                await socket.close(_CLOSE_CODES.get(type(error), _VIOLATION), error.code)

    async def _config(self, socket: WebSocket) -> StreamConfig:
        """Raises InvalidArgument, ReceiptTimeout or WebSocketDisconnect."""
        try:
            async with asyncio.timeout(self.receipt_timeout_s):
                message = await socket.receive()
        except TimeoutError:
            raise ReceiptTimeout("the config did not arrive in time") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        text = message.get("text") or ""
        if len(text) > _MAX_CONFIG:
            raise InvalidArgument(f"the config, the first message, is longer than {_MAX_CONFIG} characters")
        try:
            return StreamQuery.model_validate_json(text).config()
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise InvalidArgument(f"the first message is not a valid config: {'; '.join(faults)}") from None


async def _frames(socket: WebSocket, gone: asyncio.Event) -> AsyncIterator[StreamFrame]:
    """The frames until the text `end`. Raises InvalidArgument, or Abandoned after `gone` is set."""
    for frame_id in count():
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            gone.set()
            raise Abandoned("the client closed the connection")
        if message.get("text") == _END:
            return
        if message.get("bytes") is None:
            raise InvalidArgument(f"a text message after the config must be {_END!r}")
        yield StreamFrame(frame_id, message["bytes"])
