"""Bytes that arrive in chunks, of any total size."""

from collections.abc import Iterator
from io import BytesIO

BLOCK = 2**20  # bytes


class Blocks:
    """Bytes in blocks of about 1 MiB.

    A single buffer would be copied each time it grows, on the event loop: 20 ms for 20 MB.
    """

    def __init__(self) -> None:
        self.size = 0
        self._blocks = [BytesIO()]

    def write(self, data: bytes) -> int:
        """Append."""
        if self._blocks[-1].tell() >= BLOCK:
            self._blocks.append(BytesIO())
        self.size += len(data)
        return self._blocks[-1].write(data)

    def windows(self, size: int) -> Iterator[bytes]:
        """The bytes in pieces of at most `size`."""
        for block in self._blocks:
            block.seek(0)
            while window := block.read(size):
                yield window

    def take(self) -> bytes:
        """All bytes, which are then no longer held here. A copy if there are several blocks."""
        blocks, self._blocks, self.size = self._blocks, [BytesIO()], 0
        # joining bytes does not hold the interpreter's lock
        return b"".join([block.getvalue() for block in blocks])
