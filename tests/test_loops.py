"""The detectors see agents that answer each other for ever, and nothing in what a lively fleet does."""

import itertools
import random
from collections import deque
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import loops
from eventlog.loops import RING_MAX, RING_MIN, WINDOW_S, Pairs, Rings


class Detectors:
    """Both detectors, asked before each message and told of it, by a clock that moves only when told to."""

    def __init__(self, pair_rate_max: int = 60, cycle_steps_max: int = 60) -> None:
        self.pairs = Pairs(pair_rate_max)
        self.rings = Rings(cycle_steps_max)
        self.now = 1000.0
        self.sent = 0

    def refused(self, sender: str, to: str, hops: int = 0) -> str:
        """Why the message is refused; "" if it is not, and then it counts."""
        if self.pairs.too_many(sender, to, hops, 1, self.now):
            return "pair_rate"
        if self.rings.ring(sender, to, self.now):
            return "cycle"
        self.sent += 1
        self.pairs.saw(sender, to, [(hops, self.sent)], self.now)
        self.rings.saw(sender, to, self.sent, self.now)
        return ""

    def rounds(self, steps: Iterable[tuple[str, str]], every_s: float, most: int) -> int:
        """How many of these messages, one every so many seconds, are taken before one is refused; `most` if none is."""
        for number, (sender, to) in enumerate(itertools.islice(itertools.cycle(steps), most)):
            if self.refused(sender, to):
                return number
            self.now += every_s
        return most


def ring(size: int) -> list[tuple[str, str]]:
    """The messages of one round of a ring."""
    names = [f"a{i}" for i in range(size)]
    return list(zip(names, names[1:] + names[:1], strict=True))


@pytest.fixture
def loop() -> Detectors:
    return Detectors()


class TestPairs:
    @pytest.mark.parametrize("hops", [0, 2, 40])
    def test_two_that_answer_each_other_are_stopped_past_the_rate(self, loop: Detectors, hops: int) -> None:
        taken = 0
        for sender, to in itertools.islice(itertools.cycle([("a", "b"), ("b", "a")]), 200):
            if loop.refused(sender, to, hops):
                break
            taken += 1
            loop.now += 0.01
        assert taken == 61

    def test_just_within_the_rate_they_go_on_for_ever(self, loop: Detectors) -> None:
        assert loop.rounds([("a", "b"), ("b", "a")], WINDOW_S / 50, 3000) == 3000

    def test_a_little_over_the_rate_they_are_stopped(self, loop: Detectors) -> None:
        assert loop.rounds([("a", "b"), ("b", "a")], WINDOW_S / 70, 3000) < 80

    @pytest.mark.parametrize("hops", [0, 5])
    def test_bulk_one_way_never_counts(self, loop: Detectors, hops: int) -> None:
        assert not any(loop.refused("a", "b", hops) for _ in range(5000))

    def test_bulk_one_way_with_a_few_words_back_does_not_count(self, loop: Detectors) -> None:
        assert not any(loop.refused("a", "b") or (i % 100 == 0 and loop.refused("b", "a")) for i in range(2900))

    def test_requests_and_their_answers_never_count(self, loop: Detectors) -> None:
        assert not any(loop.refused("a", "b", 0) or loop.refused("b", "a", 1) for _ in range(2000))

    def test_an_answer_to_a_request_is_taken_from_two_at_the_limit(self, loop: Detectors) -> None:
        for _ in range(30):
            assert not loop.refused("a", "b", 2)
            assert not loop.refused("b", "a", 3)
        assert not loop.refused("a", "b", 4)
        assert not loop.refused("b", "a", 1)
        assert loop.refused("b", "a", 5)

    def test_chains_and_bulk_are_counted_apart(self, loop: Detectors) -> None:
        """Many messages from one, without a cause, and a chain of the other's are no conversation."""
        assert not any(loop.refused("a", "b", 0) or loop.refused("b", "a", 2) for _ in range(500))

    def test_more_than_one_message_of_a_request_count_together(self, loop: Detectors) -> None:
        for _ in range(40):
            assert not loop.refused("b", "a")
        assert not loop.pairs.too_many("a", "b", 0, 30, loop.now)
        assert loop.pairs.too_many("a", "b", 0, 31, loop.now)

    def test_other_pairs_do_not_count(self, loop: Detectors) -> None:
        pairs = [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c"), ("a", "d"), ("d", "a")]
        assert loop.rounds(pairs, WINDOW_S / 150, 2000) == 2000

    def test_the_thread_of_the_newest_message_is_known(self, loop: Detectors) -> None:
        loop.refused("a", "b")
        loop.refused("b", "a")
        loop.refused("a", "c")
        assert (loop.pairs.thread("a", "b"), loop.pairs.thread("b", "a"), loop.pairs.thread("b", "c")) == (2, 2, None)

    def test_what_was_let_go_on_counts_anew(self, loop: Detectors) -> None:
        assert loop.rounds([("a", "b"), ("b", "a")], 0.01, 200) == 61
        loop.pairs.forget(["b", "a", "c"])
        assert loop.rounds([("a", "b"), ("b", "a")], 0.01, 200) == 61

    def test_zero_lets_all(self) -> None:
        loop = Detectors(pair_rate_max=0)
        assert loop.rounds([("a", "b"), ("b", "a")], 0.01, 500) == 500
        assert not loop.pairs._pairs

    def test_the_pair_that_was_quiet_for_longest_is_forgotten(
        self, loop: Detectors, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loops, "PAIRS_MAX", 3)
        for name in "bcdbe":
            loop.refused("a", name)
        assert [loop.pairs.thread("a", name) for name in "bcde"] == [4, None, 3, 5]

    @given(
        st.lists(
            st.tuples(st.sampled_from(["ab", "ba"]), st.sampled_from([0, 1, 2, 7]), st.sampled_from([0.0, 0.5, 30.0])),
            max_size=60,
        ),
        st.integers(1, 12),
    )
    def test_it_counts_as_going_through_all_messages_would(
        self, messages: list[tuple[str, int, float]], most: int
    ) -> None:
        loop = Detectors(pair_rate_max=most, cycle_steps_max=0)
        taken: deque[tuple[str, bool, float]] = deque()
        for way, hops, pause_s in messages:
            loop.now += pause_s
            recent = [(w, caused) for w, caused, at in taken if at > loop.now - WINDOW_S]
            recent += [] if hops == 1 else [(way, hops > 0)]
            count = sum(2 * min(recent.count(("ab", kind)), recent.count(("ba", kind))) for kind in (False, True))
            refused = bool(loop.refused(way[0], way[1], hops))
            assert refused == (hops != 1 and count > most)
            if not refused and hops != 1:
                taken.append((way, hops > 0, loop.now))


class TestRings:
    @pytest.mark.parametrize("size", range(RING_MIN, RING_MAX + 1))
    @pytest.mark.parametrize("every_s", [0.001, 2.0, 9.5, 50.0])
    def test_a_ring_in_one_rhythm_is_stopped(self, loop: Detectors, size: int, every_s: float) -> None:
        assert loop.rounds(ring(size), every_s, 300) == 60

    @pytest.mark.parametrize("size", [2, 9])
    def test_fewer_and_more_agents_are_no_ring(self, loop: Detectors, size: int) -> None:
        assert loop.rounds(ring(size), 5.0, 300) == 300

    def test_the_agents_and_the_thread_are_told(self, loop: Detectors) -> None:
        steps = ring(3)
        for sender, to in itertools.islice(itertools.cycle(steps), 60):
            assert not loop.refused(sender, to)
        assert loop.rings.ring("a0", "a1", loop.now) == (("a1", "a2", "a0"), 60)
        assert loop.rings.ring("a0", "a2", loop.now) is None

    def test_steps_more_than_a_minute_apart_are_no_path(self, loop: Detectors) -> None:
        assert loop.rounds(ring(3), WINDOW_S, 300) == 300

    def test_rounds_of_unlike_length_are_no_rhythm(self, loop: Detectors) -> None:
        for number in range(300):
            sender, to = ring(3)[number % 3]
            assert not loop.refused(sender, to)
            loop.now += 2.0 if number // 3 % 3 else 20.0

    def test_rounds_within_a_quarter_are_one_rhythm(self, loop: Detectors) -> None:
        taken = 0
        for number in range(300):
            sender, to = ring(3)[number % 3]
            if loop.refused(sender, to):
                break
            taken += 1
            loop.now += 5.0 if number // 3 % 2 else 6.0
        assert taken == 60

    def test_one_who_asks_several_in_turn_is_no_ring(self, loop: Detectors) -> None:
        hub = [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a")]
        assert loop.rounds(hub, 5.0, 400) == 400

    def test_what_a_person_sends_begins_a_path_anew(self, loop: Detectors) -> None:
        for number in range(300):
            sender, to = ring(3)[number % 3]
            if number % 30 == 0:
                loop.rings.began(sender)
            assert not loop.refused(sender, to)
            loop.now += 2.0

    def test_what_was_let_go_on_counts_anew(self, loop: Detectors) -> None:
        assert loop.rounds(ring(3), 2.0, 300) == 60
        loop.rings.forget(["a0", "a1", "a2"])
        assert loop.rounds(ring(3), 2.0, 300) == 60

    def test_zero_lets_all(self) -> None:
        loop = Detectors(cycle_steps_max=0)
        assert loop.rounds(ring(3), 2.0, 300) == 300
        assert not loop.rings._paths

    @pytest.mark.parametrize(("most", "taken"), [(1, RING_MAX), (RING_MAX, RING_MAX), (10, 10)])
    def test_any_number_of_steps_from_one_round_on_can_be_the_limit(self, most: int, taken: int) -> None:
        loop = Detectors(cycle_steps_max=most)
        assert loop.rounds(ring(3), 2.0, 100) == taken
        assert Detectors(cycle_steps_max=most).rounds(ring(RING_MAX), 2.0, 100) == taken

    def test_paths_are_bounded(self, loop: Detectors, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loops, "PATHS_MAX", 2)
        loop.rounds([("a", "b"), ("b", "a")], 2.0, 300)
        for name in "cde":
            loop.refused("a", name)
        assert list(loop.rings._paths) == ["d", "e"]
        assert max(map(len, loop.rings._paths.values())) == 60

    @pytest.mark.parametrize("agents", [3, 4, 19])
    def test_random_traffic_is_no_ring(self, agents: int) -> None:
        loop, dice = Detectors(pair_rate_max=0), random.Random(agents)
        for _ in range(4000):
            sender, to = dice.sample([f"a{i}" for i in range(agents)], 2)
            assert not loop.refused(sender, to)
            loop.now += dice.uniform(0.01, 5)
