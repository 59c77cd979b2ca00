"""The bus's disk fails anywhere in a commit, turns read-only, or is damaged: nothing acknowledged is lost."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventlog.maintenance import verify
from tests.e2e.foreign import Answer, Foreign
from tests.fault.power import Impossible, formatted, mend, mounted, read_only, turn_read_only
from tests.fault.trace import counted, failing, needs_strace
from tests.support import BusProcess, Called, run_eventlog

pytestmark = pytest.mark.fault

EXIT_TEMPORARY = 69
EXIT_COMMIT_FAILED = 74
EXIT_CONFIG = 78


def send(bus: BusProcess, key: str) -> Answer:
    """One message; the same key is the same message."""
    admin = Foreign(bus.url, bus.admin_token)
    return admin.call("POST", "/api/send", {"to_agent": "mel", "payload": key}, {"Idempotency-Key": key})


def messages(bus: BusProcess) -> dict[str, list[int]]:
    """The ids in the log, by key."""
    found: dict[str, list[int]] = {}
    for event in Foreign(bus.url, bus.admin_token).events("&event=message"):
        found.setdefault(event["key"], []).append(event["id"])
    return found


class Survivor:
    """A bus that is started again after each of its deaths; `told` is what it has acknowledged."""

    def __init__(self, bus: BusProcess) -> None:
        self.bus = bus
        self.told: dict[str, int] = {}
        self.again = ""
        self._number = 0

    def accept(self) -> None:
        """A message that goes well."""
        key = self._key()
        answer = send(self.bus, key)
        assert answer.status == 201, answer
        self.told[key] = answer.body["id"]

    def fail(self) -> None:
        """A message whose commit fails: 503, the process ends, and after a new start the same key is one message."""
        key = self._key()
        answer = send(self.bus, key)
        assert (answer.status, answer.code) == (503, "unavailable"), answer
        assert answer.headers["Retry-After"]
        assert self.bus.wait() == EXIT_COMMIT_FAILED
        self.again = key

    def revive(self) -> None:
        """Start it again: all that was acknowledged is there, and what was not is there once after it was repeated."""
        self.bus.start()
        left = messages(self.bus)
        assert {key: ids for key, ids in left.items() if key in self.told} == {k: [i] for k, i in self.told.items()}
        answer = send(self.bus, self.again)
        assert answer.status == (200 if self.again in left else 201), answer
        self.told[self.again] = answer.body["id"]
        assert messages(self.bus) == {key: [id_] for key, id_ in self.told.items()}

    def _key(self) -> str:
        self._number += 1
        return f"key-{self._number}"


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survivor]:
    with BusProcess(tmp_path_factory.mktemp("commit") / "bus") as bus:
        yield Survivor(bus)
        assert bus.stop() == 0
        report = verify(bus.data_dir)
        assert report.ok, report


@pytest.fixture(scope="module")
def writes(survivor: Survivor, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many writes a commit has."""
    record = tmp_path_factory.mktemp("trace") / "writes"
    survivor.accept()
    wal = survivor.bus.data_dir / "eventlog.db-wal"
    with counted(survivor.bus.process.pid, "pwrite64,fdatasync", record, wal):
        survivor.accept()
    calls = [line.split()[1].partition("(")[0] for line in record.read_text().splitlines()]
    assert calls == ["pwrite64"] * (len(calls) - 1) + ["fdatasync"]
    assert len(calls) > 3
    return len(calls) - 1


@needs_strace
class TestCommit:
    """The write-ahead log cannot be written, or not be flushed, at any of the system calls of a commit."""

    @pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
    @pytest.mark.parametrize("place", ["first", "middle", "last"])
    def test_a_write_fails(self, survivor: Survivor, writes: int, place: str, error: str) -> None:
        when = {"first": 1, "middle": writes // 2, "last": writes}[place]
        self.check(survivor, "pwrite64", error, str(when))

    @pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
    def test_the_flush_fails(self, survivor: Survivor, error: str) -> None:
        self.check(survivor, "fdatasync", error, "1")

    def check(self, survivor: Survivor, call: str, error: str, when: str) -> None:
        # The first commit of a process also begins the write-ahead log; what fails is one like all others.
        survivor.accept()
        wal = survivor.bus.data_dir / "eventlog.db-wal"
        with failing(survivor.bus.process.pid, call, error, wal, when=when):
            survivor.fail()
        survivor.revive()


class TestReadOnly:
    """A disk that cannot be written is named, with what to do."""

    def test_at_the_start(self, bus: BusProcess, tmp_path: Path) -> None:
        assert bus.stop() == 0
        try:
            with read_only(bus.data_dir, tmp_path / "shown") as shown:
                self.check_named(serve(bus, shown), shown)
        except Impossible as why:
            pytest.skip(f"this machine cannot mount a folder: {why}")

    def test_while_it_serves(self, tmp_path: Path) -> None:
        image = formatted(tmp_path / "disk.img", 64)
        place = tmp_path / "disk"
        try:
            with mounted(image, place), BusProcess(tmp_path / "bus", data_dir=place / "data") as bus:
                survivor = Survivor(bus)
                survivor.accept()
                turn_read_only(place)
                survivor.fail()
                assert f"{bus.data_dir}/eventlog.db" in bus.log_text
                self.check_named(serve(bus, bus.data_dir), bus.data_dir)
            with mounted(mend(image), place), bus:
                bus.stop()
                survivor.revive()
        except Impossible as why:
            pytest.skip(f"this machine cannot mount an image: {why}")

    def check_named(self, ended: Called, folder: Path) -> None:
        assert ended.code == EXIT_CONFIG, ended
        assert ended.err.count("\n") == 1, ended
        assert str(folder) in ended.err, ended
        assert "Read-only" in ended.err, ended
        assert "--data-dir" in ended.err, ended


def serve(bus: BusProcess, data_dir: Path) -> Called:
    """A bus that is not expected to come up."""
    return run_eventlog("serve", "--data-dir", data_dir, "--port", "0", home=bus.home)


#: What becomes of the database's bytes.
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "no database": lambda data, chance: chance.randbytes(len(data)),
    "one page left": lambda data, _: data[:5000],
    "half of it": lambda data, _: data[: len(data) // 2 // 4096 * 4096],
    "schema overwritten": lambda data, chance: data[:100] + chance.randbytes(3996) + data[4096:],
    "tables overwritten": lambda data, chance: data[:4096] + chance.randbytes(len(data) - 4096),
}


@pytest.fixture(scope="module")
def old_bus(tmp_path_factory: pytest.TempPathFactory) -> BusProcess:
    """A bus that has stopped; its log has some messages."""
    with BusProcess(tmp_path_factory.mktemp("old") / "bus") as bus:
        for number in range(20):
            assert send(bus, f"key-{number}").status == 201
        assert bus.stop() == 0
    return bus


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_named_at_the_start(old_bus: BusProcess, tmp_path: Path, damage: str) -> None:
    data = (old_bus.data_dir / "eventlog.db").read_bytes()
    (tmp_path / "eventlog.db").write_bytes(DAMAGES[damage](data, random.Random(7)))
    ended = serve(old_bus, tmp_path)
    assert ended.code == EXIT_CONFIG, ended
    assert ended.err.count("\n") == 1, ended
    assert str(tmp_path / "eventlog.db") in ended.err, ended
    assert "restore a backup" in ended.err, ended
