"""The units: what is written into them, and that systemd finds no fault with them."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from eventlog import systemd
from eventlog.errors import ConfigError
from watcher import install

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")

CONFIG = '[bus]\ntoken_file = "~/secrets/token"\n[agents.mel]\ncommand = ["true"]\n'


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a unit whose program is there; the unit's path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.setattr(systemd, "SYSTEM_UNITS", tmp_path / "system")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "bus-watcher"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin" / "python"))

    def write(*, system: bool, config: str = "config.toml", text: str = CONFIG) -> Path:
        path = tmp_path / config
        path.write_text(text)
        unit, _ = install.write_unit(path, tmp_path / "state", system=system, user="root" if system else None)
        return unit

    return write


@pytest.mark.parametrize("system", [False, True])
def test_systemd_finds_no_fault_with_a_unit(written: Callable[..., Path], system: bool) -> None:
    unit = written(system=system)
    command = ["systemd-analyze", "verify", "--recursive-errors=yes", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("system", [False, True])
def test_a_unit_restarts_the_watcher_and_leaves_running_wakes_alone(
    written: Callable[..., Path], tmp_path: Path, system: bool
) -> None:
    lines = written(system=system).read_text().splitlines()
    for line in (
        "Type=notify",
        "WatchdogSec=30",
        "Restart=always",
        "RestartSec=1",
        "StartLimitIntervalSec=0",
        "OOMPolicy=continue",
        "RestartPreventExitStatus=78",
        "KillMode=process",
        f"LoadCredential=token:{tmp_path}/secrets/token",
        f"ExecStart={tmp_path}/bin/bus-watcher run --config {tmp_path}/config.toml --state-dir {tmp_path}/state",
    ):
        assert line in lines
    assert not any("MemoryDenyWriteExecute=" in line or "PrivateTmp=" in line for line in lines)
    assert ("User=root" in lines) is system


def test_units_go_where_systemd_looks_for_them(written: Callable[..., Path], tmp_path: Path) -> None:
    assert written(system=False) == tmp_path / ".config/systemd/user/bus-watcher.service"
    assert written(system=True) == tmp_path / "system/bus-watcher.service"


def test_a_path_with_blanks_and_percent_signs_is_one_word(written: Callable[..., Path], tmp_path: Path) -> None:
    unit = written(system=False, config="my 100% config.toml")
    assert f'--config "{tmp_path}/my 100%% config.toml"' in unit.read_text()


def test_a_unit_that_stands_there_already_is_not_written_again(written: Callable[..., Path], tmp_path: Path) -> None:
    unit = written(system=False)
    assert install.write_unit(tmp_path / "config.toml", tmp_path / "state", system=False, user=None) == (unit, False)


def test_without_a_token_file_there_is_no_credential(written: Callable[..., Path]) -> None:
    unit = written(system=False, text='[agents.mel]\ncommand = ["true"]\n')
    assert "LoadCredential" not in unit.read_text()


def test_a_wrong_configuration_is_not_installed(written: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="no agent is named"):
        written(system=False, text="")


def test_a_program_that_is_not_installed_is_not_made_a_service(written: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "bin" / "bus-watcher").unlink()
    with pytest.raises(ConfigError, match="installed package"):
        written(system=False)
