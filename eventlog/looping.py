"""Looping: a Net for programs with an event loop of asyncio."""

import asyncio
import ssl
from typing import Any

from eventlog import tcp
from eventlog.addresses import is_address
from eventlog.http1 import READ_BYTES

#: An address of a name that does not answer is not waited for longer than this before the next one is tried, too.
NEXT_ADDRESS_S = 0.25

sleep = asyncio.sleep


async def connect(host: str, port: int, *, tls: bool, timeout_s: float) -> "_Connection":
    """See http1.Net."""
    context = ssl.create_default_context() if tls else None
    # Another loop, such as an agent's author may have chosen, tries one address after the other. Where there is but one
    # there is no race to be run: asyncio's loses its winner, open, if who waits for it is cancelled just then.
    race = isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop) and not is_address(host)
    next_address: dict[str, Any] = {"happy_eyeballs_delay": NEXT_ADDRESS_S} if race else {}
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=READ_BYTES, **next_address)
    sock = writer.get_extra_info("socket")
    for option in tcp.options():
        sock.setsockopt(*option)
    return _Connection(reader, writer)


class _Connection:
    """See http1.Connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, timeout_s: float) -> bytes:
        async with asyncio.timeout(timeout_s):
            return await self._reader.read(READ_BYTES)

    async def write(self, data: bytes, timeout_s: float) -> None:
        self._writer.write(data)
        async with asyncio.timeout(timeout_s):
            await self._writer.drain()

    def rests(self) -> bool:
        return not self._writer.is_closing() and not self._reader.at_eof() and self._reader.exception() is None

    def close(self) -> None:
        self._writer.close()
