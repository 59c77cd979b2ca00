"""A client that is none of the project's code: the standard library's HTTP, as somebody else would write it."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit


class Answer:
    """Status, headers and decoded body of one answer."""

    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body: Any = json.loads(body) if body and "json" in headers.get_content_type() else None

    @property
    def code(self) -> str:
        """The stable code of an error, "" where there is none."""
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""

    def __repr__(self) -> str:
        return f"{self.status} {self.body}"


class Foreign:
    """One token's calls to a bus; a connection each."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
            content = None
            if body is not None:
                sent["Content-Type"] = "application/json"
                content = json.dumps(body)
            connection.request(method, path, content, sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def with_token(self, token: str) -> "Foreign":
        return Foreign(self.url, token)

    def create_token(self, name: str, kind: str, *agents: str) -> "Foreign":
        """Another client, with a token made by this one (an administrator's)."""
        answer = self.call("POST", "/api/tokens", {"name": name, "kind": kind, "agents": list(agents)})
        assert answer.status == 201, answer
        return self.with_token(answer.body["token"])

    def send(self, to: str, payload: Any = "hello", **more: Any) -> int:
        answer = self.call("POST", "/api/send", {"to_agent": to, "payload": payload, **more})
        assert answer.status == 201, answer
        return int(answer.body["id"])

    def ask(self, key: str, agent: str = "mel", **limits: Any) -> Answer:
        return self.call("POST", "/api/wakes", {"key": key, "agent": agent, **limits})

    def report(self, wake: int, key: str, outcome: str, **more: Any) -> Answer:
        return self.call("PATCH", f"/api/wakes/{wake}", {"key": key, "outcome": outcome, **more})

    def inbox(self, agent: str = "mel", query: str = "") -> Any:
        answer = self.call("GET", f"/api/inbox?agent={agent}{query}")
        assert answer.status == 200, answer
        return answer.body

    def events(self, query: str = "") -> list[dict[str, Any]]:
        """All events, page by page."""
        found: list[dict[str, Any]] = []
        after = 0
        while True:
            page = self.call("GET", f"/api/events?after={after}&limit=500{query}").body
            found += page["events"]
            after = page["cursor"]
            if not page["has_more"]:
                return found


def address(url: str) -> tuple[str, int]:
    """Host and port of a bus, for a plain socket."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
