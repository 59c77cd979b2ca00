"""The fleet's Flask bus, re-created after its description and run as its users run it: gunicorn, one gevent worker."""

from pathlib import Path
from typing import ClassVar

from benchmarks.contenders.base import MESSAGE, Contender
from benchmarks.load import follow, send
from benchmarks.peers import version_of
from benchmarks.program import Program

PROGRAMS = Path(__file__).resolve().parent / "fleet_programs"


class Fleet(Contender):
    """One worker: a second one would open its own connections, but its users run one."""

    name: ClassVar[str] = "fleet (re-created)"
    durability: ClassVar[str] = "SQLite WAL, synchronous=FULL, one commit each"

    def prepare(self) -> None:
        """Flask, gunicorn and gevent."""
        self.cache.venv("gunicorn")

    def version(self) -> str:
        """gunicorn's and Flask's."""
        code = "from importlib.metadata import version as v; print('Flask', v('flask'), 'gevent', v('gevent'))"
        return (
            version_of([self.cache.venv("gunicorn"), "--version"])
            + ", "
            + version_of([self.cache.venv("python"), "-c", code])
        )

    def launch(self, folder: Path) -> Program:
        """The server."""
        folder.mkdir(parents=True)
        options = ["-k", "gevent", "-w", "1", "-b", f"127.0.0.1:{self.port}", "--worker-connections", "4000"]
        return Program(
            [self.cache.venv("gunicorn"), *options, "--chdir", PROGRAMS, "app:app"],
            log=folder / "gunicorn.log",
            env={"FLEET_DB": str(folder / "bus.db")},
        )

    def sending(self, connections: int, seconds: float, *, batch: int = 1, rate: float = 0.0) -> send.Plan | None:
        """POST /api/send."""
        if batch > 1:
            return None
        return self.http_sending(self.http("POST", "/api/send", MESSAGE), connections, seconds, rate)

    def following(self, followers: int) -> follow.Plan:
        """GET /api/stream."""
        request = self.http("GET", "/api/stream")
        return follow.Plan("127.0.0.1", self.port, request, followers=followers, ready=": hello\n\n")
