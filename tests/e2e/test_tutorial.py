"""The tutorial, typed as it stands into an empty home folder."""

from pathlib import Path

import pytest

from tests.e2e.pages import ADDRESS, Reader
from tests.support import free_port

pytestmark = pytest.mark.e2e


def test_the_tutorial_works_as_it_stands(tmp_path: Path) -> None:
    port = str(free_port())
    swaps = {ADDRESS: f"127.0.0.1:{port}"}
    with Reader("tutorial.md", tmp_path / "home", swaps, env={"EVENTLOG_PORT": port}) as reader:
        reader.do_all()
