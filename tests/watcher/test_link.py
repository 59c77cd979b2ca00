"""The link to the bus: how long it waits after failures."""

from pathlib import Path

from watcher.config import BusSettings, Config, LimitSettings
from watcher.link import Link


def link() -> Link:
    return Link(Config(name="w", bus=BusSettings(), limits=LimitSettings(), agents={}, path=Path("c")))


def test_waits_double_from_a_fifth_of_a_second_up_to_ten_seconds_with_jitter() -> None:
    waits = [[link().delay_s(failures) for _ in range(50)] for failures in (1, 2, 3, 7, 1000)]
    for wait, most in zip(waits, (0.2, 0.4, 0.8, 10.0, 10.0), strict=True):
        assert most / 2 <= min(wait) < max(wait) <= most


def test_the_first_wait_is_what_the_bus_asked_for() -> None:
    assert 1.0 <= link().delay_s(1, 2.0) <= 2.0
