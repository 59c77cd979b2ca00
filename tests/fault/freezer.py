"""Holds back all writes to a file system, while it is told to and for no longer than whoever told it lives.

Usage: freezer.py FOLDER. Each line of its input freezes or thaws the file system, in turn, and is answered by a line;
at the end of its input it thaws. A test that is killed would otherwise leave processes behind that nothing can end.
"""

import fcntl
import os
import signal
import sys
from typing import Final

#: ioctls of every Linux file system: FIFREEZE, FITHAW.
FREEZE: Final = 0xC0045877
THAW: Final = 0xC0045878


def main(folder: str) -> None:
    """Freeze and thaw until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    frozen = False
    try:
        while os.read(0, 1):
            fcntl.ioctl(place, THAW if frozen else FREEZE, 0)
            frozen = not frozen
            os.write(1, b"\n")
    finally:
        if frozen:
            fcntl.ioctl(place, THAW, 0)


if __name__ == "__main__":
    main(sys.argv[1])
