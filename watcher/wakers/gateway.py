"""A connection to an OpenClaw gateway: its WebSocket protocol, as far as a turn of an agent needs it."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

from watcher.wakers.websocket import Closed, WebSocket

#: How long to wait for a connection and its greeting.
CONNECT_TIMEOUT_S: Final = 10.0
#: The version of the gateway's protocol that is spoken here.
PROTOCOL: Final = 4
#: The identity that a gateway lets in from its own machine by its secret alone, without pairing a device.
CLIENT: Final = {"id": "gateway-client", "mode": "backend", "version": "agent-eventlog", "platform": "linux"}


class Rejected(Exception):
    """The gateway answered a request with an error: its `code`, and when to come again, if it says so."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        details = error.get("details")
        inner = details.get("code") if isinstance(details, dict) else None
        super().__init__(str(error.get("message") or error.get("code")))
        self.code = str(inner or error.get("code"))
        wait_ms = error.get("retryAfterMs")
        self.retry_after_s: float | None = wait_ms / 1000 if isinstance(wait_ms, (int, float)) else None


class Gateway:
    """One connection that was let in. `boot` tells one start of the gateway from another. Use `connected`."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._last = 0
        self.boot = ""

    @classmethod
    @contextmanager
    def connected(cls, url: str, secret: str) -> Iterator[Self]:
        """Connect and be let in. Raises OSError if there is no gateway, Rejected if it does not let us in."""
        with WebSocket(url, timeout_s=CONNECT_TIMEOUT_S) as socket:
            gateway = cls(socket)
            if gateway._frame(time.monotonic() + CONNECT_TIMEOUT_S).get("event") != "connect.challenge":
                raise Closed("what answers is not an OpenClaw gateway")
            hello = gateway.call(
                "connect",
                {
                    "minProtocol": PROTOCOL,
                    "maxProtocol": PROTOCOL,
                    "client": CLIENT,
                    "role": "operator",
                    "scopes": ["operator.write"],
                    "caps": [],
                    "auth": {"token": secret},
                },
                timeout_s=CONNECT_TIMEOUT_S,
            )
            server = hello.get("server")
            gateway.boot = str(server.get("bootId", "")) if isinstance(server, dict) else ""
            yield gateway

    def call(self, method: str, params: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """What a method answers first. Raises Rejected, or OSError if no answer comes in time."""
        self._last += 1
        name = str(self._last)
        self._socket.send(json.dumps({"type": "req", "id": name, "method": method, "params": params}))
        return self._answer(name, timeout_s)

    def later(self, *, timeout_s: float) -> dict[str, Any]:
        """The next answer to the last call: a turn is answered twice. Raises as `call` does."""
        return self._answer(str(self._last), timeout_s)

    def _answer(self, name: str, timeout_s: float) -> dict[str, Any]:
        give_up = time.monotonic() + timeout_s
        while True:
            frame = self._frame(give_up)
            if frame.get("type") != "res" or frame.get("id") != name:
                continue  # events, which tell how a turn goes on
            if frame.get("ok") is not True:
                error = frame.get("error")
                raise Rejected(error if isinstance(error, dict) else {"message": "the gateway gave no reason"})
            payload = frame.get("payload")
            return payload if isinstance(payload, dict) else {}

    def _frame(self, give_up: float) -> dict[str, Any]:
        left_s = give_up - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the gateway did not answer in time")
        try:
            frame = json.loads(self._socket.receive(left_s))
        except ValueError as error:
            raise Closed("what answers is not an OpenClaw gateway") from error
        return frame if isinstance(frame, dict) else {}
