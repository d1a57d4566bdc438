"""How many decoded pixels there may be at a time."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class PixelMemory:
    """A budget of pixels that threads share: first come, first served."""

    def __init__(self, pixels: int) -> None:
        self._total = self._free = pixels
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def room(self, pixels: int) -> Iterator[None]:
        """Room for so many pixels, waited for. More than all there are count as all."""
        pixels, place = min(pixels, self._total), object()
        with self._changed:
            # who asks for much would wait for ever if those who come later and ask for little went first
            self._waiting.append(place)
            self._changed.wait_for(lambda: self._waiting[0] is place and self._free >= pixels)
            self._waiting.popleft()
            self._free -= pixels
            self._changed.notify_all()  # there may be room for the next too
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()
