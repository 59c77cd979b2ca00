"""A test double of a language model: a small server that a real OpenClaw gateway takes for one. No model is in it.

It speaks the OpenAI chat completions protocol and does the same in every turn. Where it is told of unread messages, it
calls the gateway's own `exec` tool with the command that it was told, reads the cursor in what that printed, calls
`exec` again to acknowledge, and ends the turn. Everything else it answers with `Test double: ` and what it was sent.
"""

import contextlib
import http.server
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

#: What each of its texts begins with.
SAID = "Test double: "
_READ = re.compile(r"Read: `(.+?)`")
_ACK = re.compile(r"`([^`]*eventlog ack \S+) CURSOR`")


@dataclass(frozen=True)
class Seen:
    """One request: when it came (Unix time), for whom, and the texts of the turn that it belongs to."""

    at: float
    model: str
    texts: tuple[str, ...]
    begins: bool
    """Whether it is the first one of a turn."""

    @property
    def text(self) -> str:
        """The turn's texts as one."""
        return "\n".join(self.texts)


class Model(http.server.ThreadingHTTPServer):
    """The double; a context manager. `seen` is every request, oldest first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.seen: list[Seen] = []
        self._open = threading.Event()
        self._open.set()

    @property
    def url(self) -> str:
        """The address that stands in the gateway's configuration."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def turns(self, model: str = "") -> list[Seen]:
        """The requests that began a turn, for one model or for all."""
        return [one for one in list(self.seen) if one.begins and model in ("", one.model)]

    @contextlib.contextmanager
    def holding(self) -> Iterator[Callable[[], None]]:
        """Nothing is answered until what this gives is called, or the context ends."""
        self._open.clear()
        try:
            yield self._open.set
        finally:
            self._open.set()

    def wait_open(self) -> None:
        """Return when answers are not held back."""
        self._open.wait()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.set()
        self.shutdown()
        self.server_close()


def turn_of(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages since the last answer that called no tool: those of the turn that is under way."""
    ended = [number for number, one in enumerate(messages) if one["role"] == "assistant" and not one.get("tool_calls")]
    return messages[ended[-1] + 1 if ended else 0 :]


def text_of(message: dict[str, Any]) -> str:
    """A message's text, of one part or of several."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(str(part.get("text", "")) for part in content)


def answer(turn: list[dict[str, Any]]) -> dict[str, Any]:
    """What the double says: a call of the tool `exec`, or a text."""
    told = "\n".join(text_of(one) for one in turn if one["role"] == "user")
    read, ack = _READ.search(told), _ACK.search(told)
    if read is None or ack is None:
        return {"content": SAID + told}
    results = [text_of(one) for one in turn if one["role"] == "tool"]
    if not results:
        return call("exec", {"command": f"{read[1]} --json"})
    if len(results) == 1:
        cursor = re.search(r'"cursor": ?(\d+)', results[0])
        return call("exec", {"command": f"{ack[1]} {cursor[1]}"}) if cursor else {"content": SAID + results[0]}
    return {"content": SAID + "read and acknowledged"}


def call(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A tool call in a delta of the protocol."""
    function = {"name": tool, "arguments": json.dumps(arguments)}
    return {"tool_calls": [{"index": 0, "id": f"call{time.time_ns()}", "type": "function", "function": function}]}


class _Request(http.server.BaseHTTPRequestHandler):
    server: Model

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        turn = turn_of([one for one in body["messages"] if one["role"] not in ("system", "developer")])
        begins = not any(one["role"] == "tool" for one in turn)
        texts = tuple(text_of(one) for one in turn)
        self.server.seen.append(Seen(time.time(), body["model"], texts, begins))
        self.server.wait_open()
        said = answer(turn)
        ends = "tool_calls" if "tool_calls" in said else "stop"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        common = {"id": "double", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        first = {"index": 0, "delta": {"role": "assistant", **said}, "finish_reason": None}
        last = {"index": 0, "delta": {}, "finish_reason": ends}
        with contextlib.suppress(BrokenPipeError):  # the gateway was killed meanwhile
            for chunk in ({**common, "choices": [first]}, {**common, "choices": [last], "usage": usage}):
                self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: Any) -> None:
        """Nothing."""
