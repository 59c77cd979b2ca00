"""The link to the bus: how long it waits after failures."""

from pathlib import Path

from watcher.config import Config
from watcher.link import Link
from watcher.settings import BusSettings, LimitSettings


def link() -> Link:
    return Link(Config(name="w", bus=BusSettings(), limits=LimitSettings(), agents={}, path=Path("c")))


def test_waits_double_from_a_fifth_of_a_second_up_to_four_with_jitter() -> None:
    waits = [[link().delay_s(failures) for _ in range(50)] for failures in (1, 2, 3, 7, 1000)]
    for wait, most in zip(waits, (0.2, 0.4, 0.8, 0.8, 0.8), strict=True):
        assert most / 2 <= min(wait) < max(wait) <= most


def test_a_try_that_took_long_was_a_wait_itself() -> None:
    """Of a dead link, whose tries fail after seconds: a kernel's own are a second apart, and so must be ours."""
    for tried_s, most in ((0.0, 0.8), (0.5, 0.3), (5.5, 0.2)):
        waits = [link().delay_s(20, tried_s=tried_s) for _ in range(50)]
        assert most / 2 <= min(waits) < max(waits) <= most + 1e-9
    assert link().delay_s(20, 5.0, tried_s=5.5) == 5.0


def test_waits_for_as_long_as_it_was_asked_to_within_reason() -> None:
    assert link().delay_s(1, 5.0) == 5.0
    assert link().delay_s(1, 3600.0) == 10.0
