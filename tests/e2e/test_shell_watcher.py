"""The watcher in twenty lines of shell, judged as the real one is: under load, beside it, and by what it tells."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.forgetful import Forgetful
from tests.scene import CommandLines, Scene, Watch
from tests.support import ROOT, WAKE_AGENT, clean_environment, until

pytestmark = pytest.mark.e2e


@contextmanager
def in_shell(scene: Scene, home: Path, *options: str, url: str = "") -> Iterator[None]:
    """The shell's watcher of mel, and all that it started, until the block ends."""
    for program in ("bash", "curl", "jq"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    home.mkdir()
    token = scene.admin.create_token(home.name, "watcher", "mel").token
    env = {"EVENTLOG_URL": url or scene.bus.url, "EVENTLOG_TOKEN": token, "TMPDIR": str(home)}
    with (home / "log").open("w") as log, subprocess.Popen(
        ["bash", str(ROOT / "examples" / "watcher.sh"), "mel", *WAKE_AGENT, str(scene.folder), *options],
        env=clean_environment(home, env),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_under_load_with_the_bus_killed_now_and_then(scene: Scene, tmp_path: Path) -> None:
    sent: list[int] = []
    with in_shell(scene, tmp_path / "shell", "--work", "0.1"):
        for _ in range(3):
            sent += [scene.boss.send("mel", number) for number in range(5)]
            scene.bus.kill()
            scene.bus.start()
        sent.append(scene.boss.send("mel", "last"))
        events = scene.judge(accepted=sent, deadline_s=60)
    assert {event["outcome"] for event in events if event["event"] == "wake.finished"} == {"ok"}


def test_asks_and_reports_are_lost_and_so_are_answers(scene: Scene, tmp_path: Path) -> None:
    calls = [b"POST /api/wakes ", b"PATCH /api/wakes/"]
    relay = Forgetful(scene.bus.port, unheard=calls, unanswered=calls)
    with relay, in_shell(scene, tmp_path / "shell", url=relay.url):
        scene.boss.send("mel")
        until(lambda: len(relay.lost) == 4)
        scene.boss.send("mel")
        events = scene.judge()
    assert [event["attempt"] for event in events if event["event"] == "wake.started"] == [1, 1]


def test_beside_the_real_watcher_of_the_same_agent(scene: Scene, watch: Watch, tmp_path: Path) -> None:
    with in_shell(scene, tmp_path / "shell"):
        watch(scene.agent()).start()
        sent = [scene.boss.send("mel", number) for number in range(10)]
        for number in range(10):
            sent.append(scene.boss.send("mel", number))
            scene.at_rest()
        scene.judge(accepted=sent)


def test_its_token_is_in_no_command_line_and_no_output(scene: Scene, tmp_path: Path) -> None:
    with CommandLines() as lines, in_shell(scene, tmp_path / "shell"):
        for number in range(5):
            scene.boss.send("mel", number)
            scene.judge()
    # Other tests run beside this one: a command of this one's names its bus.
    port = b":%d/" % scene.bus.port
    said = b"\n".join(line for line in lines.seen if port in line) + (tmp_path / "shell" / "log").read_bytes()
    assert b"curl" in said
    assert b"Bearer" not in said
    assert b"ewk_" not in said
