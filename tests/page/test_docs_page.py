"""The API document at `/docs`, in a browser that reaches nothing but the service."""

from importlib.util import find_spec

import pytest

from tests.page.conftest import Open
from tests.support.service import Launch

pytestmark = pytest.mark.skipif(find_spec("fastapi_offline") is None, reason="needs fastapi-offline")


@pytest.mark.parametrize("root_path", ["", "/tools/pose"])
def test_the_api_document_is_shown_without_the_internet(visit: Open, launch: Launch, root_path: str) -> None:
    """`visit` fails where the page asks another origin, or breaks the content security policy."""
    service = launch(**{"root_path": root_path} if root_path else {})
    seen = visit(service)
    seen.page.goto(f"{service.url}{root_path}/docs")
    seen.page.wait_for_selector("#docs .opblock")
    shown = seen.page.locator(".opblock-summary-path").all_inner_texts()
    assert any("videos" in path for path in shown)
    seen.page.locator(".opblock-summary", has_text="/v1/skeleton").first.click()
    seen.page.get_by_role("button", name="Try it out").click()
    with seen.page.expect_response(f"**{root_path}/v1/skeleton") as response:
        seen.page.get_by_role("button", name="Execute").click()
    assert response.value.status == 200
    assert all(url.startswith((service.url, "blob:", "data:")) for url in seen.requests)
    seen.requests[:] = [url for url in seen.requests if not url.startswith("data:")]
