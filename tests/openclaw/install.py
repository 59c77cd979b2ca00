"""Installing a real OpenClaw, with the Node.js that it needs, from npm into a cache folder."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

#: What is installed; the first is needed to install the second.
PACKAGES = ("node@24", "openclaw@2026.9.6")
#: Seconds for one of them; they are about 770 MB.
INSTALL_S = 1200


def cache() -> Path:
    """Where it is kept: `OPENCLAW_CACHE`, else a folder in the user's cache."""
    if named := os.environ.get("OPENCLAW_CACHE"):
        return Path(named).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path("~/.cache").expanduser()) / "agent-eventlog" / "openclaw"


def installed() -> Path:
    """The folder of the installation, which is made if there is none. Raises RuntimeError with what is to be done."""
    folder = cache() / "-".join(package.replace("@", "-") for package in PACKAGES)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _install(folder)
    return folder


def programs(folder: Path) -> str:
    """A PATH with the installed programs before all others."""
    return f"{folder}/node_modules/.bin:{os.environ.get('PATH', os.defpath)}"


def _install(folder: Path) -> None:
    if shutil.which("npm") is None:
        raise RuntimeError("npm is not installed; on Debian: apt-get install npm")
    print(f"installing {' and '.join(PACKAGES)} into {folder} (about 770 MB; a few minutes) ...", flush=True)
    scratch = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    (scratch / "package.json").write_text('{"private": true}\n')
    for package in PACKAGES:
        done = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--save-exact", package],
            cwd=scratch,
            env={**os.environ, "PATH": programs(scratch)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"npm could not install {package}:\n{done.stderr[-2000:]}")
    scratch.rename(folder)
