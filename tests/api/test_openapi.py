"""Every response matches the OpenAPI document, for any request."""

import pytest

from tests.api.fuzz_openapi import fuzz
from tests.support.service import Service


@pytest.mark.timeout(900)
def test_responses_match_the_openapi_document(service: Service) -> None:
    before = service.metric("pose_requests_total", api="rest_v2", code="200")
    made, failures = fuzz(service.url, examples=5)
    assert failures == ""
    assert made > 300
    # the document's own example succeeds
    assert service.metric("pose_requests_total", api="rest_v2", code="200") > before
