"""Machine: a folder of another machine is told from one of ours (WAKES.md R22)."""

import pytest

from watcher.machine import Machine, is_foreign, this_machine

HERE = Machine("boot-2", "machine", ("aa", "bb"))


@pytest.mark.parametrize(
    ("made_at", "foreign"),
    [
        (Machine("boot-1", "machine", ("aa", "bb")), False),
        (Machine("boot-1", "machine", ("bb", "cc")), False),
        (Machine("boot-1", "machine", ("cc",)), True),
        (Machine("boot-1", "machine", ()), True),
        (Machine("boot-1", "other", ("aa", "bb")), True),
        (Machine("boot-2", "other", ("cc",)), False),
    ],
    ids=["rebooted", "one card changed", "all cards differ", "no cards then", "other machine id", "this boot"],
)
def test_a_folder_is_foreign_if_machine_id_or_all_hardware_addresses_differ(made_at: Machine, foreign: bool) -> None:
    assert is_foreign(made_at, HERE) is foreign


def test_a_machine_without_network_knows_itself() -> None:
    assert not is_foreign(Machine("boot-1", "machine", ()), Machine("boot-2", "machine", ()))


def test_this_machine_is_the_same_at_every_look() -> None:
    assert this_machine() == this_machine()
    assert this_machine().boot_id
