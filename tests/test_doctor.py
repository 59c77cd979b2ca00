"""Doctor: each check is bad where something is wrong, and then says the mend."""

import shutil
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from eventlog import doctor, errors
from eventlog.cli_common import Link
from eventlog.doctor import Finding

pytestmark = pytest.mark.anyio

TIME = "2026-11-22T10:20:30Z"


def link(folder: Path | None = None, url: str | None = None) -> Link:
    return Link(url=url, token_file=None, data_dir=folder, as_json=False)


def only(findings: list[Finding], check: str) -> Finding:
    (found,) = [one for one in findings if one.check == check]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir(mode=0o700)
    for name in ("eventlog.db", "admin.token"):
        (made / name).touch(mode=0o600)
    return made


def test_a_sound_folder_has_no_finding_that_is_bad(folder: Path) -> None:
    findings = list(doctor.local_findings(link(folder)))
    assert [one for one in findings if not one.ok] == []
    assert {one.check for one in findings} == {"version", "lock", "disk", "permissions"}


def test_a_folder_without_a_log_says_how_to_start_one(tmp_path: Path) -> None:
    found = only(list(doctor.local_findings(link(tmp_path))), "lock")
    assert not found.ok
    assert "eventlog serve --data-dir" in found.said


@pytest.mark.parametrize(
    ("name", "mode", "mend"),
    [("admin.token", 0o640, "chmod 600"), ("eventlog.db", 0o666, "chmod go-w"), (".", 0o777, "go-w")],
)
def test_files_that_others_can_reach_are_named(folder: Path, name: str, mode: int, mend: str) -> None:
    (folder / name).chmod(mode)
    found = only(list(doctor.local_findings(link(folder))), "permissions")
    assert not found.ok
    assert mend in found.said


def test_a_full_disk_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder)._replace(free=1024)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert not only(list(doctor.local_findings(link(folder))), "disk").ok


async def bus_findings(link: Link) -> list[Finding]:
    return [finding async for finding in doctor.bus_findings(link)]


async def test_a_bus_that_does_not_answer_is_one_bad_finding() -> None:
    (found,) = await bus_findings(link(url="http://127.0.0.1:9"))
    assert (found.check, found.ok) == ("reach", False)


async def test_no_bus_to_look_for_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("EVENTLOG_URL", raising=False)
    (found,) = await bus_findings(link())
    assert "EVENTLOG_URL" in found.said


class OddBus:
    """Answers as its makers say."""

    url = "http://odd"

    def __init__(self, headers: dict[str, str], agents: Any) -> None:
        self._headers, self._agents = headers, agents

    async def __aenter__(self) -> "OddBus":
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def healthz(self) -> Any:
        from eventlog.client import Answer

        return Answer(200, {}, self._headers)

    async def agents(self) -> Any:
        if isinstance(self._agents, Exception):
            raise self._agents
        return {"agents": self._agents}


async def odd_findings(monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], agents: Any) -> list[Finding]:
    monkeypatch.setattr(Link, "bus", lambda _self: OddBus(headers, agents))
    return await bus_findings(link())


def date(offset_s: float = 0.0) -> dict[str, str]:
    return {"date": formatdate(time.time() + offset_s, usegmt=True)}


@pytest.mark.parametrize(("offset_s", "ok"), [(0, True), (60, False), (-60, False)])
async def test_clocks_that_differ_are_said(offset_s: float, ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(await odd_findings(monkeypatch, date(offset_s), []), "clock").ok is ok


async def test_an_answer_without_a_date_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not only(await odd_findings(monkeypatch, {}, []), "clock").ok


async def test_a_token_that_is_refused_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = only(await odd_findings(monkeypatch, date(), errors.Unauthorized("no")), "token")
    assert not found.ok
    assert "EVENTLOG_TOKEN_FILE" in found.said


def served_by(*watchers: tuple[str, str, bool]) -> dict[str, Any]:
    seen = [{"watcher": name, "node": node, "connected": on, "last_seen": TIME} for name, node, on in watchers]
    return {"name": "mel", "unread": 0, "watchers": seen}


@pytest.mark.parametrize(
    ("agent", "ok", "said"),
    [
        (served_by(("pi", "n1", True)), True, "pi: node n1 connected"),
        (served_by(("pi", "n1", True), ("pi", "n0", False)), True, "node n0 last seen"),
        (served_by(("pi", "n1", False)), False, "is not connected"),
        (served_by(("pi", "n1", True), ("pi", "n2", True)), False, "give each its own name"),
    ],
)
def test_each_watcher_is_told_with_its_nodes(agent: dict[str, Any], ok: bool, said: str) -> None:
    (found,) = doctor.watcher_findings([agent, agent])
    assert found.ok is ok
    assert said in found.said
