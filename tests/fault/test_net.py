"""The lab that network tests run in: what it does to links, and that it leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.fault.net import Lab, Node, needs_lab
from tests.support import ROOT, until

pytestmark = [pytest.mark.fault, needs_lab]


def reaches(node: Node, address: tuple[str, int]) -> bool:
    """Whether a connection from the machine comes about."""
    with node.inside():
        try:
            socket.create_connection(address, timeout=0.5).close()
        except OSError:
            return False
    return True


def test_links_are_cut_and_healed_and_lead_nowhere_else() -> None:
    with Lab(2) as lab, socket.create_server(("127.0.0.1", 0)) as outside:
        with lab.bus.inside():
            listening = socket.create_server(("0.0.0.0", 0))
        with listening:
            address = (lab.bus.address, listening.getsockname()[1])
            one, other = lab.nodes
            assert reaches(one, address)
            for breaks, mends in ((one.cut, one.heal), (one.unplug, one.plug)):
                breaks()
                assert not reaches(one, address)
                assert reaches(other, address)
                mends()
                until(lambda: reaches(one, address))
        assert not reaches(one, outside.getsockname())


#: A lab with a process in it, which this process says the id of, and then waits to be killed.
MAKES_A_LAB = """
import subprocess, time
from tests.fault.net import Lab
with Lab(1) as lab, lab.nodes[0].inside():
    print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
    time.sleep(600)
"""


def test_a_lab_whose_maker_is_killed_leaves_nothing_running() -> None:
    command = [sys.executable, "-c", MAKES_A_LAB]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as maker:
        assert maker.stdout is not None
        left = int(maker.stdout.readline())
        maker.send_signal(signal.SIGKILL)
    until(lambda: ended(left))


def ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
