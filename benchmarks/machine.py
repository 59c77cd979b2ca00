"""The machine that a run was made on: what is printed beside every figure."""

import os
import platform
import sqlite3
import statistics
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def describe(folder: Path) -> dict[str, str]:
    """Processor, memory, kernel, file system and versions; `folder` is where the contenders keep their data."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="minutes"),
        "processor": f"{os.cpu_count()} x {_line('/proc/cpuinfo', 'model name')}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "system": _line("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        "disk": _file_system(folder),
        "fdatasync of 4 KiB": f"{1000 * statistics.median(fdatasync_s(folder, 0.5)):.3f} ms (median)",
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "event loop": _event_loop(),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def fdatasync_s(folder: Path, seconds: float) -> list[float]:
    """How long each of a row of durable 4 KiB writes took, seconds: the floor under a durable append."""
    path = folder / "fdatasync.probe"
    block = os.urandom(4096)
    took: list[float] = []
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            os.pwrite(handle, block, 4096 * (len(took) % 256))
            os.fdatasync(handle)
            took.append(time.perf_counter() - began)
    finally:
        os.close(handle)
        path.unlink()
    return took


def _line(path: str, name: str, mark: str = ":") -> str:
    try:
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return line.partition(mark)[2].strip()
    except OSError:
        pass
    return "unknown"


def _file_system(folder: Path) -> str:
    """The type of the file system that `folder` is on."""
    where = folder.resolve()
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, found = line.split()[:3]
        if where.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, found
    return kind


def _event_loop() -> str:
    try:
        return f"uvloop {version('uvloop')}"
    except PackageNotFoundError:
        return f"asyncio of {sys.implementation.name}"
