"""The head and the body of an answer are sent together."""

import asyncio
import socket
from typing import Any

from service.api.http.joined_writes import JoinedWrites
from tests.support.service import Service


class Sent:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 7


def joined() -> tuple[Sent, Any]:
    sent: Any = Sent()
    return sent, JoinedWrites(sent, asyncio.get_running_loop())


def test_an_answer_arrives_in_one_piece(service: Service, small: bytes) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    fields = f"Host: {host}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(small)}\r\n\r\n"
    head = f"POST /v1/poses HTTP/1.1\r\n{fields}".encode()
    with socket.create_connection((host, int(port)), timeout=30) as peer:
        for _ in range(20):
            peer.sendall(head + small)
            answer = peer.recv(2**16)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"}"), answer


async def test_the_first_two_writes_are_joined_and_later_ones_are_sent_at_once() -> None:
    sent, answer = joined()
    for data in (b"head ", b"one", b"two"):
        answer.write(data)
    assert sent.writes == [b"head one", b"two"]
    await asyncio.sleep(0)
    assert sent.writes == [b"head one", b"two"]
    assert answer.get_write_buffer_size() == 7


async def test_the_head_of_a_stream_does_not_wait_for_its_first_part() -> None:
    sent, answer = joined()
    answer.write(b"head")
    assert not sent.writes
    await asyncio.sleep(0)
    assert sent.writes == [b"head"]
    answer.write(b"part")
    assert sent.writes == [b"head", b"part"]


async def test_what_is_held_is_sent_before_the_end_and_not_after_it() -> None:
    sent, answer = joined()
    answer.write(b"head")
    answer.close()
    assert sent.writes == [b"head"] and sent.closed
    lost, cut = joined()
    cut.write(b"head")
    lost.close()  # by the other side
    await asyncio.sleep(0)
    assert not lost.writes
