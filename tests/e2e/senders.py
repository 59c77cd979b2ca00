"""Senders as somebody else would write them: one key for each message, and the same request again until it is told."""

import http.client
import json
import threading
import time
from typing import Any
from urllib.parse import urlsplit

#: Pause before a request is sent again, seconds; the bus may be down for a while.
AGAIN_S = 0.02


class Sender(threading.Thread):
    """Makes `count` requests as the agent `name`, one after the other, each with its own key and until it is accepted.

    A request has one message to `to_agent`, or an array of `batch` of them; one is due every `pace_s`. `accepted` holds
    the ids that were told for each key, `answers` how often each status was, `replayed` the keys of which a repeat was
    told. `refused` is an answer that no retry mends; the thread ends at the first.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        name: str,
        to_agent: str = "mel",
        count: int = 10**9,
        batch: int = 1,
        pace_s: float = 0.0,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.accepted: dict[str, list[int]] = {}
        self.replayed: set[str] = set()
        self.answers: dict[int, int] = {}
        self.refused: str | None = None
        self._where = urlsplit(url).netloc
        self._token = token
        self._to_agent = to_agent
        self._count = count
        self._batch = batch
        self._pace_s = pace_s
        self._stopped = threading.Event()
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> "Sender":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends it; the message that is under way may be accepted and never told."""
        self._stopped.set()
        self.join(60)

    def finish(self, deadline_s: float = 60.0) -> None:
        """Begins no other message, and waits until the one under way is accepted."""
        self._count = 0
        self.join(deadline_s)
        assert not self.is_alive(), f"{self.name} could not send its last message"
        assert self.refused is None, self.refused

    def run(self) -> None:
        """The thread."""
        sent = 0
        began = time.monotonic()
        while sent < self._count and self.refused is None:
            if self._stopped.wait(max(0.0, began + sent * self._pace_s - time.monotonic())):
                break
            self._send(f"{self.name}-{sent}", {"n": sent})
            sent += 1
        self._hang_up()

    def _send(self, key: str, payload: Any) -> None:
        message = {"from_agent": self.name, "to_agent": self._to_agent, "payload": payload}
        body = json.dumps(message if self._batch == 1 else [message] * self._batch)
        while not self._stopped.is_set():
            try:
                status, headers, told = self._post(body, key)
            except (OSError, http.client.HTTPException):
                self._hang_up()
                time.sleep(AGAIN_S)
                continue
            self.answers[status] = self.answers.get(status, 0) + 1
            if status in (200, 201):
                self.accepted[key] = [one["id"] for one in (told if self._batch > 1 else [told])]
                if headers.get("Idempotent-Replayed") == "true":
                    self.replayed.add(key)
                return
            if status not in (429, 503):
                self.refused = f"{status} {told}"
                return
            self._hang_up()
            time.sleep(AGAIN_S)

    def _post(self, body: str, key: str) -> tuple[int, http.client.HTTPMessage, Any]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._where, timeout=20)
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        }
        self._connection.request("POST", "/api/send", body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
