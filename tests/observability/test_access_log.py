"""When a request is recorded."""

import asyncio
import logging

import pytest

from service.observability.access_log import observed, record_answered


async def test_a_request_is_recorded_after_its_answer_or_when_metrics_are_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def recorded() -> list[str]:
        return [record.__dict__["request_id"] for record in caplog.records if record.message == "request"]

    caplog.set_level(logging.INFO)
    for ident in ("one", "two"):
        with observed("rest", ident, code="200"):
            pass
    assert recorded() == []
    record_answered()
    assert recorded() == ["one", "two"]
    with observed("rest", "three", code="200"):
        pass
    for _ in range(200):
        await asyncio.sleep(0.01)
        if len(recorded()) == 3:
            break
    assert recorded() == ["one", "two", "three"]
