"""The watcher's systemd unit: what `bus-watcher install` writes."""

import getpass
import os
import sys
from importlib import resources
from pathlib import Path
from typing import Final

from eventlog import systemd
from eventlog.errors import ConfigError
from eventlog.homes import expanded
from watcher.config import Config

#: Where a watcher of the whole machine has its files.
SYSTEM_CONFIG: Final = Path("/etc/bus-watcher/config.toml")
SYSTEM_STATE: Final = Path("/var/lib/bus-watcher")
UNIT: Final = "bus-watcher.service"


def write_unit(config: Path, state_dir: Path, *, system: bool, user: str | None) -> tuple[Path, bool]:
    """Write the unit; its path, and False if it stood there already. Raises ConfigError, also for a wrong config."""
    token_file = Config.load(config).bus.token_file
    credential = "# No token_file is set."
    if token_file:
        credential = f"LoadCredential=token:{expanded(token_file).absolute()}"
    name = "system.service" if system else "user.service"
    template = (resources.files("watcher.units") / name).read_text("utf-8")
    text = systemd.render(
        template,
        words={"program": _program(), "config": config, "state_dir": state_dir},
        values={"credential": credential, "user": user or _user()},
    )
    path = systemd.unit_folder("system" if system else "user") / UNIT
    return path, systemd.write_unit(path, text)


def steps(*, system: bool) -> list[str]:
    """The commands that start the service and let it survive a logout."""
    if system:
        return ["systemctl daemon-reload", f"systemctl enable --now {UNIT}"]
    return [
        "systemctl --user daemon-reload",
        f"systemctl --user enable --now {UNIT}",
        f"loginctl enable-linger {getpass.getuser()}",
    ]


def _program() -> Path:
    """The installed `bus-watcher` beside this Python. Raises ConfigError if there is none."""
    program = Path(sys.executable).with_name("bus-watcher")
    if not program.exists():
        raise ConfigError(f"no program {program}: a service needs an installed package; install it into this Python")
    return program


def _user() -> str:
    return os.environ.get("SUDO_USER") or getpass.getuser()
