"""Every point between two durable steps, and every fault there: the crash matrix, run and held to its page."""

import ast
import contextlib
import os
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fault.lane import DEADLINE_S, RUNS, SWITCH, Lane
from tests.fault.matrix import CELLS, NOTHING, PAGE, POINTS, ROWS, UNKNOWN, Cell, Fault, Key, key_of, page, told_by_page
from tests.fault.opening import Opening
from tests.fault.power import Disk, Impossible
from tests.fault.steps import SYSCALLS, in_run, in_source, points_in_source
from tests.fault.trace import needs_strace
from tests.scene import Scene
from tests.support import ROOT, SOAK, WatcherProcess, until

#: Lanes that run at once: cells mostly wait.
LANES = int(os.environ.get("EVENTLOG_LANES", "6"))
#: Whether the results become the page, instead of being held to it.
WRITE = os.environ.get("EVENTLOG_WRITE_DOCS") == "1"
#: Whether this run has all cells, or the telling ones.
WHOLE = SOAK or WRITE
RUN = [cell for cell in CELLS if WHOLE or cell.fault in cell.row.telling]

pytestmark = [pytest.mark.fault, pytest.mark.timeout(3600 if WHOLE else 600)]


class Came(NamedTuple):
    """What came of a cell: what the page says, or what was wrong."""

    result: str
    wrong: str = ""


class Runner(threading.Thread):
    """Runs the cells of a queue in one lane; a lane in which something went wrong is replaced by another."""

    def __init__(
        self,
        kind: type[Lane | Opening],
        place: Path,
        cells: "queue.SimpleQueue[Cell]",
        came: dict[Cell, Came],
        *,
        power: bool,
    ) -> None:
        super().__init__(daemon=True)
        self._kind = kind
        self._place = place
        self._cells = cells
        self._came = came
        self._power = power
        self._lanes = 0
        self.start()

    def run(self) -> None:
        """The thread."""
        with contextlib.suppress(queue.Empty):
            while not self._cells.empty():
                self._run_lane()

    def _run_lane(self) -> None:
        self._lanes += 1
        cell = None
        try:
            with self._kind(self._place / str(self._lanes), power=self._power) as lane:
                while not self._cells.empty():
                    cell = self._cells.get_nowait()
                    self._came[cell] = Came(lane.cell(cell))
                lane.close()
        except queue.Empty:
            raise
        except BaseException as error:
            cell = cell or self._cells.get_nowait()
            self._came[cell] = Came("", f"{type(error).__name__}: {error}")


@pytest.fixture(scope="module")
def power(tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether this machine can cut the power of a disk."""
    place = tmp_path_factory.mktemp("power")
    try:
        with Disk(place):
            return True
    except Impossible:
        return False


@pytest.fixture(scope="module")
def came(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, power: bool) -> Mapping[Cell, Came]:
    """What came of every cell that this run has a test of."""
    names = {item.name for item in request.session.items}
    wanted = [cell for cell in RUN if f"test_cell[{cell}]" in names]
    queues: dict[type[Lane | Opening], queue.SimpleQueue[Cell]] = {
        Lane: queue.SimpleQueue(),
        Opening: queue.SimpleQueue(),
    }
    for cell in wanted:
        if power or "cut" not in cell.fault:
            queues[Opening if cell.row.occasion in ("a first start", "a restore") else Lane].put(cell)
    place = tmp_path_factory.mktemp("matrix")
    found: dict[Cell, Came] = {}
    runners = [Runner(Opening, place / "opening", queues[Opening], found, power=power)]
    runners += [Runner(Lane, place / f"lane-{n}", queues[Lane], found, power=power) for n in range(LANES)]
    try:
        for runner in runners:
            runner.join()
    finally:
        # However this ends, what runs and what is mounted goes with it.
        for cells in queues.values():
            with contextlib.suppress(queue.Empty):
                while True:
                    cells.get_nowait()
        for runner in runners:
            runner.join(DEADLINE_S)
    if WRITE:
        # What did not run, or went wrong, stays as it was.
        new = {key_of(cell): one.result for cell, one in found.items() if not one.wrong}
        PAGE.write_text(page(told_by_page(PAGE.read_text() if PAGE.exists() else "") | new))
    return found


@pytest.fixture(scope="module")
def expected() -> Mapping[Key, str]:
    """What the page says."""
    return told_by_page(PAGE.read_text()) if PAGE.exists() else {}


@pytest.mark.parametrize("cell", RUN, ids=str)
def test_cell(cell: Cell, came: Mapping[Cell, Came], expected: Mapping[Key, str], power: bool) -> None:
    if "cut" in cell.fault and not power:
        pytest.skip("this machine cannot mount an image")
    result, wrong = came[cell]
    assert not wrong, wrong
    if not WRITE:
        assert result == expected[key_of(cell)]


class TestThePointsAreAllThatThereAre:
    """A step that the code gains and the matrix does not name is a failing test."""

    def test_every_step_in_the_source_has_a_point_after_it(self) -> None:
        assert list(in_source()) == []

    def test_the_matrix_has_every_point_and_no_other(self) -> None:
        assert points_in_source() == POINTS

    def test_every_point_is_part_of_every_run(self) -> None:
        assert {cell.row.point for cell in RUN} == POINTS

    @needs_strace
    @pytest.mark.parametrize("run", [False, True], ids=["wake", "run"])
    def test_every_step_of_a_real_wake_has_a_point_after_it(self, scene: Scene, tmp_path: Path, run: bool) -> None:
        trace, stops = tmp_path / "trace", tmp_path / "stops"
        tracer = ["strace", "-D", "-f", "-y", "-qq", "-s", "300", "-o", str(trace), "-e", f"trace={SYSCALLS}"]
        options: tuple[str, ...] = ("--handed", "--print") if run else ()
        agent = scene.agent(*options, **(RUNS if run else {}), timeout=30, start_within=30)
        home, token = tmp_path / "w", scene.watcher_token
        env = {SWITCH: str(stops)}
        with WatcherProcess(home, scene.bus.url, token, agent, under=tracer, env=env) as watcher:
            scene.boss.send("mel")
            scene.judge()
            until(lambda: "watcher.folder.deleted" in trace.read_text())
            watcher.stop()
        loose, order = in_run(trace, watcher.state_dir, stops)
        assert loose == []
        [command] = [number for number, what in enumerate(order) if "wake_agent.py" in what]
        assert "grant.durable" in order[: order.index("shim.lock.taken")]
        assert "started.durable" in order[:command], "the command began before that was on the disk"
        assert "outcome.durable" in order[: order.index("watcher.outcome.seen")]


class TestThePage:
    def test_it_says_what_becomes_of_every_cell(self, expected: Mapping[Key, str]) -> None:
        cells = {(row.occasion, row.point, fault) for row in ROWS for fault in Fault}
        assert expected.keys() == cells
        assert {key for key, told in expected.items() if told != NOTHING} == {key_of(cell) for cell in CELLS}
        assert UNKNOWN not in expected.values()

    def test_it_is_as_it_would_be_written(self, expected: Mapping[Key, str]) -> None:
        assert PAGE.read_text() == page(expected)


def test_the_bus_and_the_watcher_have_the_same_switch() -> None:
    files = ("eventlog/crashpoint.py", "watcher/crashpoint.py")
    assert len({function(ROOT / file, "reached") for file in files}) == 1


def function(path: Path, name: str) -> str:
    """The source of a function, without what does not matter."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return next(ast.unparse(node) for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name)
