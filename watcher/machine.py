"""Machine: what tells this machine, in this boot, from another one that has a copy of its disk."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from watcher.shim import boot_id


class Machine(NamedTuple):
    """One machine in one boot, by its machine id and the hardware addresses of its network interfaces."""

    boot_id: str
    machine_id: str
    hardware: tuple[str, ...]


def is_foreign(made_at: Machine, here: Machine) -> bool:
    """Whether a folder was made on another machine. One of this boot never is."""
    if made_at.boot_id == here.boot_id:
        return False
    if made_at.machine_id != here.machine_id:
        return True
    return made_at.hardware != here.hardware and not set(made_at.hardware) & set(here.hardware)


def this_machine() -> Machine:
    """This machine in this boot, by its machine id and the hardware addresses of its network interfaces."""
    try:
        machine_id = Path("/etc/machine-id").read_text("ascii").strip()
    except (OSError, ValueError):
        machine_id = ""
    # Addresses of bridges and tunnels are often the same on all machines: real interfaces are preferred.
    interfaces = list(_interfaces(Path("/sys/class/net")))
    real = [address for address, is_real in interfaces if is_real]
    return Machine(boot_id(), machine_id, tuple(sorted(set(real or [address for address, _ in interfaces]))))


def _interfaces(root: Path) -> Iterator[tuple[str, bool]]:
    """Each interface's hardware address, and whether it is a device rather than a bridge, a tunnel or the like."""
    with contextlib.suppress(OSError):
        for path in sorted(root.iterdir()):
            with contextlib.suppress(OSError, ValueError):
                address = (path / "address").read_text("ascii").strip()
                if address.strip("0:"):
                    yield address, (path / "device").exists()
