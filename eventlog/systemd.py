"""What both programs need of systemd: telling it how they are, and writing their units from templates."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from string import Template
from typing import Final, Literal

from eventlog.errors import ConfigError
from eventlog.homes import expanded

#: Where units go that start with the machine.
SYSTEM_UNITS: Final = Path("/etc/systemd/system")


def notify(state: str) -> None:
    """Tell systemd a state (`READY=1`, `WATCHDOG=1`, `STOPPING=1`, `STATUS=…`); without systemd nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(state.encode())


def watchdog_s() -> float | None:
    """How often, in seconds, systemd wants to hear `WATCHDOG=1` from this process at least; None if it does not."""
    asked_us = os.environ.get("WATCHDOG_USEC", "")
    if not asked_us.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(asked_us) / 1_000_000


def render(template: str, *, words: Mapping[str, str | Path], values: Mapping[str, str | Path]) -> str:
    """A unit with its `$names` filled in: `words` stand in a list or a command line, `values` are a whole setting.

    Raises `ConfigError` if one holds a character that no unit can carry.
    """
    filled = {name: word(text) for name, text in words.items()}
    filled |= {name: _value(str(value)) for name, value in values.items()}
    return Template(template).substitute(filled)


def unit_folder(scope: Literal["user", "system"]) -> Path:
    """Where units of this scope are looked for by systemd."""
    if scope == "system":
        return SYSTEM_UNITS
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else expanded("~/.config")) / "systemd" / "user"


def write_unit(path: Path, text: str) -> bool:
    """Write a unit, whole or not at all; False if it stands there already, just so. Raises `ConfigError`."""
    try:
        if path.exists() and path.read_text("utf-8") == text:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.new")
        scratch.write_text(text, "utf-8")
        scratch.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write the unit {path}: {error.strerror}; are you the right user?") from error
    return True


def _value(text: str) -> str:
    """A text as a setting's value: `%` begins a specifier, and `$` a variable in some settings and not in others."""
    if not text.isprintable() or "$" in text:
        raise ConfigError(f"{text!r} holds a character that a systemd unit cannot carry; choose another path")
    return text.replace("%", "%%")


def word(value: str | Path) -> str:
    """A text as one word of a list or a command line. Raises ConfigError if no unit can carry it."""
    text = _value(str(value))
    if any(char in text for char in " '\"\\"):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return text
