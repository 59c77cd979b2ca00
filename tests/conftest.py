"""Fixtures that many tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import BusProcess


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The bus runs on asyncio alone."""
    return "asyncio"


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[BusProcess]:
    """A real bus, with a data folder and a home folder of its own."""
    with BusProcess(tmp_path / "bus") as running:
        yield running
