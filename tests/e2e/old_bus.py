"""A stand-in for the fleet's Flask bus: its three routes, without tokens; the stream begins at now."""

import http.server
import json
import queue
import threading
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


class OldBus:
    """A context manager; `move` has it at another port, with the messages that it has."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.messages: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.followers: list[queue.Queue[str | None]] = []
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        with self.lock:
            for follower in self.followers:
                follower.put(None)
            self.followers = []
        self._server.shutdown()
        self._server.server_close()

    def move(self, port: int) -> None:
        """Restart it at another port."""
        self.__exit__()
        self.port = port
        self.__enter__()

    def send(self, message: dict[str, Any]) -> int:
        """Keep a message and tell whoever follows; its id."""
        with self.lock:
            self.messages.append({"id": len(self.messages) + 1, **message})
            for follower in self.followers:
                follower.put(json.dumps(self.messages[-1]))
            return len(self.messages)

    def follow(self) -> "queue.Queue[str | None]":
        """What is sent from now on; None is the end."""
        follower: queue.Queue[str | None] = queue.Queue()
        with self.lock:
            self.followers.append(follower)
        return follower


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, bus: OldBus) -> None:
        super().__init__(("127.0.0.1", bus.port), _Routes)
        self.bus = bus


class _Routes(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body.get("message")
        sent = self.server.bus.send({"from_agent": body["from_agent"], "to_agent": body["to_agent"], "payload": text})
        self._answer(201, {"id": sent})

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/api/stream":
            self._stream()
            return
        (agent,) = parse_qs(url.query)["agent"]
        with self.server.bus.lock:
            found = [message for message in self.server.bus.messages if message["to_agent"] == agent]
        self._answer(200, {"messages": found})

    def _stream(self) -> None:
        follower = self.server.bus.follow()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            while (said := follower.get()) is not None:
                self.wfile.write(f"data: {said}\n\n".encode())
        except OSError:
            pass  # who followed went away

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass
