"""A stand-in for OpenClaw's gateway: its WebSocket protocol as far as the waker speaks it, with faults on demand."""

import base64
import hashlib
import json
import socket
import socketserver
import threading
from typing import Any, Self

from watcher.wakers.websocket import masked

SECRET = "gateway-token"


class FakeGateway(socketserver.ThreadingTCPServer):
    """The gateway; a context manager. `faults` are what happens to the next calls of `agent`, in order:

    `drop`: accepted, then the connection is lost; `drop early`: the same before the answer; `restart`: accepted, then
    the gateway is another one, which knows nothing of it; `busy`: not now; `fail`: the turn ends with an error;
    `taken`: it is accepted, but the session does not take it.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.boot = 1
        self.faults: list[str] = []
        self.called: list[tuple[str, dict[str, Any]]] = []
        self.turns: dict[str, dict[str, Any]] = {}
        """What became of each turn, by its key."""
        self.began: list[str] = []
        """The text of each turn that began."""
        self.wait_first = False
        """Whether the first `agent.wait` for a turn ends before the turn."""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def methods(self) -> list[str]:
        """The methods that were called, in order."""
        return [method for method, _ in self.called]

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Connection(socketserver.BaseRequestHandler):
    server: FakeGateway
    request: socket.socket

    def handle(self) -> None:
        self.stream = self.request.makefile("rb")
        handshake(self.request, self.stream)
        self.event("connect.challenge", {"nonce": "n", "ts": 1})
        while True:
            try:
                asked = json.loads(read_frame(self.stream)[1])
            except EOFError:
                return
            method, params = asked["method"], asked["params"]
            self.server.called.append((method, params))
            answers = {"connect": self.connect, "agent": self.agent, "agent.wait": self.wait}[method]
            if not answers(asked["id"], params):
                return

    def connect(self, name: str, params: dict[str, Any]) -> bool:
        if params["auth"]["token"] != SECRET:
            details = {"code": "AUTH_TOKEN_MISMATCH"}
            return self.error(name, {"code": "INVALID_REQUEST", "message": "token mismatch", "details": details})
        return self.answer(name, {"server": {"bootId": f"boot-{self.server.boot}"}, "auth": {}})

    def agent(self, name: str, params: dict[str, Any]) -> bool:
        key = params["idempotencyKey"]
        if params["agentId"] == "nobody":
            return self.error(name, {"code": "INVALID_REQUEST", "message": 'unknown agent id "nobody"'})
        if key in self.server.turns:
            return self.answer(name, {"runId": key, **self.server.turns[key]})
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault == "busy":
            return self.error(name, {"code": "UNAVAILABLE", "message": "starting", "retryAfterMs": 20})
        self.server.began.append(params["message"])
        said = [{"text": f"you said {params['message']}"}, {"text": None, "mediaUrl": "x"}, {"text": "and more"}]
        ended = {"status": "ok", "result": {"payloads": said}}
        if fault == "fail":
            ended = {"status": "error", "summary": "the model is away"}
        if fault == "restart":
            self.server.boot += 1
        else:
            self.server.turns[key] = ended
        if fault == "drop early":
            return False
        self.answer(name, {"runId": key, "status": "accepted"})
        self.event("agent", {"runId": key, "stream": "assistant"})
        if fault == "taken":
            return self.error(name, {"code": "UNAVAILABLE", "message": "Retry. | SESSION_WORK_START_CHANGED"})
        return fault not in ("drop", "restart") and self.answer(name, {"runId": key, **ended})

    def wait(self, name: str, params: dict[str, Any]) -> bool:
        turn = self.server.turns.get(params["runId"])
        if turn is None or self.server.wait_first:
            self.server.wait_first = False
            return self.answer(name, {"runId": params["runId"], "status": "timeout"})
        text = "\n\n".join(part["text"] for part in turn["result"]["payloads"] if part["text"])
        return self.answer(name, {"status": turn["status"], "endedAt": 1, "terminalReply": {"text": text}})

    def answer(self, name: str, payload: dict[str, Any]) -> bool:
        return self.send({"type": "res", "id": name, "ok": True, "payload": payload})

    def error(self, name: str, error: dict[str, Any]) -> bool:
        return self.send({"type": "res", "id": name, "ok": False, "error": error})

    def event(self, event: str, payload: dict[str, Any]) -> bool:
        return self.send({"type": "event", "event": event, "payload": payload})

    def send(self, frame: dict[str, Any]) -> bool:
        self.request.sendall(make_frame(1, json.dumps(frame).encode()))
        return True


def handshake(connection: socket.socket, stream: Any) -> None:
    """Answer the opening handshake."""
    key = b""
    while (line := stream.readline().strip()) != b"":
        if line.lower().startswith(b"sec-websocket-key:"):
            key = line.partition(b":")[2].strip()
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + b"\r\n\r\n"
    )


def make_frame(kind: int, data: bytes, *, last: bool = True) -> bytes:
    """A frame as a server sends it."""
    head = bytes([(0x80 if last else 0) | kind])
    if len(data) < 126:
        return head + bytes([len(data)]) + data
    if len(data) < 65_536:
        return head + bytes([126]) + len(data).to_bytes(2, "big") + data
    return head + bytes([127]) + len(data).to_bytes(8, "big") + data


def read_frame(stream: Any) -> tuple[int, bytes]:
    """A frame of a client, which must be masked: its kind and its data. Raises EOFError at the end."""
    head = stream.read(2)
    if len(head) < 2:
        raise EOFError
    assert head[1] & 0x80, "a client masks what it sends"
    size = head[1] & 0x7F
    if size >= 126:
        size = int.from_bytes(stream.read(2 if size == 126 else 8), "big")
    mask = stream.read(4)
    return head[0] & 0x0F, masked(stream.read(size), mask)
