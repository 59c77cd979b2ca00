"""Host: a machine to be thrown away, with a real systemd as the first process of namespaces of its own.

It refuses wherever that cannot be kept apart from the machine that the tests run on.
"""

import contextlib
import ctypes
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from tests.support import ROOT, Called, until

#: Where the tests' code and its Python are.
NEEDED = (ROOT, Path(sys.prefix), Path(sys.base_prefix))
PROGRAMS = ("unshare", "nsenter", "setpriv", "mount", "systemctl", "loginctl", "dbus-daemon", "useradd")
USER = "tester"
#: From sched.h: which of a process's namespaces is its network.
CLONE_NEWNET = 0x40000000
#: The group of each host is named so, with the id of the process that made it.
GROUP = "eventlog-test-"


class CannotContain(Exception):
    """This machine cannot hold a systemd apart; the tests that need one are skipped for this reason."""


class Host:
    """A context manager. `root` is where its files are, seen from outside. Raises CannotContain."""

    def __init__(self) -> None:
        if os.getuid() != 0:
            raise CannotContain("not root")
        if not Path("/usr/lib/systemd/systemd").exists():
            raise CannotContain("systemd is not installed")
        for program in PROGRAMS:
            if shutil.which(program) is None:
                raise CannotContain(f"{program} is not installed")
        self.folder = Path(tempfile.mkdtemp(prefix=GROUP))
        self.init = 0
        self._group: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._boot()
            self._make_user()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Everything inside ends with its first process; then the control groups are empty."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        group = self._group
        if group is not None:
            until(lambda: _removed(group))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _boot(self) -> None:
        tree = _control_groups()
        for left in tree.glob(f"{GROUP}*"):
            if not Path(f"/proc/{left.name.removeprefix(GROUP)}").exists():
                _removed(left)
        self._group = tree / f"{GROUP}{os.getpid()}"
        try:
            self._group.mkdir()
        except OSError as error:
            raise CannotContain(f"no control group can be made: {error}") from error
        namespaces = ["--pid", "--mount", "--uts", "--ipc", "--net", "--fork", "--kill-child", "--propagation=private"]
        boot = ["bash", str(Path(__file__).with_name("boot.sh")), str(self.folder), str(self._group), *map(str, NEEDED)]
        # It dies with this process, and all inside with it.
        command = ["setpriv", "--pdeathsig=KILL", "unshare", *namespaces, *boot]
        with (self.folder / "boot.log").open("w") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._is_up)
        state = self.run("systemctl is-system-running --wait", check=False).out.strip()
        assert state in ("running", "degraded"), self.run("systemctl --failed; journalctl -n 50", check=False).out

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            refused = self.folder / "refused"
            log = (self.folder / "boot.log").read_text()
            raise CannotContain(refused.read_text().strip() if refused.exists() else f"it did not boot: {log}")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self.init = int(children[0]) if children else 0
        with contextlib.suppress(OSError):
            is_systemd = Path(f"/proc/{self.init}/comm").read_text().strip() == "systemd"
            return self.init > 0 and is_systemd and self.path("/run/systemd/private").is_socket()
        return False

    def _make_user(self) -> None:
        """A person whose user manager runs without a login, and who may go to the tests' code."""
        folders = " ".join({shlex.quote(str(above)) for path in NEEDED for above in path.parents})
        self.run(
            f"chmod o+x {folders}; useradd --create-home --shell /bin/bash {USER} && loginctl enable-linger {USER}"
        )
        self.uid = int(self.run(f"id -u {USER}").out)
        runtime = self.path(f"/run/user/{self.uid}")
        until(lambda: (runtime / "systemd/private").is_socket() and (runtime / "bus").is_socket())

    def path(self, inside: str | Path) -> Path:
        """Where a file of the host is, seen from outside."""
        return Path(f"/proc/{self.init}/root") / str(inside).lstrip("/")

    def run(self, script: str, *, user: bool = False, check: bool = True) -> Called:
        """A script of the shell, run inside as root or as the person; fails if it does, unless told not to check."""
        command = ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        environ = {
            "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": "/root",
        }
        if user:
            runtime = f"/run/user/{self.uid}"
            environ |= {"HOME": f"/home/{USER}", "USER": USER, "LOGNAME": USER, "XDG_RUNTIME_DIR": runtime}
            environ |= {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus"}
            command += ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"]
        command += ["env", "-i", *(f"{name}={value}" for name, value in environ.items()), "bash", "-c", f"cd; {script}"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
        called = Called(done.returncode, done.stdout, done.stderr)
        if check and called.code:
            journal = self.run("journalctl --no-pager -o cat -n 40", check=False).out
            raise AssertionError(f"{script}: {called}\n{journal}")
        return called

    def connect(self, port: int) -> socket.socket:
        """A connection to a port of the host's own network: a socket stays in the network that it was made in."""
        with ThreadPoolExecutor(1) as apart:
            return apart.submit(self._connect, port).result()

    def _connect(self, port: int) -> socket.socket:
        """In a thread of its own, which alone moves to the other network."""
        with open(f"/proc/{self.init}/ns/net") as network:
            if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return socket.create_connection(("127.0.0.1", port), timeout=30)


def _control_groups() -> Path:
    """Where control groups of version 2 are to be seen."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise CannotContain("no control groups of version 2 are mounted")


def _removed(group: Path) -> bool:
    """Remove what is empty of a control group and the groups below it; whether that was all of it."""
    for path, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()
    return not group.exists()
