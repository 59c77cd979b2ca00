"""Wake: what an ask was answered, checked, and the grant that the shim gets of it."""

import errno
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec

from eventlog.errors import ConfigError, Unreachable
from eventlog.homes import expanded
from watcher import wakers
from watcher.settings import AgentSettings

#: The bus's longest time until the next ask; an answer that names a longer one, or none, is not trusted.
RETRY_S_MAX: Final = 300.0
RETRY_S_MIN: Final = 0.05
#: How far an ack deadline can move, in multiples of `ack_within`; the wake's token lasts as long.
ACK_WITHIN_TIMES: Final = 4
#: How much longer the file of a token is kept than the bus honours it.
TOKEN_MARGIN_S: Final = 60.0


class Granted(msgspec.Struct, frozen=True):
    """A wake as the bus granted it."""

    id: int
    key: str
    agent: str
    after: int
    through: int
    attempt: int
    timeout_s: float
    token: str
    messages: list[Any]
    truncated: bool = False
    reply_token: str = ""


class Answer(msgspec.Struct, frozen=True):
    """The answer to an ask: a wake and its age, or why there is none and when to ask again."""

    wake: Granted | None
    age_s: float = 0.0
    why: str = ""
    retry_after_s: float = RETRY_S_MAX

    @property
    def again_in_s(self) -> float:
        """When to ask again, within sane bounds."""
        return min(RETRY_S_MAX, max(RETRY_S_MIN, self.retry_after_s))


def read_answer(body: Any, key: str) -> Answer:
    """The answer, checked. Raises Unreachable if the bus cannot have said this."""
    try:
        answer = msgspec.convert(body, Answer)
    except msgspec.ValidationError as error:
        raise Unreachable(f"what answers is not an event log: {error}", sent=True) from error
    if answer.wake is not None and (answer.wake.key != key or answer.wake.id < 1):
        raise Unreachable("what answers is not an event log: it granted another key's wake", sent=True)
    return answer


def check_recorded(body: Mapping[str, Any], wake_id: int, outcome: str) -> None:
    """Raises Unreachable if this is not how the bus says that it has a wake's outcome: a proxy may have answered."""
    if (body.get("id"), body.get("outcome")) != (wake_id, outcome):
        said = "what answers is not an event log: it does not say that the outcome is recorded"
        raise Unreachable(said, sent=True)


def asked(settings: AgentSettings, watcher: str, node: str) -> dict[str, Any]:
    """The fields of an ask, besides key and agent."""
    return {
        "watcher": watcher,
        "node": node,
        "timeout_s": settings.timeout,
        "start_within_s": settings.start_within,
        "ack": settings.ack,
        "ack_within_s": settings.ack_within,
        "max_attempts": settings.max_attempts,
        "min_interval_s": settings.min_interval,
        "deliver": settings.deliver,
        "max_wakes_per_hour": settings.max_wakes_per_hour,
    }


def token_lasts_s(settings: AgentSettings) -> float:
    """How long the file of a wake's token is kept."""
    return settings.lease_s + ACK_WITHIN_TIMES * settings.ack_within + TOKEN_MARGIN_S


def grant(
    wake: Granted,
    settings: AgentSettings,
    *,
    latest_start: float,
    url: str,
    folder: Path,
    token_file: Path,
    run: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the shim needs of a wake; neither its token nor any secret. `latest_start` is CLOCK_BOOTTIME.

    `run` is what is known of a run's private folder (see watcher/runs.py); None for a wake that is none.
    Raises OSError if a home folder that the settings name is gone by now.
    """
    try:
        argv, cwd = wakers.argv(settings), str(expanded(settings.cwd))
    except ConfigError as error:
        # As of a full disk: the wake cannot be stored as things are, and is given back.
        raise OSError(errno.ENOENT, error.detail) from error
    told = {name: getattr(wake, name) for name in ("id", "agent", "after", "through", "attempt", "timeout_s")}
    environ = {
        **wakers.environment(settings, folder / "grant"),
        "WAKE_ID": str(wake.id),
        "WAKE_AGENT": wake.agent,
        "WAKE_AFTER": str(wake.after),
        "WAKE_THROUGH": str(wake.through),
        "WAKE_ATTEMPT": str(wake.attempt),
        "EVENTLOG_URL": url,
        "EVENTLOG_TOKEN_FILE": str(token_file),
    }
    request = {"wake": told, "messages": wake.messages, "truncated": wake.truncated}
    if run is not None:
        environ["WAKE_FOLDER"] = run["folder"]
        request = {**wake.messages[0], **request}
    own = {} if settings.waker == "command" else {**asdict(settings), **settings.settings, "key": wake.key}
    return {
        "wake": {**told, "key": wake.key},
        "latest_start": latest_start,
        "argv": argv,
        "cwd": cwd,
        "env": environ,
        "request": request,
        "settings": own,
        "run": run,
    }
