"""Config: the watcher's settings, read from one TOML file and checked; every error names line and mend."""

import dataclasses
import difflib
import json
import os
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventlog.errors import ConfigError
from eventlog.event import NAME, RESERVED, fold
from eventlog.homes import expanded
from eventlog.wire import Wire
from watcher.prompt import default_template, template_fault
from watcher.settings import (
    BUILT_IN_WAKERS,
    DEFAULT_URL,
    FOR_RUNS,
    OWN_DEFAULTS,
    SILENT_WAKERS,
    AgentSettings,
    BusSettings,
    LimitSettings,
)
from watcher.toml_lines import Lines

#: The most agents of one watcher, and the most letters of their names in all: the request for its stream names each,
#: and a bus reads 1000 parameters, and by default a header of 32 KiB.
AGENTS_MAX, NAMES_MAX = 900, 20_000


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
        """The watcher's token; None if no place for it is named. Raises ConfigError if the place has no good one."""
        credential = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / "token"
        for place in (self.bus.token_file, str(credential), os.environ.get("EVENTLOG_TOKEN_FILE", "")):
            path = expanded(place) if place else None
            if path and os.access(path, os.R_OK):
                try:
                    token = path.read_text("utf-8").strip()
                except (OSError, UnicodeDecodeError) as error:
                    mend = "write there what `eventlog token create` prints"
                    raise ConfigError(f"no token can be read from {path} ({error}); {mend}") from error
                if token:
                    return _checked(token, place)
        if token := os.environ.get("EVENTLOG_TOKEN", "").strip():
            return _checked(token, "EVENTLOG_TOKEN")
        if self.bus.token_file:
            raise ConfigError(
                f"no token can be read from {self.bus.token_file}; write there, readable by this user, what "
                f"`eventlog token create {self.name} --kind watcher --agent …` prints",
                field="bus.token_file",
            )
        return None


def _checked(token: str, place: str) -> str:
    """The token. Raises ConfigError, naming its place, if the client of the bus would not take it as one."""
    try:
        Wire(DEFAULT_URL, token)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.detail}") from error
    return token


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
        if len(agents) > AGENTS_MAX or sum(map(len, agents)) > NAMES_MAX:
            most = f"a watcher has at most {AGENTS_MAX} agents, and {NAMES_MAX:,} letters in their names"
            self.wrong(("agents",), most, "divide them between several watchers, each with a state folder of its own")
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
        agent = AgentSettings(**{**settings, "name": name})
        self.homes(at, agent, own, defaults)
        return agent

    def homes(
        self, at: tuple[str, ...], agent: AgentSettings, own: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        """Every home folder that the paths of an agent name, defaults included, must be there."""
        words = [("command", word) for word in agent.command if word.startswith("~/")]
        paths = [(key, getattr(agent, key)) for key in ("cwd", "token_file", "secret_file")]
        for key, path in [*words, *paths]:
            try:
                expanded(path)
            except ConfigError as error:
                where = (*at, key) if key in own else ("defaults", key) if key in defaults else at
                what, _, mend = error.detail.partition("; ")
                self.wrong(where, f"agent {agent.name!r}: {key} {what}", mend)

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
            text = expanded(named).read_text("utf-8")
        except (OSError, ValueError, ConfigError) as error:
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
                whose = f"agent {at[-1]!r}: " if at[0] == "agents" else ""
                self.wrong((*at, key), f"{whose}{key} {fault}", f"write it as in {key} = {like}")
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
        if told.get("anything"):
            return "" if _is_json(value) else "must hold nothing that JSON does not have, such as a date"
        if not all(isinstance(item, str) for item in value.values()):
            return "must hold nothing but text in quotes"
        # What no process can be started with would keep the agent from being woken, wake after wake.
        odd = [name for name, text in value.items() if not name or "=" in name or "\0" in name + text]
        return f"cannot hold {odd[0]!r}: no name is empty or has a '=', and nothing a NUL" if odd else ""
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


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


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
