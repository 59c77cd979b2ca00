"""The model searched for harm: thousands of steps over messages, acks, faults and time, and a fair end to each run.

Harm is raised by the step that does it. At the end of each run faults end, and every message must end read or dead.
"""

from collections.abc import Collection

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from eventlog.agents import Limits
from tests.model.actions import Action, Kind
from tests.model.harms import Harm
from tests.model.world import FAIR_COMMANDS, LIMITS, TICK_S, World
from tests.support import SOAK

#: Hypothesis's own deadlines are off; a search that hangs fails by this one.
pytestmark = pytest.mark.timeout(3600 if SOAK else 300)
#: How many runs there are, and how many steps each has before its fair end.
SEARCH = settings(
    max_examples=4000 if SOAK else 300,
    stateful_step_count=100 if SOAK else 60,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
#: The search is searched, too: without one of these rules it must find harm, and soon.
MISSED_SOON = ("R8", "R9")
MISSED_LATER = ("R2", "R3", "R5", "R11", "R13", "R14a", "R20", "R21")
RULES = MISSED_SOON + MISSED_LATER if SOAK else MISSED_SOON


def _limits(deliver: str, ack: str, min_interval_s: float) -> Limits:
    return msgspec.structs.replace(LIMITS, deliver=deliver, ack=ack, min_interval_s=min_interval_s)


WANTED = st.builds(
    _limits,
    st.sampled_from(["all", "each"]),
    st.sampled_from(["agent", "exit", "none"]),
    st.sampled_from([0.0, 2 * TICK_S]),
)


class WakeModel(RuleBasedStateMachine):
    """Lets one thing after another happen; how often which kind of thing does is Hypothesis's choice, run by run."""

    without: Collection[str] = ()
    world: World
    harmed = False

    @initialize(limits=WANTED, messages=st.integers(1, 3), agent=st.sampled_from(sorted(FAIR_COMMANDS)))
    def begin(self, limits: Limits, messages: int, agent: str) -> None:
        self.world = World(self.without, limits=limits, messages_max=messages)
        self.agent_at_the_end = agent
        self.world.do("message")

    def one_of(self, data: st.DataObject, kind: Kind, *words: str) -> None:
        """One of the possible actions of this kind whose label holds one of these words, if there is any."""
        possible = {a.label: a for a in self.world.actions() if a.kind is kind and any(w in a.label for w in words)}
        if possible:
            self.take(possible[data.draw(st.sampled_from(sorted(possible)))])

    def take(self, action: Action) -> None:
        try:
            self.world.take(action)
        except Harm:
            self.harmed = True
            raise

    @rule(data=st.data())
    def something_works(self, data: st.DataObject) -> None:
        self.one_of(data, Kind.WORK, "")

    @rule(data=st.data(), times=st.integers(1, 8), node=st.sampled_from(["A", "B"]))
    def a_node_works(self, data: st.DataObject, times: int, node: str) -> None:
        for _ in range(times):
            self.one_of(data, Kind.WORK, f"{node} ", f"answers {node}", f"report of {node}")

    @rule(data=st.data())
    def half_a_step(self, data: st.DataObject) -> None:
        self.one_of(data, Kind.HALF, "")

    @rule(data=st.data())
    def a_command_acts(self, data: st.DataObject) -> None:
        self.one_of(data, Kind.COMMAND, "")

    @rule(ticks=st.integers(1, 4), sweeps=st.booleans())
    def time_goes_on(self, ticks: int, sweeps: bool) -> None:
        for label in ["tick"] * ticks + ["bus sweeps"] * sweeps:
            self.take(next(action for action in self.world.actions() if action.label == label))

    @rule(data=st.data())
    def agents_and_people_act(self, data: st.DataObject) -> None:
        self.one_of(data, Kind.INPUT, "")

    @rule(data=st.data())
    def the_network_fails(self, data: st.DataObject) -> None:
        self.one_of(data, Kind.FAULT, "lost", "repeated", "gives up", "stream")

    @rule(data=st.data())
    def a_process_dies(self, data: st.DataObject) -> None:
        self.one_of(data, Kind.FAULT, "watcher crashes", "shim is", "bus crashes")

    @rule(data=st.data())
    def a_machine_fails(self, data: st.DataObject) -> None:
        self.one_of(data, Kind.FAULT, "power cut", "state folder", "copied", "gone for good")

    @rule(data=st.data())
    def the_log_is_restored(self, data: st.DataObject) -> None:
        self.one_of(data, Kind.FAULT, "backup")

    @rule(data=st.data())
    def a_clock_is_set(self, data: st.DataObject) -> None:
        self.one_of(data, Kind.TIME, "wall clock")

    @rule(data=st.data())
    def a_rule_is_not_kept(self, data: st.DataObject) -> None:
        self.one_of(data, Kind.FAULT, "looks", "holds the lock")

    def teardown(self) -> None:
        """Faults end; whoever is left goes on, and every message ends read or dead."""
        if not self.harmed:
            self.world.fair(self.agent_at_the_end)


def test_no_run_does_harm_and_every_run_ends() -> None:
    run_state_machine_as_test(WakeModel, settings=SEARCH)


@pytest.mark.parametrize("missing", RULES)
def test_the_search_finds_harm_without(missing: str) -> None:
    class WithoutOne(WakeModel):
        without = (missing,)

    search = settings(SEARCH, max_examples=20_000, phases=[Phase.generate], derandomize=True, database=None)
    with pytest.raises(Harm):
        run_state_machine_as_test(WithoutOne, settings=search)
