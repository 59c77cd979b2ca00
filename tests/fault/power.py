"""A disk whose power can be cut: an ext4 file system on a loop device, and copies of what it held at one moment.

The disk's image lies on a file system of its own. While that one is frozen, every write to the image waits; so a copy
of the image holds all that was written up to one moment and nothing of what came after it. What programs wrote and did
not flush is in the kernel's memory alone, and not in the copy, unless the kernel wrote it back by itself: that is what
a disk holds when the power goes.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Final, Self

from tests.fault import freezer

#: The disk's size; logs and state folders of some seconds of load fit in twice over.
DISK_MIB: Final = 64
#: What the file system around the image needs for itself.
AROUND_MIB: Final = 8
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
        self._inner = ExitStack()
        self._freezer: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.enter_context(memory_disk(self._ram, "4g"))
            outer = formatted(self._ram / "around.img", DISK_MIB + AROUND_MIB, "-O", "^has_journal", "-m", "0")
            undo.enter_context(mounted(outer, self._around))
            program = [sys.executable, "-I", "-S", freezer.__file__, str(self._around)]
            self._freezer = undo.enter_context(
                # In a group of its own, so that it is not interrupted with the test.
                subprocess.Popen(program, stdin=PIPE, stdout=PIPE, bufsize=0, start_new_session=True)
            )
            inner = formatted(self._around / "disk.img", DISK_MIB, "-J", "size=4")
            self._inner = undo.enter_context(ExitStack())
            self._inner.enter_context(mounted(inner, self.path))
            self._mounts = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._mounts.close()

    def restore(self, image: Path) -> None:
        """Put an image in the disk's place, at the same path, as the next boot finds it. Nobody uses the disk."""
        self._inner.close()
        fresh = self._around / "disk.new"
        _copy_sparse(image, fresh)
        image.unlink()
        # What the kernel still has open of the old one is a file without a name from here on.
        fresh.rename(self._around / "disk.img")
        self._inner.enter_context(mounted(self._around / "disk.img", self.path))

    def cut(self) -> Path:
        """The image of the disk as it would be found if the power went now; the disk itself goes on."""
        with self.frozen():
            return self.copy()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every write to the disk waits while the block lasts."""
        self._turn()
        try:
            yield
        finally:
            self._turn()

    def _turn(self) -> None:
        assert self._freezer is not None, "the disk is not mounted"
        stdin, stdout = self._freezer.stdin, self._freezer.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(b"\n")
        assert stdout.read(1) == b"\n", "the file system can be neither frozen nor thawed"

    def copy(self) -> Path:
        """The image as it is now; only a frozen disk's is one of a moment."""
        self._cuts += 1
        copy = self._ram / f"cut-{self._cuts}.img"
        _copy_sparse(self._around / "disk.img", copy)
        return copy


def cut_together(*disks: Disk) -> list[Path]:
    """The images of several disks, cut one right after the other in this order."""
    with ExitStack() as frozen:
        for disk in disks:
            frozen.enter_context(disk.frozen())
        return [disk.copy() for disk in disks]


def mounted(image: Path, at: Path) -> "_Mount":
    """A file system's image, mounted at a folder while the block lasts; its journal is replayed. Raises Impossible."""
    return _mounted("-o", "loop,noatime,errors=remount-ro", str(image), at=at)


class _Mount:
    """A mount as a context manager, which gives the folder. Raises Impossible.

    The folder is a link to where it really is: what a run that was killed leaves mounted is in no later one's way.
    """

    def __init__(self, options: tuple[str, ...], at: Path) -> None:
        self._options = options
        self._at = at
        self._real = Path()

    def __enter__(self) -> Path:
        self._real = Path(tempfile.mkdtemp(prefix="eventlog-disk-"))
        _call("mount", *self._options, str(self._real))
        self._at.parent.mkdir(parents=True, exist_ok=True)
        self._at.symlink_to(self._real)
        return self._at

    def __exit__(self, *exc: object) -> None:
        self._at.unlink()
        # A process that was killed may be on its way out; one that is held up for longer must not hold up the test.
        for left in reversed(range(UMOUNT_TRIES)):
            try:
                _call("umount", *([] if left else ["--lazy"]), str(self._real))
                break
            except Impossible:
                time.sleep(0.05)
        self._real.rmdir()


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
