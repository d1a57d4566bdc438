"""Messages between processes, with arrays in shared memory."""

import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.inference import link
from service.inference.link import Link, Parcel, SharedFiles


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    ours, theirs = (Link(end) for end in socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_arrays_arrive_as_they_were_sent(ends: tuple[Link, Link]) -> None:
    sent = [np.random.default_rng(size).integers(0, 255, (size, 5, 3), np.uint8) for size in (1, 7, 4000)]
    files = SharedFiles()
    for number, arrays in enumerate((sent[:1], sent, sent[1:])):  # smaller, larger, and a reused file
        with files.packed(("these", arrays)) as parcel:
            ends[0].send(number, parcel)
            arrived, (text, received) = ends[1].receive()
        assert (arrived, text) == (number, "these")
        for ours, theirs in zip(arrays, received, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert not theirs.flags.writeable


def test_messages_without_arrays_need_no_file(ends: tuple[Link, Link]) -> None:
    before = descriptors()
    with SharedFiles().packed({"answer": 42}) as parcel:
        ends[0].send(3, parcel)
        assert descriptors() == before
    ends[0].send(4, Parcel(pickle.dumps("x" * 10**5)))
    assert ends[1].receive() == (3, {"answer": 42})
    assert ends[1].receive() == (4, "x" * 10**5)


def test_a_file_is_reused_only_after_its_message(ends: tuple[Link, Link]) -> None:
    files, ones, twos = SharedFiles(), np.ones(10**6, np.uint8), np.full(10**6, 2, np.uint8)
    with files.packed(ones) as first:
        ends[0].send(1, first)
        _, received = ends[1].receive()
        with files.packed(twos) as second:
            assert second.file != first.file
        assert (received == 1).all()
    before = descriptors()
    for _ in range(10):
        with files.packed(twos) as third:
            assert third.file in (first.file, second.file)
    assert descriptors() == before


def test_large_files_and_received_arrays_are_released(
    ends: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_KEPT", 10**5)
    files, before = SharedFiles(), descriptors()
    for number in range(10):
        with files.packed(np.ones(10**6, np.uint8)) as parcel:
            ends[0].send(number, parcel)
            _, received = ends[1].receive()
        assert received.sum() == 10**6
        del received
    assert descriptors() == before
    assert "pixels" not in Path("/proc/self/maps").read_text()


def test_the_end_of_a_connection_is_an_error_of_both_ends() -> None:
    one, other = socket.socketpair()
    ours, theirs = Link(one), Link(other)
    assert not theirs.poll(0)
    one.sendall(b"\0" * 3)  # a part of a message
    ours.close()
    assert theirs.poll(1)
    with pytest.raises(EOFError):
        theirs.receive()
    with pytest.raises(OSError, match=r"."):
        theirs.send(1, Parcel(pickle.dumps(1)))
    theirs.close()
