"""The runs of WAKES.md, each named after its rule: without the rule it does the harm named, with all rules none."""

from tests.model.harms import (
    COVERED_AGAIN,
    DEAD_COUNT,
    DEAD_TWICE,
    ENDLESS,
    MISREPORTED,
    REFUSED,
    REPLACED,
    STARTED_TWICE,
    STUCK,
    TOO_MANY,
    TWO_AT_ONCE,
)
from tests.model.runs import goes_wrong_without

#: From the answer to its ask until a node's shim holds the lock.
A_READY = "A stores the grant -> may start for 1 | A starts the shim | A shim takes the lock"
B_READY = "B stores the grant | B starts the shim | B shim takes the lock"
#: Message 1, and A's ask granted.
A_GRANTED = "message | A asks | bus answers A -> wake 1"
#: And the command runs at A.
A_RUNS = f"{A_GRANTED} | {A_READY} | A command starts"
#: And it worked, and the bus knows, or A only reports so.
A_REPORTS_OK = f"{A_RUNS} | A command ends ok | A shim writes outcome | A reports -> ok"
A_WORKED = f"{A_REPORTS_OK} | bus answers the report of A -> ok"
#: B takes over with the second wake.
B_RUNS = f"bus answers B -> wake 2 | {B_READY} | B command starts"


def test_r1_the_latest_start_counts_from_the_sending_of_the_ask_less_the_age() -> None:
    run = f"""
        {A_GRANTED} | answer to A is lost | 2 ticks | A asks | bus answers A -> wake 1 again
        | A stores the grant -> may start for 1 | A starts the shim | A shim takes the lock | tick | bus sweeps
        | A command starts | B asks | tick | {B_RUNS}"""
    goes_wrong_without("R1", TWO_AT_ONCE, run)


def test_r2_the_shim_itself_checks_the_latest_start() -> None:
    run = f"""
        {A_GRANTED} | {A_READY} | B asks | 3 ticks | bus sweeps | A command starts | tick | {B_RUNS}"""
    goes_wrong_without("R2", TWO_AT_ONCE, run, also=["cap"])


def test_r3_the_watcher_never_judges_a_folder() -> None:
    run = f"""
        {A_GRANTED} | {A_READY} | A looks: no outcome | 2 ticks | A shim: too late, outcome not_started
        | A reports int"""
    goes_wrong_without("R3", MISREPORTED, run)


def test_r4_the_lock_is_there_beforehand() -> None:
    run = f"""
        {A_GRANTED} | A stores the grant -> may start for 1 | A starts the shim
        | A shim creates lock (not yet locked) | A holds the lock, no outcome: writes interrupted
        | A shim locks lock | A command starts | A reports -> interrupted | bus answers the report of A -> ok
        | tick | B asks | bus answers B -> wake 2 | B stores the grant | B starts the shim
        | B shim creates lock (not yet locked) | B shim locks lock | B command starts"""
    goes_wrong_without("R4", TWO_AT_ONCE, run, also=["shim judges"])


def test_r5_a_wake_in_flight_is_given_again_only_to_its_key() -> None:
    run = f"""
        message | disk of A is copied to B | A gets the hint | A asks | bus answers A -> wake 1 | {A_READY}
        | A command starts | B watcher starts | B watcher subscribes | B asks | bus answers B -> wake 1 again
        | {B_READY} | B command starts"""
    goes_wrong_without("R5", STARTED_TWICE, run)


def test_r6_the_command_dies_with_its_shim() -> None:
    run = f"""
        {A_RUNS} | A shim is killed | 3 ticks | bus sweeps | tick | B asks | {B_RUNS}"""
    goes_wrong_without("R6", TWO_AT_ONCE, run)


def test_r7_the_outcome_reported_first_stands() -> None:
    run = f"""
        {A_GRANTED} | {A_READY} | 2 ticks | A shim: too late, outcome not_started | A reports -> not_started
        | bus answers the report of A -> ok | A reads the answer to its report -> ok | A removes outcome
        | A watcher crashes | A watcher starts | A holds the lock, no outcome: writes interrupted
        | A reports -> interrupted | bus answers the report of A"""
    goes_wrong_without("R7", REPLACED, run, also=["shim judges"])


def test_r8_an_ok_wake_without_an_ack_is_an_attempt() -> None:
    run = f"""
        {A_WORKED} | A reads the answer to its report | A removes the folder | A asks | B asks | tick
        | bus answers A -> wake 2 | 3 ticks | bus sweeps | tick | bus answers B"""
    goes_wrong_without("R8", TOO_MANY, run)


def test_r9_a_message_becomes_a_dead_letter_once() -> None:
    run = f"""
        {A_GRANTED} | B asks | 3 ticks | bus sweeps | tick | bus answers B -> wake 2 | 3 ticks | bus sweeps
        | 2 ticks | bus sweeps"""
    goes_wrong_without("R9", DEAD_TWICE, run)


def test_r9a_a_wake_leaves_out_messages_whose_deadline_runs() -> None:
    run = f"""
        {A_GRANTED} | message | {A_READY} | A command starts | A command ends ok | A shim writes outcome
        | A reports -> ok | bus answers the report of A -> ok | B asks | bus answers B"""
    goes_wrong_without("R9a", COVERED_AGAIN, run)


def test_r11_attempts_are_counted_for_each_message() -> None:
    run = f"""
        {A_GRANTED} | message | B asks | 3 ticks | bus sweeps | tick | bus answers B -> wake 2 | 3 ticks | bus sweeps
        | 2 ticks | bus sweeps"""
    goes_wrong_without("R11", DEAD_COUNT, run)


def test_r12_a_wake_closed_by_the_bus_takes_a_late_report() -> None:
    run = f"""
        {A_REPORTS_OK} | 3 ticks | bus sweeps | bus answers the report of A"""
    goes_wrong_without("R12", REFUSED, run)


def test_r13_a_refused_report_ends_the_folder() -> None:
    run = f"""
        {A_GRANTED} | {A_READY} | B asks | 3 ticks | bus sweeps | tick | bus answers B -> wake 2
        | B is gone for good"""
    goes_wrong_without("R13", ENDLESS, run)


def test_r14_after_a_restart_of_the_bus_a_lease_counts_anew() -> None:
    run = f"""
        {A_GRANTED} | A stores the grant -> may start for 1 | bus crashes, restarts; watchers reconnect | bus sweeps
        | A starts the shim | A shim takes the lock | A command starts | tick | B asks | {B_RUNS}"""
    goes_wrong_without("R14", TWO_AT_ONCE, run)


def test_r14a_and_ends() -> None:
    run = f"""
        {A_GRANTED} | A stores the grant -> may start for 1 | bus crashes, restarts; watchers reconnect
        | A is gone for good"""
    goes_wrong_without("R14a", ENDLESS, run)


def test_r15_leases_run_by_a_monotonic_clock() -> None:
    run = f"""
        {A_GRANTED} | wall clock of the bus jumps forward | bus sweeps | {A_READY} | A command starts | tick | B asks
        | {B_RUNS}"""
    goes_wrong_without("R15", TWO_AT_ONCE, run)


def test_r16_after_a_restore_nothing_is_granted_for_a_while() -> None:
    run = f"""
        message | backup taken | A asks | bus answers A -> wake 1 | A stores the grant -> may start for 1
        | bus restored from the backup; watchers reconnect | A starts the shim | A shim takes the lock
        | A command starts | B asks | bus answers B -> wake 1 | {B_READY} | B command starts"""
    goes_wrong_without("R16", TWO_AT_ONCE, run)


def test_r16a_a_restore_closes_every_wake_in_flight() -> None:
    run = f"""
        {A_GRANTED} | backup taken | 3 ticks | bus sweeps | B asks | tick | bus answers B -> wake 2
        | B stores the grant -> may start for 0 | bus restored from the backup; watchers reconnect
        | B starts the shim | B shim takes the lock | B command starts | A gives up | A asks
        | bus answers A -> wake 1 again | {A_READY} | A command starts"""
    goes_wrong_without("R16a", TWO_AT_ONCE, run)


def test_r17_first_the_stream_then_the_asking() -> None:
    run = """
        A watcher crashes | A watcher starts | A asks | bus answers A -> nothing_unread | A reads 204
        | B watcher crashes | B watcher starts | B asks | bus answers B -> nothing_unread | message
        | A watcher subscribes | B watcher subscribes | B reads 204 | tick"""
    goes_wrong_without("R17", STUCK, run, also=["net"])


def test_r18_ask_again_after_every_report() -> None:
    run = f"""
        message | A gets the hint | A asks | bus answers A -> wake 1 | {A_READY} | B gets the hint | B asks | 2 ticks
        | A shim: too late, outcome not_started | A reports -> not_started | bus answers the report of A -> ok
        | A reads the answer to its report | A removes the folder | tick | bus answers B -> wake 2 | {B_READY}
        | B shim: too late, outcome not_started | B reports -> not_started | bus answers the report of B -> ok
        | B reads the answer to its report | B removes the folder | tick"""
    goes_wrong_without("R18", STUCK, run, also=["net"])


def test_r19_a_hint_during_an_ask_leads_to_another() -> None:
    run = """
        message | agent acks 1 | A gets the hint | A asks | bus answers A -> nothing_unread | B gets the hint | B asks
        | bus answers B -> nothing_unread | message | A gets the hint | A reads 204 | B gets the hint | B reads 204
        | tick"""
    goes_wrong_without("R19", STUCK, run, also=["net"])


def test_r20_a_watcher_never_stops_asking_for_good() -> None:
    run = """
        disk of A is copied to B | B watcher starts | B watcher subscribes | B is gone for good | message | tick"""
    goes_wrong_without("R20", STUCK, run)


def test_r21_no_ask_for_an_agent_that_has_a_granted_folder() -> None:
    run = f"""
        message | backup taken | A gets the hint | A asks | bus answers A -> wake 1
        | A stores the grant -> may start for 1 | bus restored from the backup; watchers reconnect
        | A starts the shim | A shim takes the lock | A command starts | A command ends ok | 3 ticks | A asks
        | bus answers A -> wake 1 | {A_READY} | A command starts"""
    goes_wrong_without("R21", STARTED_TWICE, run)


def test_r21a_keys_and_ids_of_before_a_restore_never_come_again() -> None:
    run = f"""
        message | backup taken | A gets the hint | A asks | bus answers A -> wake 1
        | A stores the grant -> may start for 1 | bus restored from the backup; watchers reconnect
        | A starts the shim | A shim takes the lock | A command starts | A command ends ok | 3 ticks | B asks
        | bus answers B -> wake 1 | {B_READY} | B command starts"""
    goes_wrong_without("R21a", STARTED_TWICE, run)


def test_r22_a_folder_from_another_machine_is_removed_without_a_word() -> None:
    run = f"""
        {A_GRANTED} | A stores the grant -> may start for 1 | disk of A is copied to B | A starts the shim
        | A shim takes the lock | A command starts | B watcher starts | B watcher subscribes | B starts the shim
        | B shim takes the lock | B shim: earlier boot, outcome interrupted | B reports -> interrupted
        | bus answers the report of B -> ok | B reads the answer to its report | B removes the folder | B asks | tick
        | {B_RUNS}"""
    goes_wrong_without("R22", TWO_AT_ONCE, run)


def test_r23_a_granted_folder_of_an_earlier_boot_is_never_started() -> None:
    run = f"""
        {A_RUNS} | A power cut | A watcher starts | A starts the shim | A shim takes the lock | A command starts"""
    goes_wrong_without("R23", STARTED_TWICE, run, also=["started"])


def test_r23_the_clock_since_boot_says_nothing_of_an_earlier_boot() -> None:
    run = f"""
        {A_GRANTED} | A stores the grant -> may start for 1 | A power cut | 3 ticks | bus sweeps | tick | B asks
        | {B_RUNS} | A watcher starts | A starts the shim | A shim takes the lock | A command starts"""
    goes_wrong_without("R23", TWO_AT_ONCE, run)


def test_a_start_that_an_earlier_shim_stored_is_never_made_again() -> None:
    run = f"""
        {A_RUNS} | A shim is killed | A starts the shim | A shim takes the lock | A command starts"""
    goes_wrong_without("started", STARTED_TWICE, run)


def test_r16_the_quiet_time_is_over_only_for_leases_that_are_no_longer_than_it_was() -> None:
    run = f"""
        message | backup taken | A asks | bus answers A -> wake 1 | {A_READY}
        | bus restored from the backup; watchers reconnect | tick | A command starts | tick | bus sweeps
        | bus crashes, restarts; watchers reconnect | B asks | bus answers B -> wake 1 | {B_READY} | B command starts"""
    goes_wrong_without("R16", TWO_AT_ONCE, run)
