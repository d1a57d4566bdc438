"""Every answer is one that the OpenAPI document foretells, whatever is sent."""

import pytest

from tests.conftest import Service
from tests.service.fuzz_openapi import fuzz


@pytest.mark.timeout(900)
def test_answers_are_those_of_the_document(service: Service) -> None:
    before = service.metric("pose_requests_total", api="rest_v2", code="200")
    made, failures = fuzz(service.url, examples=5)
    assert failures == ""
    assert made > 300
    # the document's own example succeeds
    assert service.metric("pose_requests_total", api="rest_v2", code="200") > before
