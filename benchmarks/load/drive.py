"""Runs the load generators in processes of their own, and reads what they say."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.load import follow, send
from benchmarks.program import clean_environment

ROOT = Path(__file__).resolve().parent.parent.parent
#: How long a load generator may take beyond its plan, seconds.
MARGIN_S = 90.0


class LoadFailed(RuntimeError):
    """A load generator, or what it was to measure, failed."""


class Sending:
    """A load of requests that is under way."""

    def __init__(self, plan: send.Plan) -> None:
        self._plan = plan
        self._process = _start("send")
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(plan)).encode())
        self._process.stdin.close()
        self._process.stdin = None

    def wait_counting(self) -> None:
        """Wait until the warm-up is over. Raises LoadFailed if it failed."""
        _line(self._process)

    def result(self) -> dict[str, Any]:
        """Wait for its end. Raises LoadFailed if it failed, or if anything was answered badly."""
        out, err = self._process.communicate(timeout=self._plan.seconds + self._plan.warm_s + MARGIN_S)
        if self._process.returncode:
            raise LoadFailed((err.decode(errors="replace").strip().splitlines() or ["it ended"])[-1])
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        if result["bad"]:
            raise LoadFailed(f"{result['bad']} bad answers, such as {result['complaint']!r}")
        return result


def send_all(plan: send.Plan) -> dict[str, Any]:
    """Send as planned and wait for the result. Raises LoadFailed."""
    return Sending(plan).result()


class Following:
    """Followers that stand."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def begin(self) -> None:
        """Count from now on."""
        self._ask("begin")

    def count(self) -> dict[str, Any]:
        """What was counted since."""
        counted: dict[str, Any] = json.loads(self._ask("count"))
        return counted

    def _ask(self, word: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word.encode() + b"\n")
        self._process.stdin.flush()
        return _line(self._process)


@contextmanager
def following(plan: follow.Plan) -> Iterator[Following]:
    """Followers as planned, from when all of them stand to the end of the block. Raises LoadFailed."""
    process = _start("follow")
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(asdict(plan)).encode() + b"\n")
        process.stdin.flush()
        _line(process)
        yield Following(process)
    finally:
        process.kill()
        process.communicate()


def _line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    if not line:
        _, err = process.communicate()
        raise LoadFailed((err.decode(errors="replace").strip().splitlines() or ["it ended"])[-1])
    return line


def _start(kind: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.load.{kind}"],
        cwd=ROOT,
        env=clean_environment({"PYTHONPATH": str(ROOT)}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
