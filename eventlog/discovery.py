"""How a client finds the bus and its token: the environment, else the client's configuration file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from eventlog.errors import ConfigError
from eventlog.homes import expanded


class Address(NamedTuple):
    """Where the bus is, and the token to show it; None if there is none."""

    url: str
    token: str | None = None


def client_config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """The client's configuration file: `$XDG_CONFIG_HOME/eventlog/config.toml`, by default under ~/.config."""
    home = environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else expanded("~/.config")) / "eventlog" / "config.toml"


def read_token(path: Path, said_by: str) -> str:
    """The token in a file. Raises `ConfigError` naming `said_by` if it cannot be read or is empty."""
    try:
        token = expanded(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read the token file {path} ({exc}); mend {said_by} or the file") from exc
    if not token:
        raise ConfigError(f"the token file {path} is empty; put the token there or mend {said_by}")
    return token


def read_client_config(path: Path) -> dict[str, str]:
    """The keys `url` and `token_file` as far as the file has them; {} if there is no file.

    Raises `ConfigError` if it is not TOML, or has other keys, or a value that is not text.
    """
    try:
        text = path.read_text("utf-8")
        # Loaded only for a file that is there, and never by what has all it needs in its environment.
        import tomllib

        loaded = tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:  # the latter is what is not UTF-8, or not TOML
        raise ConfigError(f"cannot read {path} ({exc}); mend or remove it") from exc
    for key, value in loaded.items():
        if key not in ("url", "token_file"):
            raise ConfigError(f"{path}: unknown key {key!r}; it may hold url and token_file", field=key)
        if not isinstance(value, str):
            raise ConfigError(f"{path}: {key} must be text in quotes", field=key)
    return loaded


def write_client_config(url: str, token_file: Path, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Writes the client's configuration file; returns its path, or None if one was there that it left alone.

    One that names this token file is this bus's own: it is written anew if the address is another now.
    Raises `ConfigError` if one is there that cannot be read.
    """
    path = client_config_path(environ)
    text = f"# How `eventlog` finds the bus.\nurl = {_quoted(url)}\ntoken_file = {_quoted(str(token_file))}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        return path
    except FileExistsError:
        present = read_client_config(path)
    if present.get("token_file") != str(token_file) or present.get("url") == url:
        return None
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text, "utf-8")
    scratch.replace(path)
    return path


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in escaped) + '"'


def discover(
    url: str | None = None, token_file: Path | None = None, environ: Mapping[str, str] = os.environ
) -> Address:
    """The bus's address and token: what is given here wins over the environment, and that over the file.

    The file's token goes with the file's url only: it is never shown to another bus.
    Raises `ConfigError` saying what to set if no url is found or a token file cannot be read.
    """
    path = client_config_path(environ)
    found = url or environ.get("EVENTLOG_URL")
    file = {} if found and (token_file or environ.get("EVENTLOG_TOKEN")) else read_client_config(path)
    found = found or file.get("url")
    if not found:
        raise ConfigError(
            f"no bus is known: set EVENTLOG_URL, or `url` in {path}, or start one here with `eventlog serve`"
        )
    return Address(found.rstrip("/"), _token(found.rstrip("/"), token_file, file, path, environ))


def _token(
    url: str, token_file: Path | None, file: dict[str, str], path: Path, environ: Mapping[str, str]
) -> str | None:
    if token_file:
        return read_token(token_file, "--token-file")
    if token := environ.get("EVENTLOG_TOKEN", "").strip():
        return token
    if named := environ.get("EVENTLOG_TOKEN_FILE"):
        return read_token(Path(named), "EVENTLOG_TOKEN_FILE")
    if "token_file" in file and file.get("url", "").rstrip("/") == url:
        return read_token(path.parent / expanded(file["token_file"]), f"token_file in {path}")
    return None
