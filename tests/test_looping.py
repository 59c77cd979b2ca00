"""Connections of programs with an event loop: whatever becomes of who wants one, none is left open."""

import asyncio
import gc
import socket
import warnings

import pytest

from eventlog import looping

pytestmark = pytest.mark.anyio

#: More turns of the loop than connecting takes.
TURNS = 20


async def test_a_connect_that_is_cancelled_in_any_turn_leaves_no_socket_open() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=TURNS) as server, warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        connected = 0
        for turns in range(TURNS):
            wanted = asyncio.create_task(looping.connect("127.0.0.1", server.getsockname()[1], tls=False, timeout_s=10))
            for _ in range(turns):
                await asyncio.sleep(0)
            connected += wanted.done()
            wanted.cancel()
            for got in await asyncio.gather(wanted, return_exceptions=True):
                if not isinstance(got, BaseException):
                    got.close()
            del wanted, got
            await asyncio.sleep(0)
            gc.collect()
    assert 0 < connected < TURNS, "it was cancelled before it connected, meanwhile, and after that"
    assert [str(one.message) for one in left if one.category is ResourceWarning] == []
