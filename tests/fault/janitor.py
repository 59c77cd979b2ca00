"""Janitor: ends whatever still runs in a lab's networks once the process that made them is gone, however it went.

Usage: janitor.py OWNER NETWORK..., where a network is the inode number of its namespace. It waits until its standard
input ends, which is when the owner does, or lets go of it.
"""

import contextlib
import os
import signal
import sys
import time

#: How long a process may start others before it is found.
GIVE_UP_S = 10.0


def main(owner: int, networks: set[str]) -> None:
    """Wait, then kill until nobody is left there."""
    while os.read(0, 4096):
        pass
    give_up = time.monotonic() + GIVE_UP_S
    while time.monotonic() < give_up:
        left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if inside(pid, networks)]
        if not set(left) - {owner}:
            return
        for pid in set(left) - {owner}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def inside(pid: int, networks: set[str]) -> bool:
    """Whether a process that has not ended is in one of these networks."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net") in networks
    except OSError:
        return False


if __name__ == "__main__":
    main(int(sys.argv[1]), {f"net:[{inode}]" for inode in sys.argv[2:]})
