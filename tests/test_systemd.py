"""What both programs tell systemd, and how their units are filled in and written."""

import os
import socket
from pathlib import Path

import pytest

from eventlog import systemd
from eventlog.errors import ConfigError


@pytest.mark.parametrize("abstract", [False, True])
def test_a_state_reaches_systemds_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"eventlog-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        systemd.notify("READY=1")
        assert listener.recv(100) == b"READY=1"


def test_without_systemd_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.notify("READY=1")


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_for_the_process_that_it_names(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], said: float | None
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert systemd.watchdog_s() == said


@pytest.mark.parametrize(
    ("path", "word"),
    [("/a/b", "/a/b"), ("/a b", '"/a b"'), ("/100%", "/100%%"), ('/a"b', '"/a\\"b"'), ("/a\\b", '"/a\\\\b"')],
)
def test_a_path_is_one_word_of_a_command_line(path: str, word: str) -> None:
    assert systemd.render("ExecStart=$program x\n", words={"program": path}, values={}) == f"ExecStart={word} x\n"


def test_a_value_is_taken_as_it_is_but_for_specifiers() -> None:
    assert systemd.render("A=$a", words={}, values={"a": "token:/my 100%"}) == "A=token:/my 100%%"


@pytest.mark.parametrize("path", ["/a\nUser=root", "/a\x00", "/$HOME"])
def test_what_a_unit_cannot_carry_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot carry"):
        systemd.render("A=$a", words={"a": path}, values={})


def test_a_unit_is_written_whole_and_only_when_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "units" / "a.service"
    assert systemd.write_unit(path, "one")
    assert not systemd.write_unit(path, "one")
    assert systemd.write_unit(path, "two")
    assert [entry.read_text() for entry in path.parent.iterdir()] == ["two"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write the unit"):
        systemd.write_unit(tmp_path / "file" / "a.service", "one")
