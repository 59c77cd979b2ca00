"""Config: the watcher's settings, each declared once, read from one TOML file; every error names line and mend."""

import dataclasses
import difflib
import os
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eventlog.errors import ConfigError
from eventlog.event import NAME, RESERVED, fold
from watcher.prompt import default_template, template_fault
from watcher.toml_lines import Lines

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


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of one watcher. `Config.load` raises ConfigError; `check` lists everything that is wrong."""

    name: str
    bus: BusSettings
    limits: LimitSettings
    agents: Mapping[str, AgentSettings]
    path: Path

    @classmethod
    def load(cls, path: Path) -> "Config":
        """The settings in a file. Raises ConfigError with the first problem, and how many more there are."""
        config, problems = check(path)
        if config is None or problems:
            more = f" (and {len(problems) - 1} more: `bus-watcher check` lists them)" if len(problems) > 1 else ""
            raise ConfigError(f"{problems[0]}{more}", field=problems[0].key)
        return config

    def line(self, key: str) -> int:
        """The line of the file that a key, with its tables before it, stands in."""
        return Lines(self.path.read_text("utf-8")).of(tuple(key.split(".")))

    def token(self) -> str | None:
        """The watcher's token; None if no place for it is named. Raises ConfigError if the place named has none."""
        credential = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / "token"
        for place in (self.bus.token_file, str(credential), os.environ.get("EVENTLOG_TOKEN_FILE", "")):
            path = Path(place).expanduser() if place else None
            if path and os.access(path, os.R_OK) and (token := path.read_text("utf-8").strip()):
                return token
        if token := os.environ.get("EVENTLOG_TOKEN", "").strip():
            return token
        if self.bus.token_file:
            raise ConfigError(
                f"no token can be read from {self.bus.token_file}; write there, readable by this user, what "
                f"`eventlog token create {self.name} --kind watcher --agent …` prints",
                field="bus.token_file",
            )
        return None


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in the file: where, what, and the mend."""

    path: Path
    line: int
    key: str
    what: str
    mend: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{place}: {self.what}" + (f"; {self.mend}" if self.mend else "")


def check(path: Path) -> tuple[Config | None, list[Problem]]:
    """The settings in a file, and all that is wrong with it; the settings are None if there are none to speak of."""
    try:
        text = path.read_text("utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        mend = "name another with --config, or write it; docs/reference/configuration.md has one to start from"
        return None, [Problem(path, 0, "", f"cannot be read ({error.strerror})", mend)]
    except UnicodeDecodeError:
        return None, [Problem(path, 0, "", "is not UTF-8", "save it as UTF-8")]
    except tomllib.TOMLDecodeError as error:
        line = Lines.of_error(str(error))
        return None, [Problem(path, line, "", f"is not TOML: {error}", "mend this line")]
    return _Checker(path, table, Lines(text)).config()


class _Checker:
    """Turns one TOML table into a Config, collecting what is wrong."""

    def __init__(self, path: Path, table: dict[str, Any], lines: Lines) -> None:
        self.path = path
        self.table = table
        self.lines = lines
        self.problems: list[Problem] = []

    def config(self) -> tuple[Config | None, list[Problem]]:
        """The settings, and all problems in the order of their lines."""
        self.known((), self.table, ["name", "bus", "limits", "defaults", "agents"])
        name = self.table.get("name", host_name())
        self.named(("name",), name, "the watcher")
        bus = BusSettings(**self.values(("bus",), BusSettings))
        if not bus.url.startswith(("http://", "https://")):
            self.wrong(("bus", "url"), f"url is {bus.url!r}", 'write it with its scheme, as in "http://127.0.0.1:8091"')
        limits = LimitSettings(**self.values(("limits",), LimitSettings))
        defaults = self.values(("defaults",), AgentSettings)
        agents = {name: self.agent(name, defaults) for name in self.section(("agents",))}
        if not agents:
            mend = 'add one, as in [agents.mel] with command = ["wake-mel"]'
            self.wrong(("agents",), "no agent is named", mend)
        if not any(one.deliver == "each" for one in agents.values()):
            for key in FOR_RUNS & defaults.keys():
                self.wrong(("defaults", key), f"{key} is for runs", 'add deliver = "each", or leave it out')
        twice = [name for name in agents if [fold(other) for other in agents].count(fold(name)) > 1]
        for name in twice[1:]:
            self.wrong(("agents", name), f"agent {name!r} is named twice", "names are compared without regard to case")
        config = Config(name=str(name), bus=bus, limits=limits, agents=agents, path=self.path)
        return config, sorted(self.problems, key=lambda problem: problem.line)

    def agent(self, name: str, defaults: Mapping[str, Any]) -> AgentSettings:
        """One agent's settings: its own table over the defaults."""
        at = ("agents", name)
        self.named(at, name, "an agent")
        own = self.values(at, AgentSettings)
        settings = {**defaults, **own}
        waker = settings.get("waker", "command")
        settings = {**OWN_DEFAULTS.get(str(waker), {}), **settings}
        named = {*settings, *self.section(at)}
        if waker == "command" and "command" not in named:
            self.wrong(at, f"agent {name!r} has no command", 'add one, as in command = ["wake-mel"]')
        if waker == "webhook" and "url" not in named:
            self.wrong(
                at, f"agent {name!r} has no url", 'add where the webhook goes, as in url = "http://127.0.0.1:9000/"'
            )
        if settings.get("url") and not settings["url"].startswith(("http://", "https://")):
            self.wrong(
                (*at, "url"), f"url is {settings['url']!r}", 'write it with its scheme, as in "http://127.0.0.1:9000/"'
            )
        if waker not in BUILT_IN_WAKERS and waker not in _installed_wakers():
            choices = [*BUILT_IN_WAKERS, *_installed_wakers()]
            where = (*at, "waker") if "waker" in own else ("defaults", "waker")
            self.wrong(where, f"there is no waker {waker!r}", _nearest(str(waker), choices))
        settings |= self.run(at, settings, own) if settings.get("deliver") == "each" else self.no_run(at, waker, own)
        return AgentSettings(**{**settings, "name": name})

    def run(self, at: tuple[str, ...], settings: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        """What an agent's settings have besides if it gets runs."""
        waker = settings.get("waker", "command")
        if settings.get("input") == "prompt" and waker != "command":
            where = (*at, "input") if "input" in own else ("defaults", "input")
            self.wrong(where, f"the waker {waker!r} reads JSON", 'leave input out, or take waker = "command"')
        if settings.get("reply") == "stdout" and waker in SILENT_WAKERS:
            where = (*at, "reply") if "reply" in own else ("defaults", "reply")
            self.wrong(where, f"the waker {waker!r} prints nothing", "leave reply out: the agent answers itself")
        return {"ack": "exit", **settings, "prompt": self.template(at, settings.get("prompt_file", ""), own)}

    def no_run(self, at: tuple[str, ...], waker: Any, own: Mapping[str, Any]) -> dict[str, Any]:
        """The same if it gets wakes for all messages: what is meant for runs is wrong in its own table."""
        if waker == "openclaw-agent":
            where = (*at, "deliver") if "deliver" in own else ("defaults", "deliver")
            self.wrong(where, f"the waker {waker!r} gives each message a turn of its own", 'write deliver = "each"')
        for name in FOR_RUNS & own.keys():
            self.wrong((*at, name), f"{name} is for runs", 'add deliver = "each", or leave it out')
        return {}

    def template(self, at: tuple[str, ...], named: str, own: Mapping[str, Any]) -> str:
        """The prompt's template."""
        if not named:
            return default_template()
        where = (*at, "prompt_file") if "prompt_file" in own else ("defaults", "prompt_file")
        try:
            text = Path(named).expanduser().read_text("utf-8")
        except (OSError, ValueError) as error:
            self.wrong(where, f"{named} cannot be read ({error})", "name a template of your own, or none")
            return ""
        fault = template_fault(text)
        if fault:
            self.wrong(where, f"{named} {fault}", "mend the template; docs/how-to/runs.md lists the names")
        return text

    def values(self, at: tuple[str, ...], kind: type[BusSettings | LimitSettings | AgentSettings]) -> dict[str, Any]:
        """The values that a table gives, those of the right shape only."""
        table = self.section(at)
        fields = {field.name: field for field in dataclasses.fields(kind) if field.metadata}
        self.known(at, table, list(fields))
        found: dict[str, Any] = {}
        for key, value in table.items():
            if key not in fields:
                continue
            fault = _fault(fields[key], value)
            if fault:
                like = fields[key].metadata["like"]
                self.wrong((*at, key), f"{key} {fault}", f"write it as in {key} = {like}")
            else:
                found[key] = tuple(value) if isinstance(value, list) else value
        return found

    def section(self, at: tuple[str, ...]) -> dict[str, Any]:
        """A table of the file; empty if it is not there."""
        table = self.table
        for key in at:
            inner = table.get(key, {})
            if not isinstance(inner, dict):
                self.wrong(at, f"{key} is not a table", f"write it as [{'.'.join(at)}]")
                return {}
            table = inner
        return table

    def known(self, at: tuple[str, ...], table: Mapping[str, Any], names: list[str]) -> None:
        """Every key of a table must be one of these names."""
        for key in table:
            if key not in names:
                self.wrong((*at, key), f"unknown key {key!r}", _nearest(key, names))

    def named(self, at: tuple[str, ...], name: Any, what: str) -> None:
        """A name must be one that the bus accepts."""
        if not isinstance(name, str) or not NAME.match(name) or fold(name) in RESERVED:
            mend = (
                "take 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit; admin and bus are reserved"
            )
            self.wrong(at, f"{name!r} cannot be the name of {what}", mend)

    def wrong(self, at: tuple[str, ...], what: str, mend: str) -> None:
        """Note a problem at the line of a key."""
        self.problems.append(Problem(self.path, self.lines.of(at), ".".join(at), what, mend))


def _fault(field: "dataclasses.Field[Any]", value: Any) -> str:
    """What is wrong with a value, in words that follow its name; "" if nothing is."""
    told, default = field.metadata, field.default
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if field.name in ("env", "settings"):
        if not isinstance(value, dict):
            return "must be a table"
        texts = told.get("anything") or all(isinstance(item, str) for item in value.values())
        return "" if texts else "must hold nothing but text in quotes"
    if field.name == "command":
        words = isinstance(value, list) and value and all(isinstance(word, str) and "\0" not in word for word in value)
        return "" if words and value[0] else "must be a list of words, the first one the program"
    if isinstance(default, (int, float)):
        if not number or (isinstance(default, int) and not isinstance(value, int)):
            return "must be a whole number" if isinstance(default, int) else "must be a number of seconds"
        if not told["least"] <= value <= told["most"]:
            return f"is {value}, not from {told['least']} to {told['most']}"
        return ""
    if not isinstance(value, str) or "\0" in value:
        return "must be text in quotes"
    if "choices" in told and value not in told["choices"]:
        return f"is {value!r}, not one of {', '.join(told['choices'])}"
    return ""


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"it may be one of {', '.join(names)}"


def _installed_wakers() -> list[str]:
    from importlib.metadata import entry_points

    return [point.name for point in entry_points(group="bus_watcher.wakers")]


def host_name() -> str:
    """This machine's name, as far as a watcher may be called so."""
    name = "".join(
        char if char.isalnum() and char.isascii() else "-" for char in socket.gethostname().partition(".")[0]
    )
    return name.strip("-")[:64] or "watcher"
