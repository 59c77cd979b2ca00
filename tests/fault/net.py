"""Lab: machines of a network that is only ours, made of network namespaces; its links are cut, slowed and healed.

A namespace is held by nothing but an open file of this process and the processes in it; the latter are ended with the
lab, also if this process is killed. So nothing is left behind. No route leads out of it.
"""

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest

#: From sched.h: what of a thread is to be new, or another's.
CLONE_NEWNET = 0x40000000
#: The lab's addresses; nothing outside of it has or hears of them.
SUBNET = "10.77.0"
#: How a link is slow: what it lets through, what comes at once, and what waits for too long and is lost.
SLOW = "tbf rate 256kbit burst 4kb latency 300ms"

_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def why_no_lab() -> str:
    """Why this machine cannot have a lab; "" if it can."""
    if os.getuid() != 0:
        return "not root"
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"{program} (iproute2) is not installed"
    try:
        with contextlib.closing(Namespace()) as trial:
            trial.run(
                "ip link add switch type bridge; ip tuntap add line mode tun;"
                f"ip link add end1 type veth peer name end2; tc qdisc add dev end1 root {SLOW}"
            )
    except (OSError, AssertionError) as error:
        return f"this machine cannot make networks: {error}"
    return ""


class Namespace:
    """A network of its own, with a loopback interface that is up. It ends with this object and its last process."""

    def __init__(self) -> None:
        with ThreadPoolExecutor(1) as apart:
            self._handle = apart.submit(_unshared).result()
        #: Its path, for programs that are told one.
        self.path = f"/proc/{os.getpid()}/fd/{self._handle}"
        self.inode = os.fstat(self._handle).st_ino
        self.run("ip link set lo up")

    def close(self) -> None:
        """Let go of it."""
        os.close(self._handle)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in it meanwhile, with all threads and processes that it starts and sockets that it makes."""
        with open("/proc/thread-self/ns/net") as before:
            _enter(self._handle)
            try:
                yield
            finally:
                _enter(before.fileno())

    def run(self, script: str) -> None:
        """Commands of the shell, in it; fails with the first one that fails."""
        with self.inside():
            done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{script}: {done.stderr}"


class Node:
    """A machine of a lab: a namespace with one link, to the lab's switch. `address` is its own there."""

    def __init__(self, hub: Namespace, number: int) -> None:
        self.number = number
        self.address = f"{SUBNET}.{number}"
        self.net = Namespace()
        self._hub = hub
        hub.run(
            f"ip link add lan address {_mac(number)} netns {self.net.path} type veth peer name h{number};"
            f"ip link set h{number} master switch up"
        )
        self.net.run(f"ip address add {self.address}/24 dev lan; ip link set lan up")

    def knows(self, other: "Node") -> None:
        """Learn the other's hardware address for good, so that a cut link stays as silent as a distant one is."""
        self.net.run(f"ip neighbour replace {other.address} lladdr {_mac(other.number)} dev lan nud permanent")

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """This thread is on this machine meanwhile; see Namespace."""
        return self.net.inside()

    def cut(self) -> None:
        """What is sent either way is lost without a word."""
        self._hub.run(f"ip link set h{self.number} nomaster")

    def heal(self) -> None:
        """The link is whole again, and quick."""
        self._hub.run(f"ip link set h{self.number} master switch; tc qdisc del dev h{self.number} root 2>&- || true")

    def slow(self) -> None:
        """What is sent to it comes slowly, late, and not all of it."""
        self._hub.run(f"tc qdisc replace dev h{self.number} root {SLOW}")

    def unplug(self) -> None:
        """The machine itself sees that there is no link."""
        self._hub.run(f"ip link set h{self.number} down")

    def plug(self) -> None:
        """The link is back."""
        self._hub.run(f"ip link set h{self.number} up")


class Lab:
    """A context manager: a switch, the machine `bus` and as many others as asked for."""

    def __init__(self, count: int) -> None:
        self._hub = Namespace()
        self._hub.run("ip link add switch type bridge forward_delay 0; ip link set switch up")
        self.bus = Node(self._hub, 1)
        self.nodes = [Node(self._hub, 11 + number) for number in range(count)]
        for node in self.nodes:
            node.knows(self.bus)
            self.bus.knows(node)
        networks = [str(node.net.inode) for node in (self.bus, *self.nodes)]
        self._janitor = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("janitor.py")), str(os.getpid()), *networks],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def url(self, port: int) -> str:
        """The address of a bus on the machine `bus`, for the other machines."""
        return f"http://{self.bus.address}:{port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._janitor.communicate(timeout=30)
        for node in [self.bus, *self.nodes]:
            node.net.close()
        self._hub.close()


def with_resolver(folder: Path, address: str) -> list[str]:
    """What a command is started under to ask the resolver at `address` for names, and no other, in its own patience."""
    settings = folder / "resolv.conf"
    settings.write_text(f"nameserver {address}\noptions timeout:1 attempts:2\n")
    script = 'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec "$@"'
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, str(settings)]


def _mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def _unshared() -> int:
    """In a thread that ends at once: an open file of a network that no thread is in any more."""
    if _libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _enter(handle: int) -> None:
    if _libc.setns(handle, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


#: On tests that need a lab.
needs_lab = pytest.mark.skipif(bool(why_no_lab()), reason=why_no_lab())
