"""These tests need a Docker engine and minutes, so only `pytest -m compose` collects them."""

from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "compose: runs containers in a Docker engine (make test-compose)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore them in every other run."""
    return None if config.option.markexpr == "compose" else True
