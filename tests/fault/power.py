"""A disk whose power can be cut: an ext4 file system on a loop device, and copies of what it held at one moment.

The disk's image lies on a file system of its own. While that one is frozen, every write to the image waits; so a copy
of the image holds all that was written up to one moment and nothing of what came after it. What programs wrote and did
not flush is in the kernel's memory alone, and not in the copy, unless the kernel wrote it back by itself: that is what
a disk holds when the power goes.
"""

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Self

#: The disk's size; logs and state folders of some seconds of load fit in twice over.
DISK_MIB: Final = 64
#: What the file system around the image needs for itself.
AROUND_MIB: Final = 8
#: ioctls of every Linux file system: FIFREEZE, FITHAW.
FREEZE: Final = 0xC0045877
THAW: Final = 0xC0045878
#: How often a disk that is still in use is tried to be taken away, a twentieth of a second apart.
UMOUNT_TRIES: Final = 60
_CHUNK: Final = 1 << 20


class Impossible(Exception):
    """This machine lets nobody mount an image: no root, or no loop devices."""


class Disk:
    """A context manager; `path` is where the disk is mounted. `place` is an empty folder for all that it needs."""

    def __init__(self, place: Path) -> None:
        self.path = place / "disk"
        self._place = place
        self._around = place / "around"
        self._ram = place / "ram"
        self._cuts = 0
        self._mounts = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.enter_context(memory_disk(self._ram, "4g"))
            outer = formatted(self._ram / "around.img", DISK_MIB + AROUND_MIB, "-O", "^has_journal", "-m", "0")
            undo.enter_context(mounted(outer, self._around))
            inner = formatted(self._around / "disk.img", DISK_MIB, "-J", "size=4")
            undo.enter_context(mounted(inner, self.path))
            self._mounts = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._mounts.close()

    def restore(self, image: Path) -> None:
        """Put an image in the disk's place, at the same path, as the next boot finds it. Nobody uses the disk."""
        _call("umount", "--lazy", str(self.path))
        fresh = self._around / "disk.new"
        _copy_sparse(image, fresh)
        image.unlink()
        # What the kernel still has open of the old one is a file without a name from here on.
        fresh.rename(self._around / "disk.img")
        mounted(self._around / "disk.img", self.path).__enter__()

    def cut(self) -> Path:
        """The image of the disk as it would be found if the power went now; the disk itself goes on."""
        with self._frozen():
            return self._copy()

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        around = os.open(self._around, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(around, FREEZE, 0)
            try:
                yield
            finally:
                fcntl.ioctl(around, THAW, 0)
        finally:
            os.close(around)

    def _copy(self) -> Path:
        self._cuts += 1
        copy = self._ram / f"cut-{self._cuts}.img"
        _copy_sparse(self._around / "disk.img", copy)
        return copy


def cut_together(*disks: Disk) -> list[Path]:
    """The images of several disks, cut one right after the other in this order."""
    with ExitStack() as frozen:
        for disk in disks:
            frozen.enter_context(disk._frozen())
        return [disk._copy() for disk in disks]


def mounted(image: Path, at: Path) -> "_Mount":
    """A file system's image, mounted at a folder while the block lasts; its journal is replayed. Raises Impossible."""
    return _mounted("-o", "loop,noatime,errors=remount-ro", str(image), at=at)


class _Mount:
    """A mount as a context manager, which gives the folder. Raises Impossible."""

    def __init__(self, options: tuple[str, ...], at: Path) -> None:
        self._options = options
        self._at = at

    def __enter__(self) -> Path:
        self._at.mkdir(parents=True, exist_ok=True)
        _call("mount", *self._options, str(self._at))
        return self._at

    def __exit__(self, *exc: object) -> None:
        # A process that was killed may be on its way out; one that is held up for longer must not hold up the test.
        for left in reversed(range(UMOUNT_TRIES)):
            try:
                _call("umount", *([] if left else ["--lazy"]), str(self._at))
                break
            except Impossible:
                time.sleep(0.05)


def _mounted(*options: str, at: Path) -> _Mount:
    return _Mount(options, at)


def memory_disk(at: Path, size: str) -> "_Mount":
    """A file system in memory that holds no more than `size` (as mount takes it). Raises Impossible."""
    return _mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs", at=at)


def fill(path: Path) -> None:
    """Write a file until no byte is left on its disk."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def formatted(image: Path, size_mib: int, *options: str) -> Path:
    """Make an image with an empty ext4 file system. Raises Impossible."""
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    ready = "lazy_itable_init=0,lazy_journal_init=0"
    _call("mkfs.ext4", "-q", "-F", "-E", ready, *options, str(image))
    return image


def _copy_sparse(source: Path, target: Path) -> None:
    """Copy a file without the parts of it that were never written."""
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
        size = os.fstat(read.fileno()).st_size
        write.truncate(size)
        for start, end in _written(read.fileno(), size):
            os.lseek(read.fileno(), start, os.SEEK_SET)
            os.lseek(write.fileno(), start, os.SEEK_SET)
            while start < end:
                start += write.write(read.read(min(_CHUNK, end - start)))


def _written(file: int, size: int) -> Iterator[tuple[int, int]]:
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # nothing but a hole up to the end
            return
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


def _call(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError as error:
        raise Impossible(str(error)) from error
    if done.returncode:
        raise Impossible(f"{' '.join(command)}: {done.stderr.strip()}")


def turn_read_only(place: Path) -> None:
    """Let a mounted image become what an ext4 file system becomes when it meets an error."""
    device = os.stat(place).st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("test")


def mend(image: Path) -> Path:
    """What whoever runs the machine does then; a new image, because the kernel may not have forgotten the old one."""
    copy = image.with_suffix(".mended")
    _copy_sparse(image, copy)
    subprocess.run(["e2fsck", "-p", str(copy)], check=False, capture_output=True, timeout=60)
    return copy


@contextmanager
def read_only(folder: Path, at: Path) -> Iterator[Path]:
    """A folder, seen at another place where nothing can be written. Raises Impossible."""
    with _mounted("--bind", str(folder), at=at):
        _call("mount", "-o", "remount,bind,ro", str(at))
        yield at
