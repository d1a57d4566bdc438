"""Files that are read again when they change."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from service.errors import ConfigError

logger = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0  # links are followed, which notices of the file system would not do


class Watch:
    """Looks after files from the moment it is made, which is to be before they are read."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._seen = self._state()

    async def run(self, load: Callable[[], None]) -> None:
        """Calls `load` after each change, for ever. What ConfigError tells is logged."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if (state := self._state()) == self._seen:
                continue
            self._seen = state
            about = {"files": [str(path) for path in self._files]}
            try:
                load()
            except ConfigError as error:
                logger.error("not reloaded, what was in force stays: %s", error, extra=about)
            else:
                logger.info("reloaded", extra=about)

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [_state(path) for path in self._files]


def _state(path: Path) -> tuple[int, int, int] | None:
    """What differs when a file was written or replaced, None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
