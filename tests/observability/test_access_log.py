"""When a request is recorded."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from service.app import create_app
from service.config import Settings
from service.observability.access_log import observed, record_answered
from service.observability.logs import JsonFormatter


def recorded(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The ids of the recorded requests."""
    return [record.__dict__["request_id"] for record in caplog.records if record.message == "request"]


async def test_a_request_is_recorded_after_its_answer_or_when_metrics_are_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    for ident in ("one", "two"):
        with observed("rest", ident, code="200"):
            pass
    assert recorded(caplog) == []
    record_answered()
    assert recorded(caplog) == ["one", "two"]
    with observed("rest", "three", code="200"):
        pass
    for _ in range(200):
        await asyncio.sleep(0.01)
        if len(recorded(caplog)) == 3:
            break
    assert recorded(caplog) == ["one", "two", "three"]


async def test_requests_do_not_wait_when_many_have_been_answered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    idents = [f"{number}" for number in range(100)]
    for ident in idents:
        with observed("rest", ident, code="200"):
            pass
    assert recorded(caplog) == idents[: len(recorded(caplog))]
    assert len(recorded(caplog)) > 50
    record_answered()
    assert recorded(caplog) == idents


async def test_a_log_line_has_the_time_of_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = datetime.now(UTC)
    with observed("rest", "one", code="200"):
        pass
    after = datetime.now(UTC)
    await asyncio.sleep(0.05)
    record_answered()
    (line,) = (JsonFormatter().format(record) for record in caplog.records if record.message == "request")
    moment = datetime.fromisoformat(json.loads(line)["time"])
    assert before - timedelta(milliseconds=1) <= moment <= after  # a line has whole milliseconds


async def test_the_application_records_all_requests_before_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever server runs it."""
    caplog.set_level(logging.INFO)
    app = create_app(Settings(http_port=0, grpc_port=0))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            answer = await http.post("/v1/poses", content=b"no image")
    assert recorded(caplog) == [answer.headers["x-request-id"]]
