"""uvicorn's protocols with deadlines for slow clients.

The head of a request, a WebSocket message and the reading of an answer have deadlines. The number of
connections is limited.
"""

from asyncio import TimerHandle, Transport
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi.responses import Response
from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.api.http.joined_writes import JoinedWrites
from service.api.http.problem import pose_problem, problem
from service.api.intake import GRACE_S
from service.errors import ConfigError, MalformedBody, ReceiptTimeout

_MAX_HEAD_BYTES = 64 * 1024
_SLOW_BODY = 4096  # bytes a second


@dataclass(frozen=True)
class Limits:
    """Deadlines and the limit of connections.

    head_s: for the head of a request, from the connection or its first byte on. idle_s: between an answer
    and the next request. transfer_s: for a WebSocket message to arrive once it has begun, and for an answer
    to be read. connections: at the limit, a new connection replaces the one that has been idle longest, or
    one whose body arrives slowly; otherwise it is closed.
    """

    head_s: float
    idle_s: float
    transfer_s: float
    connections: int


class Connections(dict["PatientHttp", None]):
    """The connections that wait for their clients, longest first."""


class PatientHttp(HttpToolsProtocol):
    """HTTP with deadlines for heads and answers."""

    def __init__(
        self, *args: Any, limits: Limits, idle: Connections, receiving: Connections, **options: Any
    ) -> None:
        """idle: those between two requests or in a head; receiving: those in a body."""
        super().__init__(*args, **options)
        self._limits, self._idle, self._receiving = limits, idle, receiving
        self._head_bytes = self._body_bytes = 0
        self._body_begun = 0.0
        self._in_head = False
        self._deadline: TimerHandle | None = None
        self._writing: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """See Protocol."""
        super().connection_made(transport)
        self._start_idle(self._limits.head_s)
        if len(self.connections) > self._limits.connections:
            longest = next(iter(self._idle))  # this one, if no other is idle
            if longest is self:
                longest = next(filter(PatientHttp._is_slow, self._receiving), self)
            longest._end_idle()
            longest._end_body()
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See Protocol."""
        self._end_idle()
        self._end_body()
        super().connection_lost(exc)  # it resumes writing, which ends that deadline too

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(
                    problem(431, "head_too_large", f"the head is larger than {_MAX_HEAD_BYTES} bytes")
                )

    def on_message_begin(self) -> None:
        """See httptools."""
        self._in_head, self._head_bytes = True, 0
        if self.cycle is not None and self.cycle.response_complete:
            self._start_idle(self._limits.head_s)  # the time of the first head starts with the connection
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._in_head = False
        self._end_idle()
        self._receiving[self] = None
        self._body_bytes, self._body_begun = 0, self.loop.time()
        super().on_headers_complete()
        if self.cycle is not None:  # otherwise the request became a WebSocket
            self.cycle.transport = JoinedWrites(self.transport, self.loop)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        self._end_body()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """See HttpToolsProtocol."""
        super().on_response_complete()
        if self.cycle.response_complete:  # otherwise a pipelined request follows
            busy = self.cycle.more_body or self.transport.get_write_buffer_size() > 0
            waiting_s = self._limits.head_s if self._in_head else self._limits.idle_s
            self._start_idle(self._limits.transfer_s if busy else waiting_s)

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

    def _start_idle(self, seconds: float) -> None:
        """Idle: close the connection unless the head of a request is complete in time."""
        self._end_idle()
        self._idle[self] = None
        self._deadline = self.loop.call_later(seconds, self._expire)

    def _end_idle(self) -> None:
        self._idle.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_body(self) -> None:
        self._receiving.pop(self, None)

    def _is_slow(self) -> bool:
        """Whether the body arrives slowly, although the service reads it."""
        age = self.loop.time() - self._body_begun
        held_back = self.flow.read_paused or self.cycle.waiting_for_100_continue
        return age > GRACE_S and self._body_bytes < _SLOW_BODY * age and not held_back

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
    """WebSocket with a deadline for messages that have begun."""

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
            refusal = pose_problem(
                MalformedBody("not a valid WebSocket handshake")
            )  # otherwise the client waits
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


def check_hooks() -> None:
    """Raises ConfigError if uvicorn no longer has a method that a deadline needs."""
    for protocol in (PatientHttp, PatientWebSocket):
        (base,) = protocol.__bases__
        for name in vars(protocol):
            if not name.startswith("_") and not hasattr(base, name):
                raise ConfigError(
                    f"uvicorn {version('uvicorn')} has no {base.__name__}.{name}: deadlines need it"
                )


def _encoded(response: Response, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The bytes of an answer after which the connection is closed."""
    response.headers["connection"] = "close"
    lines = [f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}".encode()]
    lines += [name + b": " + value for name, value in (*headers, *response.raw_headers)]
    return b"\r\n".join([*lines, b"", response.body])
