"""Runs: a run of WAKES.md as text, taken once without its rule, to see the harm, and once with it, to see none.

Steps stand between `|`. What a step must come to stands after an arrow, and is looked at without the rule only;
`3 ticks` is three steps. Where WAKES.md ends a lease after two ticks, the runs here let its third go by.
"""

import re
from collections.abc import Collection, Iterator

import msgspec
import pytest

from tests.model.harms import ENDLESS, STUCK, Harm
from tests.model.world import FAIR_COMMANDS, LIMITS, Impossible, World

#: Harms that show only when the run goes on for ever.
AT_THE_END = (STUCK, ENDLESS)


def goes_wrong_without(rule: str, harm: str, run: str, *, also: Collection[str] = (), **limits: object) -> None:
    """The run ends in `harm` without the rule, at its last step and no earlier; with it, it does no harm and ends.

    `also` are other things left out that would keep the harm away: the rule alone must do that, too.
    """
    steps = list(_steps(run))
    _sees(harm, _world({rule, *also}, limits), steps)
    for without in ({*also}, set[str]()):
        for agent in FAIR_COMMANDS:
            world = _world(without, limits)
            for label, _ in steps:
                try:
                    world.do(label)
                except Impossible:
                    continue
            world.fair(agent)


def _world(without: Collection[str], limits: dict[str, object]) -> World:
    return World(without, limits=msgspec.structs.replace(LIMITS, **limits))


def _sees(harm: str, world: World, steps: list[tuple[str, str]]) -> None:
    last = None if harm in AT_THE_END else steps[-1][0]
    for label, expected in steps[: len(steps) if last is None else -1]:
        said = world.do(label)
        assert said == expected or not expected, (label, said, world.done)
    with pytest.raises(Harm) as caught:
        if last is None:
            world.fair("reads")
        else:
            world.do(last)
    assert caught.value.name == harm, world.done


def _steps(run: str) -> Iterator[tuple[str, str]]:
    """Each step's label and what it must come to."""
    for step in " ".join(run.split()).split(" | "):
        times = re.fullmatch(r"(\d+) ticks", step)
        if times:
            yield from [("tick", "")] * int(times[1])
        else:
            label, _, expected = step.partition(" -> ")
            yield label, expected
