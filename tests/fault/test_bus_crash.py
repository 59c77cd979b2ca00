"""The bus is killed, its disk fails or is full: every id that was acknowledged is there, once, and the log is whole."""

import random
import resource
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.foreign import Foreign
from tests.e2e.senders import Sender
from tests.fault.power import Impossible, fill, memory_disk
from tests.support import SOAK, BusProcess, run_eventlog, until

pytestmark = pytest.mark.fault

KILLS = 50 if SOAK else 10
SENDERS = 4
#: Messages of one request, for the senders that send arrays.
BATCH = 5
EXIT_COMMIT_FAILED = 74
EXIT_TEMPORARY = 69


@pytest.fixture
def admin(bus: BusProcess) -> Foreign:
    return Foreign(bus.url, bus.admin_token)


@contextmanager
def load(admin: Foreign) -> Iterator[list[Sender]]:
    """Several senders at once, every other one with arrays."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(Sender(admin.url, admin.token, name=f"s{n}", batch=BATCH if n % 2 else 1))
            for n in range(SENDERS)
        ]


def accepted(senders: Sequence[Sender]) -> int:
    """How many requests were acknowledged."""
    return sum(len(sender.accepted) for sender in senders)


def wait_for_more(senders: Sequence[Sender], count: int) -> None:
    """Until so many more requests were acknowledged."""
    before = accepted(senders)
    until(lambda: accepted(senders) >= before + count or any(s.refused for s in senders))


def check_all_there_once(bus: BusProcess, admin: Foreign, senders: Sequence[Sender]) -> None:
    """What was acknowledged, and nothing else, is in the log, and the log is whole. Stops the bus."""
    for sender in senders:
        sender.finish()
    told = {key: ids for sender in senders for key, ids in sender.accepted.items()}
    stored: dict[str, list[int]] = defaultdict(list)
    for event in admin.events("&event=message"):
        stored[event["key"]].append(event["id"])
    assert stored == told
    assert bus.stop() == 0
    verified = run_eventlog("verify", "--data-dir", bus.data_dir, home=bus.home)
    assert verified.code == 0, verified


def test_killed_again_and_again_under_load(bus: BusProcess, admin: Foreign) -> None:
    moments = random.Random(1)
    with load(admin) as senders:
        for _ in range(KILLS):
            wait_for_more(senders, moments.randint(1, 300))
            bus.kill()
            bus.start()
        check_all_there_once(bus, admin, senders)
    assert any(sender.replayed for sender in senders), "no kill ever came between a commit and its answer"


class TestFailedCommit:
    """A commit that fails has an outcome that nobody knows: 503, and the process ends, to be started again."""

    def test_a_file_that_may_grow_no_more(self, bus: BusProcess, admin: Foreign) -> None:
        with load(admin) as senders:
            wait_for_more(senders, 20)
            limit = (bus.data_dir / "eventlog.db-wal").stat().st_size + 100_000
            resource.prlimit(bus.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
            self.check_it_stops(bus, senders)
            bus.start()
            check_all_there_once(bus, admin, senders)

    def test_a_full_disk(self, small_disk: Path, tmp_path: Path) -> None:
        ballast = small_disk / "ballast"
        with BusProcess(tmp_path / "bus", data_dir=small_disk / "data") as bus:
            admin = Foreign(bus.url, bus.admin_token)
            with load(admin) as senders:
                wait_for_more(senders, 20)
                fill(ballast)
                self.check_it_stops(bus, senders)
                # systemd starts it while the disk is still full.
                fill(more := small_disk / "more")
                again = run_eventlog("serve", "--data-dir", bus.data_dir, "--port", str(bus.port), home=bus.home)
                assert (again.code, again.err.count("\n")) == (EXIT_TEMPORARY, 1), again
                ballast.unlink()
                more.unlink()
                bus.start()
                check_all_there_once(bus, admin, senders)

    @pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
    @pytest.mark.parametrize("fault", ["fdatasync:error=EIO", "pwrite64:error=ENOSPC"])
    def test_a_disk_that_fails_once(self, tmp_path: Path, old_log: Path, fault: str) -> None:
        with traced(tmp_path, old_log, f"{fault}:when=60") as bus:
            admin = Foreign(bus.url, bus.admin_token)
            with load(admin) as senders:
                self.check_it_stops(bus, senders)
                bus.under = []
                bus.start()
                check_all_there_once(bus, admin, senders)

    def check_it_stops(self, bus: BusProcess, senders: Sequence[Sender]) -> None:
        assert bus.wait() == EXIT_COMMIT_FAILED
        until(lambda: sum(sender.answers.get(503, 0) for sender in senders) > 0, 5)
        assert "outcome is not known" in bus.log_text


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
@pytest.mark.parametrize("when", range(40, 80) if SOAK else (47,))
def test_killed_within_a_commit(tmp_path: Path, old_log: Path, call: str, when: int) -> None:
    with traced(tmp_path, old_log, f"{call}:signal=KILL:when={when}") as bus:
        admin = Foreign(bus.url, bus.admin_token)
        with load(admin) as senders:
            assert bus.wait() == -9
            bus.under = []
            bus.start()
            wait_for_more(senders, 20)
            check_all_there_once(bus, admin, senders)


@pytest.fixture(scope="module")
def old_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a bus that ran before: what it wrote once, at its very first start, is not what fails."""
    with BusProcess(tmp_path_factory.mktemp("old")) as bus:
        assert bus.stop() == 0
    return bus.data_dir


def traced(folder: Path, data_dir: Path, fault: str) -> BusProcess:
    """A bus on a copy of a data folder, in which a system call fails."""
    shutil.copytree(data_dir, folder / "bus" / "data")
    call = fault.partition(":")[0]
    tracer = ["strace", "-D", "-f", "-qq", "-o", str(folder / "trace"), "-e", f"trace={call}", "-e", f"inject={fault}"]
    return BusProcess(folder / "bus", under=tracer)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    try:
        with memory_disk(tmp_path / "disk", "16m") as place:
            yield place
    except Impossible as why:
        pytest.skip(f"this machine cannot mount a file system: {why}")
