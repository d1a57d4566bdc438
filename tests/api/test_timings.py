"""Stage times of answers tell where the time of a request went, under load too."""

import asyncio

import pytest

from tests.api.test_lifecycle import call, post
from tests.support.service import Launch

STAGES = ("decode", "queue", "detect", "pose", "other")


@pytest.mark.parametrize("worker", ["thread", "process"])
async def test_stages_account_for_the_time_of_requests_under_load(
    launch: Launch, photo: bytes, worker: str
) -> None:
    service = launch(slow=True, worker=worker)
    await asyncio.gather(*(ask(service, photo) for ask in [post, call] * 10))
    service.terminate()
    await asyncio.to_thread(service.wait)
    lines = [line for line in service.log if line["message"] == "request"]
    assert len(lines) == 20
    for line in lines:
        assert sum(line[stage] for stage in STAGES) <= line["seconds"] + 1e-4
    seconds = sum(line["seconds"] for line in lines)
    assert sum(line[stage] for line in lines for stage in STAGES) >= 0.9 * seconds
    assert sum(line["other"] for line in lines) <= 0.2 * seconds
