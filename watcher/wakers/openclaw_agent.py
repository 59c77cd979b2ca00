"""The `openclaw-agent` waker: one turn of an OpenClaw agent for one message; its reply goes to standard output.

The turn is asked for with the gateway's `agent` method, over a WebSocket, so that the text is on no
command line. The wake's key is the turn's key: whatever is asked again is the same turn and never a second one.
"""

import json
import time
from typing import Any, Final

from watcher.wakers import NotStarted
from watcher.wakers.gateway import Gateway, Rejected
from watcher.wakers.post import read_secret

#: What is left of a wake's time when the gateway is to end the turn by itself: a lost connection does not end one.
SPARE_S: Final = 10.0
#: How long a gateway may be away in the middle of a turn, and how often it is looked for.
AWAY_S: Final = 30.0
RETRY_S: Final = 1.0
#: How the gateway says no before anything of a turn began, and the message is not why.
WAY_IN_CODES: Final = frozenset({"UNAVAILABLE", "FORBIDDEN", "MISSING_SCOPE", "NOT_PAIRED", "PAIRING_REQUIRED"})
#: In an error's message, however it is wrapped: the session is busy with something else, such as taking up what a
#: restart cut off, so that no turn began. The refusal sticks to the key; the next wake has another one.
NO_START: Final = "SESSION_WORK_START_"
#: What an agent of OpenClaw says if it has nothing to say.
NO_REPLY: Final = "NO_REPLY"


class Failed(Exception):
    """The turn began, or may have, and did not come to a good end; or the gateway refuses the message."""


def wake(request: dict[str, Any], settings: dict[str, Any]) -> None:
    """Have one turn and print its reply. Raises NotStarted if no turn began, Failed if it went wrong."""
    reply = Turn(request, settings, read_secret(settings["token_file"])).reply()
    if reply:
        print(reply)


class Turn:
    """One turn, over as many connections as it takes."""

    def __init__(self, request: dict[str, Any], settings: dict[str, Any], secret: str) -> None:
        lasts_s: float = max(1.0, request["wake"]["timeout_s"] - SPARE_S)
        self._url = settings["url"]
        self._secret = secret
        self._key = settings["key"]
        self._give_up = time.monotonic() + lasts_s
        self._asked = {
            "message": request["prompt"],
            "agentId": settings["agent_id"] or request["wake"]["agent"],
            "deliver": False,
            "idempotencyKey": self._key,
            "timeout": max(1, int(lasts_s)),
        }
        self._boot: str | None = None  # of the gateway that the turn was asked of
        self._accepted = False
        self._unsure = False  # a connection was lost after the turn was asked for

    def reply(self) -> str:
        """The turn's reply. Raises NotStarted, Failed."""
        away_since = None
        while True:
            try:
                with Gateway.connected(self._url, self._secret) as gateway:
                    away_since = None
                    return self._through(gateway)
            except Rejected as error:
                wait_s = self._wait_s(error)
                if wait_s is None:
                    raise self._refusal(error) from error
                time.sleep(wait_s)
            except OSError as error:
                if self._boot is None:
                    raise NotStarted(f"no gateway at {self._url}: {error}") from error
                self._unsure = True
                away_since = away_since or time.monotonic()
                if time.monotonic() > min(self._give_up, away_since + AWAY_S):
                    raise Failed(f"the gateway went away during the turn: {error}") from error
                time.sleep(RETRY_S)

    def _through(self, gateway: Gateway) -> str:
        """Ask for the turn, or for what became of it. Raises Failed, Rejected, OSError."""
        if self._boot not in (None, gateway.boot):
            raise Failed("the gateway was started anew during the turn")
        self._boot = gateway.boot
        if not self._accepted:
            answer = gateway.call("agent", self._asked, timeout_s=self._left_s())
            self._accepted = True
            if answer.get("status") == "accepted":
                answer = gateway.later(timeout_s=self._left_s())
            if answer.get("status") != "in_flight":
                return outcome(answer)
        # Asked before, over a connection that was lost: this waits for that turn and begins none.
        while True:
            left_s = self._left_s()
            answer = gateway.call(
                "agent.wait", {"runId": self._key, "timeoutMs": int(left_s * 1000)}, timeout_s=left_s + SPARE_S / 2
            )
            if answer.get("endedAt") or answer.get("status") not in ("pending", "timeout"):
                return outcome(answer)
            if time.monotonic() >= self._give_up:
                raise Failed("the turn did not end in time")

    def _left_s(self) -> float:
        """Seconds to wait for an answer; a little longer than the gateway itself gives the turn."""
        return max(0.1, self._give_up + SPARE_S / 2 - time.monotonic())

    def _wait_s(self, error: Rejected) -> float | None:
        """In how many seconds to ask again; None if it is of no use."""
        if error.retry_after_s is None or time.monotonic() + error.retry_after_s > self._give_up:
            return None
        return max(RETRY_S, error.retry_after_s)

    def _refusal(self, error: Rejected) -> Exception:
        """What a refusal means: without a turn it is the way in that is broken, unless it is the request."""
        began = self._accepted or self._unsure
        if NO_START in str(error):
            return NotStarted(f"the gateway at {self._url} refused: {error}")
        if not began and (error.code in WAY_IN_CODES or error.code.startswith(("AUTH_", "DEVICE_"))):
            return NotStarted(f"the gateway at {self._url} refused: {error}")
        return Failed(f"the gateway at {self._url} refused: {error}")


def outcome(answer: dict[str, Any]) -> str:
    """The reply in an answer that ends a turn. Raises Failed if the turn did."""
    status = answer.get("status")
    if status != "ok":
        why = answer.get("error") or answer.get("stopReason") or answer.get("summary") or "no reason was given"
        raise Failed(f"the turn ended with {status!r}: {why if isinstance(why, str) else json.dumps(why)}")
    waited, result = answer.get("terminalReply"), answer.get("result")
    parts = [waited] if isinstance(waited, dict) else result.get("payloads") if isinstance(result, dict) else []
    texts = [str(part["text"]) for part in parts or () if isinstance(part, dict) and part.get("text")]
    return "\n\n".join(text for text in texts if text.strip() != NO_REPLY)
