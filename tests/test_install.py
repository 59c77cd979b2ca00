"""`eventlog install`: the units that it writes are what systemd takes, and clients find the bus afterwards."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eventlog import systemd
from eventlog.discovery import discover
from eventlog.errors import ConfigError
from eventlog.install import install


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(systemd, "SYSTEM_UNITS", tmp_path / "system")
    for name in ("EVENTLOG_URL", "EVENTLOG_TOKEN", "EVENTLOG_TOKEN_FILE", "EVENTLOG_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def installed(*args: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(install, args)


def verified(*units: Path) -> str:
    """What systemd's own check says of units; nothing if they are clean."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    command = ["systemd-analyze", "verify", "--recursive-errors=yes", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if any(unit.name in line for unit in units)]
    return "\n".join(ours)


def test_a_users_unit_is_clean_and_says_how_to_start_it(tmp_path: Path) -> None:
    result = installed("--data-dir", str(tmp_path / "a b%c"))
    unit = tmp_path / "config" / "systemd" / "user" / "eventlog.service"
    assert f"wrote {unit}" in result.output
    assert "next: systemctl --user enable --now eventlog.service" in result.output
    assert "a b%%c" in unit.read_text()
    assert verified(unit) == ""


def test_a_machines_units_with_a_socket_are_clean(tmp_path: Path) -> None:
    installed("--system", "--socket", "--user", "daemon")
    units = [tmp_path / "system" / name for name in ("eventlog.service", "eventlog.socket")]
    assert "User=daemon" in units[0].read_text()
    assert "/var/lib/eventlog" in units[0].read_text()
    assert "ListenStream=127.0.0.1:8091" in units[1].read_text()
    assert verified(*units) == ""


def test_clients_find_the_bus_afterwards(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "admin.token").write_text("secret")
    installed("--data-dir", str(tmp_path / "d"), "--host", "0.0.0.0", "--port", "9999")
    assert discover() == ("http://127.0.0.1:9999", "secret")


def test_installing_again_changes_nothing(tmp_path: Path) -> None:
    first = json.loads(installed("--json").output)
    assert len(first["written"]) == 2
    assert json.loads(installed("--json").output)["written"] == []


def test_an_ipv6_address_is_bracketed_where_a_port_follows(tmp_path: Path) -> None:
    installed("--host", "::", "--socket")
    socket = tmp_path / "config" / "systemd" / "user" / "eventlog.socket"
    assert "ListenStream=[::]:8091" in socket.read_text()
    assert discover_url() == "http://[::1]:8091"


def discover_url() -> str:
    from eventlog.discovery import client_config_path, read_client_config

    return read_client_config(client_config_path())["url"]


def test_a_service_on_a_port_that_changes_is_refused() -> None:
    with pytest.raises(ConfigError, match="other than 0"):
        installed("--port", "0")


def test_a_python_without_the_program_is_told_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match="install it into this Python"):
        installed()
