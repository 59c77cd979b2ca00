"""Processes of a wake's command: how they are recognised, never by a number alone, and how what is left is ended."""

from __future__ import annotations

import os
import signal
import time

# As in the shim: what only the type checker needs is not loaded.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

#: From SIGTERM to SIGKILL; the bus's lease counts on it.
TERM_GRACE_S: Final = 10.0
#: How often a group is looked at while its last processes end.
ENDING_TICK_S: Final = 0.05


def boottime() -> float:
    """Seconds since boot, time spent suspended included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Marks:
    """How the processes of one wake's command are recognised: by their group, and by what their environment holds."""

    def __init__(self, group: int, began: int, wake_id: int, token_file: str) -> None:
        self.group = group
        self.began = began
        self.wake_id = f"WAKE_ID={wake_id}".encode()
        self.token_file = f"EVENTLOG_TOKEN_FILE={token_file}".encode()

    def leader_lives(self) -> bool:
        """Whether the group's number is still that of the process that was started."""
        return began_at(self.group) == self.began

    def group_lives(self) -> bool:
        """Whether a process of the group runs; to be asked only while its leader is not reaped."""
        return any(group == self.group for _, group in processes())

    def found(self) -> Iterator[int]:
        """The running processes that carry this wake's environment, in its group or started with its token."""
        for pid, group in processes():
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    environ = file.read().split(b"\0")
            except OSError:
                continue
            if self.wake_id in environ and (group == self.group or self.token_file in environ):
                yield pid


def end_left(marks: Marks) -> None:
    """Kill what is left of a wake's command and wait until it is gone, for as long as the lease allows for it."""
    give_up = boottime() + TERM_GRACE_S
    while boottime() < give_up:
        left = marks.leader_lives()
        if left:
            os.killpg(marks.group, signal.SIGKILL)
        for pid in marks.found():
            left = True
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not left:
            return
        time.sleep(ENDING_TICK_S)


def processes() -> Iterator[tuple[int, int]]:
    """All running processes of the machine, but this one, with their groups; ended ones are left out."""
    for name in os.listdir("/proc"):
        fields = stat_fields(name) if name.isdigit() and int(name) != os.getpid() else []
        if fields and fields[0] not in ("Z", "X"):
            yield int(name), int(fields[2])


def began_at(pid: int) -> int:
    """When a running process began, in clock ticks since boot; 0 if there is none."""
    fields = stat_fields(str(pid))
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else 0


def stat_fields(pid: str) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may itself hold spaces and brackets; [] if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []
