"""Readers of the stream that come back with Last-Event-ID: the standard library, curl, and the project's own client."""

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from eventlog.client import Bus

#: Pause before a reader comes back, seconds: short, so that a test sees many returns.
AGAIN_S = 0.02


class Frames:
    """A decoder of event streams by the book (https://html.spec.whatwg.org/multipage/server-sent-events.html).

    `last_id` is what a browser would send as Last-Event-ID. It knows LF alone, which is what the bus writes.
    """

    def __init__(self, last_id: str) -> None:
        self.last_id = last_id
        self._id = last_id
        self._event = ""
        self._data: list[str] = []
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """(event type, data) of each event that this chunk completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line:
                self._take(line.decode())
                continue
            self.last_id = self._id
            if self._data:
                yield self._event or "message", "\n".join(self._data)
            self._event, self._data = "", []

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)


class Reader(threading.Thread):
    """Follows a stream in a thread, comes back whenever it ends, and notes the id of every message, in order.

    `ids` are the messages' ids, `connections` counts how often it connected, `failure` is what no return mends.
    """

    def __init__(self, url: str, token: str, *, query: str = "") -> None:
        super().__init__(daemon=True)
        self.url = url
        self.ids: list[int] = []
        self.connections = 0
        self.failure: str | None = None
        self._token = token
        self._path = f"/api/stream?after=0&heartbeat=1{query}"
        self._frames = Frames("")
        self._stopped = threading.Event()

    def __enter__(self) -> "Reader":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def run(self) -> None:
        """The thread."""
        while not self._stopped.is_set() and self.failure is None:
            # What was cut within a frame is dropped; the id is the last whole frame's.
            self._frames = Frames(self._frames.last_id)
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._connect()
            self._stopped.wait(AGAIN_S)

    def stop(self) -> None:
        """Ends it."""
        self._stopped.set()
        self.join(30)

    def _connect(self) -> None:
        raise NotImplementedError

    def _take(self, chunk: bytes) -> None:
        for event, data in self._frames.feed(chunk):
            if event == "message":
                self.ids.append(json.loads(data)["id"])
            else:
                self.failure = f"{event}: {data}"


class PlainReader(Reader):
    """Python's standard library."""

    def _connect(self) -> None:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        try:
            headers = {"Authorization": f"Bearer {self._token}"}
            if self._frames.last_id:
                headers["Last-Event-ID"] = self._frames.last_id
            connection.request("GET", self._path, headers=headers)
            answer = connection.getresponse()
            self.connections += 1
            if answer.status != 200:
                self.failure = f"{answer.status} {answer.read()!r}"
                return
            while not self._stopped.is_set() and (chunk := answer.read1(65536)):
                self._take(chunk)
        finally:
            connection.close()


class CurlReader(Reader):
    """curl, started anew with the id that was read last."""

    def _connect(self) -> None:
        command = ["curl", "-sN", "--fail", "-H", f"Authorization: Bearer {self._token}", self.url + self._path]
        if self._frames.last_id:
            command += ["-H", f"Last-Event-ID: {self._frames.last_id}"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as curl:
            assert curl.stdout is not None
            self.connections += 1
            try:
                while not self._stopped.is_set() and (chunk := os.read(curl.stdout.fileno(), 65536)):
                    self._take(chunk)
            finally:
                curl.kill()
        if curl.returncode == 22:
            self.failure = "curl was answered with an error"


class BusReader(Reader):
    """The project's client, which comes back by itself."""

    def run(self) -> None:
        """The thread."""
        asyncio.run(self._follow())

    async def _follow(self) -> None:
        following = asyncio.create_task(self._note())
        while not self._stopped.is_set() and not following.done():
            await asyncio.sleep(0.1)
        following.cancel()
        try:
            await following
        except asyncio.CancelledError:
            return
        except Exception as error:
            self.failure = repr(error)

    async def _note(self) -> None:
        async with Bus(self.url, self._token) as bus:
            async for frame in bus.follow(after=0, heartbeat_s=1):
                if frame.kind == "message":
                    self.ids.append(frame.fields()["id"])
                else:
                    self.failure = f"{frame.kind}: {frame.data}"
