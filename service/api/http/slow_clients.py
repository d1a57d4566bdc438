"""uvicorn's protocols for peers that take their time.

The head of a request, a WebSocket message and the taking of an answer have deadlines; the number of
connections has a limit.
"""

from asyncio import TimerHandle, Transport
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi.responses import Response
from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.api.http.problem import pose_problem, problem
from service.errors import MalformedBody, ReceiptTimeout

_MAX_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True)
class Limits:
    """head_s: for the head of a request, from the connection or the last answer on.

    transfer_s: for a WebSocket message to arrive once begun, and for an answer to be taken. connections:
    open at once; one more takes the place of the one that has rested longest, or is closed where none rests.
    """

    head_s: float
    transfer_s: float
    connections: int
    # those without a request, longest first
    resting: dict["PatientHttp", None] = field(default_factory=dict)


class PatientHttp(HttpToolsProtocol):
    """HTTP whose heads and answers have deadlines."""

    def __init__(self, *args: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._head_bytes = 0
        self._in_head = False
        self._resting: TimerHandle | None = None
        self._writing: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """See Protocol."""
        super().connection_made(transport)
        self._rest(self._limits.head_s)
        if len(self.connections) > self._limits.connections:
            longest = next(iter(self._limits.resting))  # this one, where all others are at work
            longest._stir()
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See Protocol."""
        self._stir()
        super().connection_lost(exc)  # which resumes writing, and so ends that deadline too

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(problem(431, "head_too_large", f"the head passes {_MAX_HEAD_BYTES} bytes"))

    def on_message_begin(self) -> None:
        """See httptools."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._in_head = False
        self._stir()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """See HttpToolsProtocol."""
        super().on_response_complete()
        if self.cycle.response_complete:  # else a request waits behind this one
            busy = self.cycle.more_body or self.transport.get_write_buffer_size() > 0
            self._rest(self._limits.transfer_s if busy else self._limits.head_s)

    def pause_writing(self) -> None:
        """See Protocol."""
        super().pause_writing()
        self._writing = self.loop.call_later(self._limits.transfer_s, self.transport.abort)

    def resume_writing(self) -> None:
        """See Protocol."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _rest(self, seconds: float) -> None:
        """Nothing is asked: it must be, before long."""
        self._stir()
        self._limits.resting[self] = None
        self._resting = self.loop.call_later(seconds, self._expire)

    def _stir(self) -> None:
        self._limits.resting.pop(self, None)
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None

    def _expire(self) -> None:
        if self._in_head and not self.transport.get_write_buffer_size():
            seconds = self._limits.head_s
            self._refuse(pose_problem(ReceiptTimeout(f"the head did not arrive within {seconds:g} s")))
        else:
            self.transport.abort()

    def _refuse(self, response: Response) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_encoded(response, self.server_state.default_headers))
        self.transport.close()


class PatientWebSocket(WebSocketsSansIOProtocol):
    """WebSocket whose messages have a deadline, once begun."""

    def __init__(self, *args: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._arriving: TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """See Protocol."""
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            refusal = pose_problem(MalformedBody("not a sound WebSocket handshake"))  # the peer would wait
            self.transport.write(_encoded(refusal, self.default_headers))
            self.transport.close()
        self._watch()

    async def receive(self) -> ASGIReceiveEvent:
        """See ASGI."""
        message = await super().receive()
        self._forget()  # the next message may have been held back until now
        self._watch()
        return message

    def _watch(self) -> None:
        begun = bool(self.frames or self.conn.reader.buffer)
        if not begun or self.read_paused or self.disconnected:
            self._forget()
        elif self._arriving is None:
            self._arriving = self.loop.call_later(self._limits.transfer_s, self._expire)

    def _forget(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _expire(self) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1008})
        if not self.close_sent:
            self.conn.fail(1008, "receipt_timeout")
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self.transport.close()


def _encoded(response: Response, headers: list[tuple[bytes, bytes]]) -> bytes:
    """An answer as it goes over a connection that ends with it."""
    response.headers["connection"] = "close"
    lines = [f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}".encode()]
    lines += [name + b": " + value for name, value in (*headers, *response.raw_headers)]
    return b"\r\n".join([*lines, b"", response.body])
