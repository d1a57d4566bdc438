"""These tests need a Docker engine and minutes: they are collected by `pytest -m compose` alone."""

from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "compose: runs containers in a Docker engine (make test-compose)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave them out of every other run."""
    return None if config.option.markexpr == "compose" else True
