"""Config: the bus's settings, each declared once; its environment name, option and reference entry follow from that."""

import dataclasses
import ipaddress
import os
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventlog.errors import ConfigError
from eventlog.homes import expanded

#: What every setting's environment name begins with.
ENV_PREFIX = "EVENTLOG_"

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_LEVELS = ("debug", "info", "warning", "error")


def default_data_dir() -> Path:
    """The user's data folder for this program, by the platform's convention."""
    import platformdirs

    return platformdirs.user_data_path("eventlog")


def _setting(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    shown: str = "",
) -> Any:
    """A field of `Config` with what the command line and the reference say of it."""
    told = {"doc": doc, "unit": unit, "least": least, "most": most, "choices": choices, "shown": shown}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=told)
    return dataclasses.field(default=default, metadata=told)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The bus's settings: defaults, configuration file, environment, command line; the later one wins.

    `Config.load` raises `ConfigError` naming the setting, where it came from, and the mend.
    """

    data_dir: Path = _setting(  # noqa: RUF009 - makes a field, like dataclasses.field
        default_data_dir,
        "The folder that holds the database, the administrator's token and the lock.",
        shown="the user's data folder, `~/.local/share/eventlog` on Linux",
    )
    host: str = _setting("127.0.0.1", "The address to listen on.")
    port: int = _setting(8091, "The port to listen on; 0 takes a free one.", least=0, most=65535)
    no_auth: bool = _setting(
        False, "Everyone who reaches the bus is an administrator; refused on any address but loopback."
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (), "Names that requests may give as Host, besides loopback's and the listening address; `*` allows all."
    )
    allowed_origins: tuple[str, ...] = _setting(
        (), "Origins whose web pages may use the bus, besides its own, as in `https://panel.example`."
    )
    log_level: str = _setting("info", "The least level of log lines to write.", choices=_LEVELS)

    body_limit_bytes: int = _setting(
        262_144, "The largest body of a request.", unit="bytes", least=1024, most=1_000_000
    )
    header_limit_bytes: int = _setting(
        32_768, "The largest header of a request, its first line included.", unit="bytes", least=1024, most=1_000_000
    )
    header_timeout_s: float = _setting(10.0, "Time for a client to send its request's header.", unit="s", least=0.1)
    body_timeout_s: float = _setting(30.0, "Time for a client to send its request's body.", unit="s", least=0.1)
    batch_max: int = _setting(1000, "The most messages in the body of one request.", least=1)
    recipients_max: int = _setting(
        1000, "The most messages that one request may make, one for each recipient.", least=1
    )
    page_limit: int = _setting(100, "Entries of a page when a request names no `limit`.", least=1, most=1000)
    page_limit_max: int = _setting(1000, "The largest `limit` that a request may name.", least=1, most=10_000)
    wait_max_s: float = _setting(
        600.0, "The longest wait of a request, for mail or for a receipt.", unit="s", least=1, most=3600
    )

    heartbeat_s: float = _setting(
        5.0, "Time between a stream's signs of life, if its request names none.", unit="s", least=1, most=60
    )
    followers_max: int = _setting(2000, "Streams and waiting requests at once; more are answered 429.", least=1)
    window_events: int = _setting(10_000, "The newest frames that are kept in memory for followers.", least=1)
    window_bytes: int = _setting(16_777_216, "The most memory for those frames.", unit="bytes", least=1_048_576)
    send_timeout_s: float = _setting(
        30.0, "A connection whose client reads nothing that waits for it for so long is ended.", unit="s", least=0.1
    )
    tcp_user_timeout_ms: int = _setting(
        5000, "Data that a client's machine does not confirm for so long ends its connection.", unit="ms", least=100
    )

    send_buffer_bytes: int = _setting(
        262_144, "What the kernel holds for a client that reads slowly.", unit="bytes", least=4096
    )
    idle_timeout_s: float = _setting(
        75.0, "A connection on which nothing is asked for so long is closed.", unit="s", least=1
    )

    group_max: int = _setting(1000, "Appends that may share one transaction.", least=1)
    append_queue_max: int = _setting(
        10_000, "Appends that may wait for their transaction; more are answered 429.", least=1
    )
    sends_max: int = _setting(512, "Requests to send that may be under way at once; more are answered 429.", least=1)
    readers: int = _setting(2, "Reading connections to the database.", least=1, most=16)

    max_hops: int = _setting(
        64, "How far messages may come, each from the one before, until their thread is stopped; 0: any.", least=0
    )
    pair_rate_max: int = _setting(
        60,
        "How often two agents may answer each other in a minute until they are stopped; 0: any.",
        unit="messages",
        least=0,
        most=10_000,
    )
    cycle_steps_max: int = _setting(
        60,
        "How often a message may be passed on in a ring of 3 to 8 agents in one rhythm until it is stopped; 0: any.",
        unit="messages",
        least=0,
        most=1000,
    )
    thread_messages_max: int = _setting(10_000, "The most messages of a thread; 0: any number.", least=0)
    thread_wakes_max: int = _setting(10_000, "The most wakes for the messages of a thread; 0: any number.", least=0)

    sweep_interval_s: float = _setting(
        1.0, "Time between two looks for leases and wakes that are due.", unit="s", least=0.05
    )
    quiet_after_restore_s: float = _setting(
        600.0,
        "After a restore no agent is woken for at least so long: its machine may still run an old wake.",
        unit="s",
        least=0,
    )
    reply_token_s: float = _setting(
        86_400.0,
        "How long the token lasts with which a run can answer its message, from the run's grant on.",
        unit="s",
        least=1,
    )
    unreachable_after_s: float = _setting(
        3600.0,
        "An agent that could not be woken for a message for so long is told of to its sender, once; 0: never.",
        unit="s",
        least=0,
    )
    shutdown_grace_s: float = _setting(
        0.5, "Time for followers to end with a whole frame when the bus stops.", unit="s", least=0
    )

    @classmethod
    def load(
        cls,
        *,
        file: Path | None = None,
        environ: Mapping[str, str] = os.environ,
        options: Mapping[str, str | bool | None] | None = None,
    ) -> "Config":
        """The settings in force. `options` are the command line's, None for those not given.

        Raises `ConfigError` if a value is wrong, a name is unknown, or two settings do not go together.
        """
        values: dict[str, Any] = {}
        if file is not None:
            values |= _from_file(file)
        for setting in settings():
            if setting.env in environ:
                values[setting.name] = setting.parse(environ[setting.env], setting.env)
            given = (options or {}).get(setting.name)
            if given is not None:
                values[setting.name] = setting.parse(given, setting.option)
        config = cls(**values)
        config.check()
        return config

    def check(self) -> None:
        """Raises `ConfigError` if two settings do not go together."""
        if self.no_auth and not is_loopback(self.host):
            raise ConfigError(
                f"no_auth is refused on {self.host}: anyone there would be an administrator; "
                "remove it, or set host to 127.0.0.1",
                field="no_auth",
            )
        if self.page_limit > self.page_limit_max:
            raise ConfigError(
                f"page_limit is {self.page_limit}, over page_limit_max ({self.page_limit_max}); lower it",
                field="page_limit",
            )


@dataclass(frozen=True)
class Setting:
    """One field of `Config`, as the command line and the reference show it."""

    name: str
    kind: Any
    default: Any
    doc: str
    unit: str
    least: float | None
    most: float | None
    choices: tuple[str, ...]
    shown: str

    @property
    def env(self) -> str:
        """Its name in the environment."""
        return ENV_PREFIX + self.name.upper()

    @property
    def option(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def default_text(self) -> str:
        """Its default, for people."""
        if self.shown:
            return self.shown
        if self.kind is bool:
            return "true" if self.default else "false"
        if isinstance(self.default, tuple):
            return "none" if not self.default else ", ".join(self.default)
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def expected(self) -> str:
        """What a value must be, for people."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        words = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path", str: "text"}
        text = words.get(self.kind, "a list of texts")
        if self.least is not None:
            text += f" from {self.least:.10g}" + (f" to {self.most:.10g}" if self.most is not None else " up")
        return text

    def parse(self, value: Any, source: str) -> Any:
        """The setting's value from text or from a TOML value. Raises `ConfigError` naming `source`."""
        try:
            parsed = _PARSERS[self.kind](value)
        except (TypeError, ValueError):
            raise self._error(value, source) from None
        too_small = self.least is not None and parsed < self.least
        too_large = self.most is not None and parsed > self.most
        if too_small or too_large or (self.choices and parsed not in self.choices):
            raise self._error(value, source)
        return parsed

    def _error(self, value: Any, source: str) -> ConfigError:
        unit = f" ({self.unit})" if self.unit else ""
        return ConfigError(f"{self.name} is {value!r} in {source}; it must be {self.expected}{unit}", field=self.name)


def settings() -> Iterator[Setting]:
    """All settings, in the order of the reference."""
    kinds = typing.get_type_hints(Config)
    for field in dataclasses.fields(Config):
        yield Setting(name=field.name, kind=kinds[field.name], default=field.default, **field.metadata)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name other than localhost is taken as reachable."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _from_file(path: Path) -> dict[str, Any]:
    try:
        loaded = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"cannot read the configuration file {path} ({exc}); mend it or leave out --config") from exc
    known = {setting.name: setting for setting in settings()}
    for name in loaded:
        if name not in known:
            raise ConfigError(f"unknown setting {name!r} in {path}; {_nearest(name, known)}", field=name)
    return {name: known[name].parse(value, str(path)) for name, value in loaded.items()}


def _nearest(name: str, known: Mapping[str, Setting]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else "the reference of the configuration lists all settings"


def _parse_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in _TRUE | _FALSE:
        raise ValueError
    return value.lower() in _TRUE


def _parse_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    return int(value)


def _parse_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    parsed = float(value)
    if parsed != parsed or parsed in (float("inf"), float("-inf")):
        raise ValueError
    return parsed


def _parse_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError
    return value.strip()


def _parse_path(value: Any) -> Path:
    return expanded(_parse_text(value))


def _parse_texts(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise ValueError
    return tuple(_parse_text(part) for part in parts)


_PARSERS: Mapping[Any, Callable[[Any], Any]] = types.MappingProxyType(
    {
        bool: _parse_bool,
        int: _parse_int,
        float: _parse_float,
        str: _parse_text,
        Path: _parse_path,
        tuple[str, ...]: _parse_texts,
    }
)
