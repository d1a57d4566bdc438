"""The pages that may open a WebSocket."""

from urllib.parse import urlsplit

import pytest
import websockets

from tests.support.service import Launch, Service
from tests.support.streams import ALL, config_text, websocket_url

FOREIGN = (
    "https://example.com",
    "http://127.0.0.1:1",
    "http://127.0.0.1",
    "http://127.0.0.1.example.com:{port}",
    "http://example.com@127.0.0.1:{port}",
    "null",
    "http://[",
    "",
)


async def answers(service: Service, photo: bytes, origin: str | None, **how: object) -> bool:
    """Whether a stream with that origin answers a frame. Raises InvalidStatus if it is refused."""
    headers = {} if origin is None else {"origin": origin}
    async with websockets.connect(websocket_url(service), additional_headers=headers, **how) as stream:  # type: ignore[arg-type]
        await stream.send(config_text(ALL))
        await stream.send(photo)
        return '"persons":[{' in str(await stream.recv())


async def test_programs_and_the_own_page_may_open_a_stream(service: Service, photo: bytes) -> None:
    for origin in (None, service.url, service.url.replace("http:", "HTTPS:")):
        assert await answers(service, photo, origin)


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_page_of_another_origin_may_not_open_a_stream(
    service: Service, photo: bytes, origin: str
) -> None:
    refused = service.metric("pose_requests_total", api="websocket", code="PERMISSION_DENIED")
    with pytest.raises(websockets.InvalidStatus) as raised:
        await answers(service, photo, origin.format(port=urlsplit(service.url).port))
    response = raised.value.response
    assert response.status_code == 403
    assert response.headers["content-type"] == "application/problem+json"
    assert b'"code":"foreign_origin"' in (response.body or b"")
    assert service.metric("pose_requests_total", api="websocket", code="PERMISSION_DENIED") == refused + 1


async def test_a_page_with_a_key_may_have_any_origin(launch: Launch, photo: bytes) -> None:
    key = "correct-horse-battery"
    service = launch(api_keys=key)
    with pytest.raises(websockets.InvalidStatus) as raised:
        await answers(service, photo, FOREIGN[0])
    assert raised.value.response.status_code == 401
    protocols = ["pose.v1", "bearer.Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"]
    assert await answers(service, photo, FOREIGN[0], subprotocols=protocols)
