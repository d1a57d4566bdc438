"""A file that cannot be read for a moment does not end the watch over it."""

import asyncio
from pathlib import Path

from service.security.file_watch import Watch


async def test_a_file_that_vanishes_while_it_is_read_is_read_again_later(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.write_text("first")
    read: list[str] = []

    def load() -> None:
        if len(read) == 0:
            read.append("vanished")
            (tmp_path / "missing").read_text()  # as if the file were replaced at this moment
        read.append(file.read_text())

    watching = asyncio.create_task(Watch([file]).run(load))
    for text in ("second", "third"):
        file.write_text(text)
        await asyncio.sleep(1.5)
    watching.cancel()
    assert read == ["vanished", "third"]
