"""Pages of other origins (CORS), and services behind a proxy under a sub-path."""

import httpx
import pytest
import websockets

from tests.api.test_origin import answers
from tests.support.clients import JPEG
from tests.support.service import Launch, Service

APP, OTHER = "https://app.example", "https://other.example"
KEY = "correct-horse-battery"


def preflight(service: Service, path: str, origin: str, header: str) -> httpx.Response:
    """What a browser asks before it sends a request of a page of another origin."""
    asked = {"access-control-request-method": "POST", "access-control-request-headers": header}
    return httpx.options(f"{service.url}{path}", headers={"origin": origin, **asked})


@pytest.mark.parametrize("keys", [{}, {"api_keys": KEY}], ids=["open", "keys"])
async def test_pages_of_an_allowed_origin_are_served(
    launch: Launch, photo: bytes, keys: dict[str, str]
) -> None:
    service = launch(allowed_origins=f"https://another.example, {APP.upper()}", **keys)
    for path in ("/v1/poses", "/v1/videos", "/v2/models/lgm-pose/infer"):
        granted = preflight(service, path, APP, "authorization,content-type")
        assert granted.status_code == 200, granted.text
        assert granted.headers["access-control-allow-origin"] == APP
        assert "authorization" in granted.headers["access-control-allow-headers"].lower()
        refused = preflight(service, path, OTHER, "content-type")
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
    shown = {"authorization": f"Bearer {KEY}"} if keys else {}
    response = httpx.post(
        f"{service.url}/v1/poses", content=photo, headers={**JPEG, **shown, "origin": APP}, timeout=60
    )
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == APP
    assert "x-request-id" in response.headers["access-control-expose-headers"].lower()
    # a page can read why it was refused
    response = httpx.post(f"{service.url}/v1/poses", content=b"", headers={**JPEG, "origin": APP})
    assert response.status_code == (401 if keys else 400)
    assert response.headers["access-control-allow-origin"] == APP
    if not keys:
        assert await answers(service, photo, APP)
        with pytest.raises(websockets.InvalidStatus):
            await answers(service, photo, OTHER)


async def test_any_origin_may_be_allowed(launch: Launch, photo: bytes) -> None:
    service = launch(allowed_origins="*")
    assert preflight(service, "/v1/poses", OTHER, "content-type").status_code == 200
    assert await answers(service, photo, OTHER)


def test_no_other_origin_is_allowed_by_default(service: Service, photo: bytes) -> None:
    assert preflight(service, "/v1/poses", APP, "content-type").status_code == 405
    response = httpx.post(f"{service.url}/v1/poses", content=photo, headers={**JPEG, "origin": APP})
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("prefix", ["/tools/pose", ""], ids=["passed on", "taken off"])
def test_a_service_under_a_path_answers_whatever_its_proxy_does_with_it(
    launch: Launch, photo: bytes, prefix: str
) -> None:
    service = launch(root_path="/tools/pose/", trusted_proxies="127.0.0.0/8", api_keys=KEY)
    proxy = {"host": "example.org", "x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.7"}
    with httpx.Client(base_url=service.url, headers=proxy, timeout=60) as http:
        assert http.get(f"{prefix}/readyz").status_code == 200
        assert http.get(f"{prefix}/v1/models").status_code == 401
        http.headers["authorization"] = f"Bearer {KEY}"
        response = http.post(f"{prefix}/v1/poses", content=photo, headers=JPEG)
        assert response.json()["results"][0]["persons"]
        assert service.metric("pose_requests_total", api="rest", code="200") == 1

        response = http.get(f"{prefix}/v1/models/")
        assert response.status_code == 307
        assert response.headers["location"] == "https://example.org/tools/pose/v1/models"

        assert http.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/tools/pose"}]
        for path in ("/", "/page/page.js", "/docs"):
            page = http.get(f"{prefix}{path}")
            assert page.status_code == 200
            assert 'src="/' not in page.text
            assert 'href="/' not in page.text
        assert http.get("/tools/poses").status_code in (401, 404)


def test_forwarded_headers_hold_from_trusted_proxies_alone(service: Service) -> None:
    response = httpx.get(f"{service.url}/v1/models/", headers={"x-forwarded-proto": "https"})
    assert response.headers["location"].startswith("http://")
