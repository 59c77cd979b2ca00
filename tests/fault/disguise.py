"""Programs that are run as if on another machine, or after another start of this one: in mounts of their own, other
files stand where a program looks for that.
"""

from pathlib import Path

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MACHINE_ID = "/etc/machine-id"
_INTERFACES = "/sys/class/net"
# Pairs of paths, then --, then the command.
_SCRIPT = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit 125; shift 2; done; shift; exec "$@"'


def another_boot(folder: Path, boot_id: str) -> list[str]:
    """What a program is started under to see another boot of this machine. `folder` keeps what it is shown."""
    return _shown({_file(folder / "boot-id", boot_id): _BOOT_ID})


def another_machine(
    folder: Path, *, boot_id: str, machine_id: str | None = None, hardware: str | None = None
) -> list[str]:
    """The same for another machine: of another machine id, or of another hardware address, or both."""
    shown = {_file(folder / "boot-id", boot_id): _BOOT_ID}
    if machine_id is not None:
        shown[_file(folder / "machine-id", machine_id)] = _MACHINE_ID
    if hardware is not None:
        card = folder / "net" / "eth0"
        (card / "device").mkdir(parents=True)
        _file(card / "address", hardware)
        shown[card.parent] = _INTERFACES
    return _shown(shown)


def _file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    return path


def _shown(pairs: dict[Path, str]) -> list[str]:
    flat = [part for shown, at in pairs.items() for part in (str(shown), at)]
    return ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", *flat, "--"]
