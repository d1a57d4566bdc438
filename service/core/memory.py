"""A limit of the decoded pixels in memory."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class PixelMemory:
    """A budget of pixels shared by threads, in order of arrival."""

    def __init__(self, pixels: int) -> None:
        self.total = self._free = pixels
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def room(self, pixels: int) -> Iterator[None]:
        """Wait until the budget has room for `pixels` and hold it. A larger request counts as the whole
        budget.
        """
        pixels, place = min(pixels, self.total), object()
        with self._changed:
            # in order of arrival: otherwise small requests overtake a large one again and again
            self._waiting.append(place)
            self._changed.wait_for(lambda: self._waiting[0] is place and self._free >= pixels)
            self._waiting.popleft()
            self._free -= pixels
            self._changed.notify_all()  # there may be room for the next one too
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()
