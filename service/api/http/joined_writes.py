"""Sends the head of an answer together with the beginning of its body.

uvicorn writes them one after the other, and each is sent at once: the client is woken for the head, and again
for the body.
"""

from asyncio import AbstractEventLoop, Transport
from typing import Any


class JoinedWrites:
    """A transport for one answer that holds its first write until the second one.

    Without a second one in the same turn of the event loop, as in a streamed answer, the first is sent alone.
    """

    def __init__(self, transport: Transport, loop: AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: bytes | None = None
        self._begun = False

    def write(self, data: bytes) -> None:
        """See Transport."""
        if self._begun:
            self._transport.write(self._take() + data)
        else:
            self._begun, self._held = True, data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """See Transport."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's."""
        return getattr(self._transport, name)

    def _take(self) -> bytes:
        held, self._held = self._held or b"", None
        return held

    def _flush(self) -> None:
        if self._held is not None and not self._transport.is_closing():
            self._transport.write(self._take())
