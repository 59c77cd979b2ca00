"""Settings: every setting of the watcher, declared once with its default, its bounds and what the reference says."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

#: The address of a bus on this machine.
DEFAULT_URL: Final = "http://127.0.0.1:8091"
#: Where an OpenClaw gateway listens if nobody said otherwise.
OPENCLAW_URL: Final = "http://127.0.0.1:18789"
#: Wakers that are part of this program; others come from the entry point group `bus_watcher.wakers`.
BUILT_IN_WAKERS: Final = ("command", "webhook", "openclaw", "openclaw-agent")
#: Settings that mean nothing where no run is.
FOR_RUNS: Final = frozenset({"reply", "input", "prompt_file"})
#: Those wakers that print nothing which could be a run's reply.
SILENT_WAKERS: Final = ("webhook", "openclaw")
#: What a waker chooses where nobody said otherwise. OpenClaw holds back more than 5 starts of an agent a minute.
OWN_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "openclaw": {"url": OPENCLAW_URL, "min_interval": 15.0, "token_file": "~/.config/bus-watcher/hooks-token"},
    "openclaw-agent": {
        "url": OPENCLAW_URL,
        "deliver": "each",
        "reply": "stdout",
        "token_file": "~/.config/bus-watcher/gateway-token",
    },
}


def _setting(default: Any, doc: str, like: str, **told: Any) -> Any:
    """A field with what the check and the reference say of it. `like` is an example of its value in TOML."""
    metadata = {"doc": doc, "like": like, **told}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class BusSettings:
    """Table `[bus]`: where the bus is and how to speak with it."""

    url: str = _setting(
        lambda: os.environ.get("EVENTLOG_URL", DEFAULT_URL),
        "The address of the bus.",
        '"http://127.0.0.1:8091"',
        shown="`EVENTLOG_URL`, else `http://127.0.0.1:8091`",
    )
    token_file: str = _setting(
        "",
        "The file with the watcher's token.",
        '"~/.config/bus-watcher/token"',
        shown="the systemd credential `token`, else `EVENTLOG_TOKEN_FILE`, else `EVENTLOG_TOKEN`",
    )
    heartbeat: int = _setting(
        3, "Seconds between signs of life of the stream; 2.5 times as long a silence ends it.", "3", least=1, most=60
    )
    timeout: float = _setting(10.0, "Seconds to wait for an answer.", "10", least=0.1, most=300)
    reconnect_min: float = _setting(
        0.2, "Seconds before the first new try to reach the bus.", "0.2", least=0.01, most=60
    )
    reconnect_max: float = _setting(
        0.8, "Seconds between two tries at most: so soon is a link used that is back.", "0.8", least=0.1, most=300
    )


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """Table `[limits]`: what the watcher allows itself."""

    max_wakes: int = _setting(8, "Wakes that may run at once on this machine.", "8", least=1, most=1000)


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """Tables `[defaults]` and `[agents.NAME]`: how one agent is woken. Times are in seconds."""

    waker: str = _setting(
        "command",
        "How the agent is woken: `command`, `webhook`, `openclaw`, `openclaw-agent`, or a waker of your own.",
        '"command"',
    )
    timeout: float = _setting(300.0, "Seconds one wake may run.", "300", least=1, most=86_400)
    start_within: float = _setting(30.0, "Seconds in which a granted wake must have started.", "30", least=1, most=3600)
    ack: str = _setting(
        "agent",
        "Who acknowledges: the `agent`, the wake's `exit` 0 for it, or `none`: it only wants to be woken.",
        '"agent"',
        choices=("agent", "exit", "none"),
        shown='agent; exit with `deliver = "each"`',
    )
    ack_within: float = _setting(600.0, "Seconds by which the inbox must have moved.", "600", least=1, most=604_800)
    max_attempts: int = _setting(10, "Wakes for one message before it is a dead letter.", "10", least=1, most=1000)
    min_interval: float = _setting(
        0.0, "Seconds between two wakes.", "0", least=0, most=86_400, shown="0; 15 with `openclaw`"
    )
    max_wakes_per_hour: int = _setting(0, "Wakes in an hour at most; 0: as many as it takes.", "0", least=0, most=1000)
    deliver: str = _setting(
        "all",
        "`all` unread messages with one wake, or `each` with a run of its own.",
        '"all"',
        choices=("all", "each"),
        shown="all; each with `openclaw-agent`",
    )
    reply: str = _setting(
        "agent",
        "Who answers a run's message: the `agent` itself, or the watcher with what the run printed (`stdout`).",
        '"stdout"',
        choices=("agent", "stdout"),
        shown="agent; stdout with `openclaw-agent`",
    )
    input: str = _setting(
        "json",
        "What a run's command reads: one `json` object, or the `prompt` alone.",
        '"prompt"',
        choices=("json", "prompt"),
    )
    prompt_file: str = _setting(
        "", "A template for the prompt of runs.", '"~/mel/prompt.txt"', shown="the one that comes with the program"
    )
    command: tuple[str, ...] = _setting((), "The program to run and its arguments.", '["wake-mel"]')
    cwd: str = _setting("~", "The folder that the command runs in.", '"~/mel"')
    env: Mapping[str, str] = _setting(dict, "Further environment of the command.", '{ LANG = "C.UTF-8" }', shown="{}")
    url: str = _setting(
        "",
        "Where a `webhook` goes, or the OpenClaw gateway is.",
        '"http://127.0.0.1:9000/wake"',
        shown="none; OpenClaw's: `http://127.0.0.1:18789`",
    )
    token_file: str = _setting(
        "",
        "A file with the token that the webhook or the gateway wants.",
        '"~/.config/bus-watcher/hooks-token"',
        shown="none; OpenClaw's: `hooks-token`, or `gateway-token`, in `~/.config/bus-watcher/`",
    )
    secret_file: str = _setting(
        "", "A file with the secret (`whsec_…`) that signs a webhook.", '"~/.config/bus-watcher/webhook-secret"'
    )
    agent_id: str = _setting("", "The agent's id at the gateway.", '"tony"', shown="the agent's name")
    settings: Mapping[str, Any] = _setting(
        dict, "Whatever else a waker of your own wants.", '{ room = "42" }', shown="{}", anything=True
    )
    name: str = dataclasses.field(default="", metadata={})
    #: The template that `prompt_file` holds.
    prompt: str = dataclasses.field(default="", metadata={})

    @property
    def lease_s(self) -> float:
        """How long a wake may be held: what the bus reckons with."""
        return self.start_within + self.timeout + 15
