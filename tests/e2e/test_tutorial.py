"""The tutorial, typed as it stands into an empty home folder."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, clean_environment

pytestmark = pytest.mark.e2e

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r"^```sh(?P<how>| terminal| file=\S+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
#: What the first block sets up, this environment has.
SETUP = "pip install"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """All blocks as one script: what belongs into a terminal of its own is started aside."""
    lines = ["set -eu"]
    for block in BLOCK.finditer(TUTORIAL):
        how, text = block["how"].strip(), block["text"]
        if how == "terminal":
            lines += [f"{{ {text.strip()}; }} > {len(lines)}.out 2>&1 &", "sleep_until_there " + text.split()[0]]
        elif how:
            lines += [f"cat > {how.removeprefix('file=')} <<'END-OF-FILE'", text + "END-OF-FILE"]
        elif SETUP not in text:
            lines.append(text)
    path = tmp_path / "tutorial.sh"
    path.write_text(WAIT + "\n".join(lines))
    return path


#: A reader waits until the bus has said its address; here, until it answers. The watcher need not be waited for.
WAIT = """
sleep_until_there() {
  if [ "$1" = eventlog ]; then
    for _ in $(seq 300); do
      if [ -e .config/eventlog/config.toml ] && eventlog agents > /dev/null 2>&1; then return; fi; sleep 0.1
    done; exit 9
  fi
}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_tutorial_works_as_it_stands(script: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    port = free_port()
    environ = clean_environment(home, {"EVENTLOG_PORT": str(port)})
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    script.write_text(script.read_text().replace(":8091", f":{port}"))
    process = subprocess.Popen(
        ["bash", str(script)],
        cwd=home,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        process.wait(90)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started aside, too
        said, _ = process.communicate()
    told = said + "".join(f"\n== {path.name}\n{path.read_text()}" for path in home.glob("*.out"))
    assert process.returncode == 0, told
    assert "accepted: id 2, thread 2" in said, told
    assert re.search(r"mel -> you.*9 words: please \.\.\. truth", said), told
    assert "replied" in said, told
