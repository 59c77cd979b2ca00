"""Names: who is known, and who is like one that is not, as it changes."""

from pathlib import Path

import pytest

from eventlog.names import Names
from tests.logs import opened, send

pytestmark = pytest.mark.anyio


async def test_names_like_an_unknown_one_follow_what_becomes_known(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        names = Names(log.store, log.presence)
        assert names.nearest("melanie") == ()
        await send(log, "somebody", sender="Melany")
        assert names.nearest("melanie") == ("Melany",)
        with log.presence.serving("watcher", "node", ("Melania",)):
            assert set(names.nearest("melanie")) == {"Melany", "Melania"}
        # A message to an agent makes nobody known, and its first one makes it so.
        await send(log, "melanio", sender="Melany")
        assert "melanio" not in names.nearest("melanie")
        await send(log, "x", sender="melanio")
        assert "melanio" in names.nearest("melanie")


async def test_reserved_names_and_everyone_are_nobodys(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log, "x", sender="admin")
        await log.pause("*", by="admin")
        names = Names(log.store, log.presence)
        assert not names.knows("admin")
        assert names.known() == set()
        assert names.nearest("admiral") == ()
