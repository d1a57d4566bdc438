"""Messages between two processes: pickled, with the pixels in memory that both share."""

import mmap
import os
import pickle
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from tempfile import TemporaryFile
from threading import Lock
from typing import Any
from weakref import finalize

_LENGTH = struct.Struct("!Q")
_KEPT = 2**25  # bytes; larger files are not kept for further messages


@dataclass(frozen=True, slots=True)
class Parcel:
    """A pickled message. sizes: of its arrays in bytes; they follow each other in the file `file`."""

    pickled: bytes
    sizes: Sequence[int] = ()
    file: int | None = None


class SharedFiles:
    """Files in memory for the arrays of messages; any number of threads may use them.

    They are kept for further messages, because fresh memory takes ten times as long to write.
    """

    def __init__(self) -> None:
        self._free: list[_File] = []

    @contextmanager
    def packed(self, message: object) -> Iterator[Parcel]:
        """The message, with its arrays in a file that is not reused until the end of the block."""
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(message, 5, buffer_callback=buffers.append)
        if not buffers:
            yield Parcel(pickled)
            return
        arrays = [buffer.raw() for buffer in buffers]
        file = self._free.pop() if self._free else _File()
        try:
            file.write(arrays)
            yield Parcel(pickled, [array.nbytes for array in arrays], file.number)
        finally:
            if file.size <= _KEPT:
                self._free.append(file)


class _File:
    """A file in memory; `number` is its descriptor."""

    def __init__(self) -> None:
        self.number = _descriptor()
        finalize(self, os.close, self.number)
        self._resize(mmap.PAGESIZE)

    def write(self, arrays: Sequence[memoryview]) -> None:
        """Write the arrays one after the other, from the start."""
        needed = sum(array.nbytes for array in arrays)
        if needed > self.size:
            self._resize(needed)
        self._memory.seek(0)
        for array in arrays:
            self._memory.write(array)

    def _resize(self, size: int) -> None:
        os.ftruncate(self.number, size)
        self._memory, self.size = mmap.mmap(self.number, size), size


def _descriptor() -> int:
    if sys.platform == "linux":
        return os.memfd_create("pixels")
    with TemporaryFile() as file:
        return os.dup(file.fileno())


class Link:
    """One end of a connection. Several threads may send while one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket, self._sending = end, Lock()

    def send(self, number: int, parcel: Parcel) -> None:
        """Send a numbered message. Raises OSError when the connection is closed."""
        data = pickle.dumps((number, parcel.pickled, parcel.sizes))
        files = [] if parcel.file is None else [parcel.file]
        with self._sending:
            socket.send_fds(self._socket, [_LENGTH.pack(len(data))], files)
            self._socket.sendall(data)

    def receive(self) -> tuple[int, Any]:
        """The next message and its number; its arrays are read-only.

        Raises EOFError or OSError when the connection is closed.
        """
        head, files, _, _ = socket.recv_fds(self._socket, _LENGTH.size, 1, socket.MSG_WAITALL)
        if len(head) < _LENGTH.size:
            raise EOFError
        number, pickled, sizes = pickle.loads(self._exactly(*_LENGTH.unpack(head)))
        return number, pickle.loads(pickled, buffers=_arrays(files[0], sizes) if files else ())

    def poll(self, timeout_s: float) -> bool:
        """Whether a message, or the end, arrives within the time."""
        return bool(wait([self._socket], timeout_s))

    def close(self) -> None:
        """Close the connection after the running `send`."""
        with self._sending:  # a sender must not find the descriptor closed, or taken by another file
            self._socket.close()

    def _exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        if self._socket.recv_into(data, length, socket.MSG_WAITALL) < length:
            raise EOFError
        return data


def _arrays(file: int, sizes: Sequence[int]) -> Iterator[memoryview]:
    """The arrays in the file; it is closed here, and its memory is released with the last array."""
    try:
        memory = memoryview(mmap.mmap(file, sum(sizes), access=mmap.ACCESS_READ))
    finally:
        os.close(file)
    start = 0
    for size in sizes:
        yield memory[start : start + size]
        start += size
