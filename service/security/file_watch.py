"""Watches files and reloads them when they change."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from service.errors import ConfigError

logger = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0  # polling follows symbolic links, which file system events do not


class Watch:
    """Detects changes since its creation; create it before reading the files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._seen = self._state()

    async def run(self, load: Callable[[], None]) -> None:
        """Calls `load` after each change, until cancelled. A ConfigError or OSError is logged."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if (state := self._state()) == self._seen:
                continue
            self._seen = state
            about = {"files": [str(path) for path in self._files]}
            try:
                load()
            except (ConfigError, OSError) as error:  # a file may vanish while it is read
                logger.error("not reloaded, the previous files stay in use: %s", error, extra=about)
            else:
                logger.info("reloaded", extra=about)

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [_state(path) for path in self._files]


def _state(path: Path) -> tuple[int, int, int] | None:
    """A value that changes when a file is written or replaced; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
