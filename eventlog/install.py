"""`eventlog install`: the bus's systemd units, and the file by which clients on this machine find the bus."""

import getpass
import os
import sys
from importlib import resources
from pathlib import Path

import click

from eventlog import systemd
from eventlog.cli_common import json_option, note, say, say_json
from eventlog.config import Config
from eventlog.discovery import write_client_config
from eventlog.errors import ConfigError

#: Where a bus of the whole machine keeps its log: systemd's own place for it.
SYSTEM_DATA_DIR = Path("/var/lib/eventlog")


@click.command()
@click.option("--system", is_flag=True, help="A service of the machine instead of one of this user.")
@click.option(
    "--socket", is_flag=True, help="systemd holds the address open, so that connections wait through an upgrade."
)
@click.option("--data-dir", metavar="DIR", help="The log's folder.")
@click.option("--host", metavar="ADDRESS", help="The address to listen on.")
@click.option("--port", metavar="PORT", help="The port to listen on.")
@click.option("--user", metavar="NAME", help="With --system: the user that the bus runs as (default: you).")
@json_option
def install(
    system: bool,
    socket: bool,
    data_dir: str | None,
    host: str | None,
    port: str | None,
    user: str | None,
    as_json: bool,
) -> None:
    """Write systemd units for the bus, and say how to start them."""
    if system and data_dir is None and "EVENTLOG_DATA_DIR" not in os.environ:
        data_dir = str(SYSTEM_DATA_DIR)
    config = Config.load(options={"data_dir": data_dir, "host": host, "port": port})
    if config.port == 0:
        raise ConfigError("a service needs an address that stays: give --port a number other than 0", field="port")
    written = _write_units(config, system=system, socket=socket, user=user or _user())
    address = f"http://{_bracketed(_reachable(config.host))}:{config.port}"
    client_file = write_client_config(address, config.data_dir.absolute() / "admin.token")
    if client_file is not None:
        written.append(client_file)
    steps = _steps(system=system, socket=socket)
    if as_json:
        say_json({"written": [str(path) for path in written], "next": steps})
        return
    for path in written:
        say(f"wrote {path}")
    if not written:
        note("everything stands there already")
    for step in steps:
        say(f"next: {step}")


def _write_units(config: Config, *, system: bool, socket: bool, user: str) -> list[Path]:
    """Writes the units; the paths of those that were not there just so."""
    folder = systemd.unit_folder("system" if system else "user")
    words: dict[str, str | Path] = {
        "program": _program(),
        "data_dir": config.data_dir.absolute(),
        "host": config.host,
        "port": str(config.port),
    }
    units = {
        "eventlog.service": systemd.render(
            _template("system" if system else "user"), words=words, values={"user": user}
        )
    }
    if socket:
        values: dict[str, str | Path] = {"host": _bracketed(config.host), "port": str(config.port)}
        units["eventlog.socket"] = systemd.render(_template("socket"), words={}, values=values)
    return [folder / name for name, text in units.items() if systemd.write_unit(folder / name, text)]


def _template(kind: str) -> str:
    name = "socket.socket" if kind == "socket" else f"{kind}.service"
    return resources.files("eventlog.units").joinpath(name).read_text("utf-8")


def _program() -> Path:
    """The installed `eventlog` beside this Python. Raises `ConfigError` if there is none."""
    program = Path(sys.executable).with_name("eventlog")
    if not program.exists():
        raise ConfigError(
            f"no program {program}: a service needs an installed package; install it into this Python first"
        )
    return program


def _user() -> str:
    return os.environ.get("SUDO_USER") or getpass.getuser()


def _reachable(host: str) -> str:
    """The address by which this machine reaches a bus that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - recognised, not listened on


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _steps(*, system: bool, socket: bool) -> list[str]:
    """The commands that start what was written."""
    ctl = "sudo systemctl" if system else "systemctl --user"
    units = "eventlog.socket eventlog.service" if socket else "eventlog.service"
    steps = [f"{ctl} daemon-reload", f"{ctl} enable --now {units}"]
    return steps if system else [*steps, "loginctl enable-linger"]
