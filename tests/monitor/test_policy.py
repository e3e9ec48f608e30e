import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.backends.base import NodeView, Observation
from launcher.placement import Placement
from launcher.slurm.record import TIME_LIMIT
from launcher.store import RESUMED, Attempt, Run
from monitor.collect.progress import ProgressTracker
from monitor.detect import detect
from monitor.policy import STACKS_S, Decision, decide
from monitor.view import RankView, RunView, StacksView
from smolplan.errors import ExitCode
from smolplan.rundir import Heartbeat, Phase
from smolplan.skipped import Skipped
from smolplan.spec.batch import BatchPhase, BatchSizes
from smolplan.spec.monitor import MonitorSpec

RUN = Run("r", Path("/nowhere"), "h", "active", "", None, True, 0.0, "", 1)
SETTINGS = MonitorSpec(hang_min_s=10, hang_step_multiple=5, crash_loop_limit=3)


def attempt(number: int, state: str = "running", **fields: Any) -> Attempt:
    values: dict[str, Any] = {
        "run_id": "r",
        "number": number,
        "token": "t",
        "state": state,
        "reason": "",
        "cause": "",
        "exit_code": None,
        "not_before": 0.0,
        "created_at": 0.0,
        "ended_at": None,
        "step_at_start": 0,
        "step_at_end": None,
    }
    return Attempt(**(values | fields))


def seen_as(alive: bool | None) -> Observation:
    return Observation((NodeView(0, "here", alive),))


def view(*attempts: Attempt, **fields: Any) -> RunView:
    ranks = {r: RankView(r, 5, "training", 0.1, 0.2) for r in range(2)}
    base = RunView(RUN, SETTINGS, attempts, time.time(), ranks, 2, seen_as(True), 0.1, 0.2)
    return replace(base, **fields)


def action(seen: RunView) -> str:
    return decide(seen, detect(seen)).action


def ended(number: int, code: int | None, *, start: int = 0, end: int = 0, **more: Any) -> Attempt:
    return attempt(number, "ended", exit_code=code, step_at_start=start, step_at_end=end, **more)


def test_a_run_that_makes_steps_is_left_alone() -> None:
    assert action(view(attempt(1))) == "wait"


def test_a_hung_rank_is_named_and_asked_where_it_is_before_its_attempt_is_ended() -> None:
    seen = view(attempt(1))
    late = replace(seen, ranks={**seen.ranks, 1: RankView(1, 4, "training", 11.0, 0.2)})
    decision = decide(late, detect(late))
    assert decision.action == "ask_stacks"
    assert "rank 1" in decision.reason
    nobody = StacksView(STACKS_S, frozenset({0}), {}, {}, "")
    assert action(replace(late, stacks=nobody)) == "condemn"


@pytest.mark.parametrize("phase", ["checkpointing", "evaluating", "starting", "finished"])
def test_a_long_checkpoint_or_evaluation_is_no_hang(phase: Phase) -> None:
    assert action(view(attempt(1), ranks={0: RankView(0, 5, phase, 60.0, 0.2)})) == "wait"


def test_the_limit_follows_the_runs_own_step_time() -> None:
    slow = {r: RankView(r, 5, "training", 60.0, 30.0) for r in range(2)}
    assert action(view(attempt(1), ranks=slow, step_s=30.0)) == "wait"


def test_blind_eyes_change_nothing() -> None:
    stuck = {0: RankView(0, 5, "training", 1e6, 0.2)}
    assert action(view(attempt(1), ranks=stuck, observed=seen_as(False), blind="EIO")) == "wait"


def test_a_vanished_supervisor_condemns_its_attempt() -> None:
    assert action(view(attempt(1), observed=seen_as(False))) == "condemn"


def test_an_exit_is_believed_before_any_detector() -> None:
    seen = view(attempt(1), observed=seen_as(False), exit={"exit_code": 0, "failures": {}})
    assert action(seen) == "end_attempt"


def test_a_finished_attempt_ends_the_run() -> None:
    decision = decide(view(ended(1, 0, cause="finished")), ())
    assert (decision.action, decision.end_state) == ("end_run", "finished")


@pytest.mark.parametrize(
    "code", [-9, 1, ExitCode.CHECKPOINT_STORAGE_LOST, ExitCode.NODE_UNFIT, None]
)
def test_a_crash_after_progress_is_restarted_after_a_short_pause(code: int | None) -> None:
    decision = decide(view(ended(1, code, end=10)), ())
    assert decision.action == "restart"
    assert decision.delay_s == SETTINGS.backoff_initial_s


@pytest.mark.parametrize("code", [ExitCode.BAD_SPEC, ExitCode.DATA_EXHAUSTED])
def test_a_cause_that_no_restart_cures_ends_the_run(code: int) -> None:
    decision = decide(view(ended(1, code, end=10)), ())
    assert (decision.action, decision.end_state) == ("end_run", "failed")


def test_the_pause_doubles_without_progress_and_a_crash_loop_ends() -> None:
    first = [ended(1, 1, end=10)]
    delays = []
    for number in (2, 3):
        first.append(ended(number, 1, start=10, end=8))
        delays.append(decide(view(*first), ()).delay_s)
    assert delays == [1.0, 2.0]
    first.append(ended(4, 1, start=10, end=10))
    decision = decide(view(*first), ())
    assert decision.action == "end_run"
    assert "3 attempts in a row" in decision.reason


def test_non_finite_loss_is_tried_once_more_then_rolled_back_then_ends_the_run() -> None:
    code = ExitCode.NON_FINITE_LOSS
    first, second = ended(1, code, end=7), ended(2, code, start=7, end=7)
    assert action(view(first)) == "restart"
    decision = decide(
        view(first, second, checkpoints=(4, 6), batches=BatchSizes((BatchPhase(0, 0, 2),))), ()
    )
    assert decision.action == "roll_back" and decision.roll_back is not None
    assert (decision.roll_back.from_step, decision.roll_back.attempt) == (4, 3)
    assert decision.roll_back.skip == Skipped(((2 * 4, 2 * (4 + 200) - 1),))
    # Decided, and its monitor was killed: the next one does the same, whatever it sees.
    later = view(first, second, roll_backs=(decision.roll_back,))
    assert decide(later, ()).roll_back == decision.roll_back
    again = view(first, second, ended(3, code, start=7, end=7), roll_backs=(decision.roll_back,))
    last = decide(again, ())
    assert last.action == "end_run" and "other batches" in last.reason


def test_a_stop_that_is_not_heeded_is_enforced_once_it_was_watched_for_long_enough() -> None:
    # Asked long ago by the wall clock, which may have been set, or the machine asleep.
    stopping = replace(RUN, stop_requested_at=time.time() - 1e4)
    assert action(view(attempt(1), run=stopping, stop_waited_s=1.0)) == "wait"
    assert action(view(attempt(1), run=stopping, stop_waited_s=1e4)) == "condemn"
    assert action(view(attempt(1, "planned"), run=stopping)) == "end_attempt"
    decision = decide(view(ended(1, ExitCode.STOPPED_ON_REQUEST), run=stopping), ())
    assert (decision.action, decision.end_state) == ("end_run", "stopped")


def test_an_attempt_waits_for_its_pause_to_pass() -> None:
    assert action(view(attempt(2, "planned", not_before=time.time() + 60))) == "wait"
    assert action(view(attempt(2, "planned"))) == "start"


def test_a_wall_clock_that_was_set_back_delays_no_restart() -> None:
    assert action(view(attempt(2, "planned", not_before=time.time() + 3600))) == "start"


def test_a_supervisor_that_never_reported_is_submitted_again_but_not_at_every_look() -> None:
    silent = view(attempt(1), ranks={}, observed=seen_as(None), attempt_idle_s=60.0)
    assert action(silent) == "start"
    assert action(replace(silent, submitted_s=1.0)) == "wait"
    assert action(replace(silent, submitted_s=30.0)) == "start"


def test_a_resume_by_hand_starts_the_count_of_fruitless_attempts_anew() -> None:
    crashed = [ended(n, 1) for n in (1, 2, 3)]
    assert action(view(*crashed)) == "end_run"
    assert action(view(*crashed, ended(4, 1, reason=RESUMED))) == "restart"


def test_a_daemon_that_was_paused_counts_no_idle_time_for_its_absence() -> None:
    tracker = ProgressTracker(1, 0.0, blind_gap_s=5.0)
    beat = Heartbeat(1, 0, "h", 1, 3, "training", 0.0, 0.0, 0.2)
    tracker.look({0: beat}, 1.0)
    tracker.look({0: beat}, 3.0)
    assert tracker.ranks[0].idle_s == 2.0
    tracker.look({0: beat}, 1000.0)
    assert tracker.ranks[0].idle_s == 2.0
    tracker.look({0: beat}, 1001.0)
    assert tracker.ranks[0].idle_s == 3.0


def test_heartbeats_of_an_earlier_attempt_do_not_count() -> None:
    tracker = ProgressTracker(2, 0.0, blind_gap_s=5.0)
    tracker.look({0: Heartbeat(1, 0, "h", 1, 3, "training", 0.0, 0.0, 0.2)}, 1.0)
    assert tracker.ranks == {}
    assert tracker.idle_s == 1.0


PLACED = Placement(("n1", "n2"), 1)


def fleet(*states: bool | None, silent_s: float = 0.0, **fields: Any) -> RunView:
    nodes = tuple(
        NodeView(i, f"n{i + 1}", alive)
        if alive is not None
        else NodeView(i, f"n{i + 1}", None, "no route", probes_failed=9, silent_s=silent_s)
        for i, alive in enumerate(states)
    )
    return view(attempt(1), observed=Observation(nodes), placement=PLACED, **fields)


def test_a_host_that_is_silent_while_the_run_stands_still_is_lost_and_left_out() -> None:
    seen = fleet(True, None, silent_s=31.0, attempt_idle_s=31.0)
    decision = decide(seen, detect(seen))
    assert decision.action == "condemn" and decision.hosts == {"n2": "unreachable"}
    assert "n2 has not answered for 31 s (no route)" in decision.reason


def test_no_host_is_blamed_for_a_silent_end_where_nobody_can_write() -> None:
    seen = fleet(True, False, unwritable="/runs: No space left on device")
    decision = decide(seen, detect(seen))
    assert decision.action == "condemn" and not decision.hosts
    assert "could not say why: /runs: No space left on device" in decision.cause
    assert decide(fleet(True, False), detect(fleet(True, False))).hosts == {"n2": "gone"}


def test_ranks_that_lost_a_neighbour_and_know_no_more_are_no_cause_where_its_host_is_silent() -> (
    None
):
    def ended_with(code: int, *states: bool | None) -> Decision:
        crash = {"exit_code": code, "failures": {"0": code}}
        return decide(fleet(*states, silent_s=2.0, exit=crash), ())

    alone = ended_with(1, True, None)
    assert alone.cause == "rank 0 exited with 1 on n1; n2 does not answer"
    assert alone.hosts == {"n2": "unreachable"}
    # Who knows the cause says it; and where no host answers, it may be us.
    assert ended_with(-9, True, None).hosts == {"n1": "killed"}
    assert not ended_with(1, None, None).hosts


@pytest.mark.parametrize(
    "seen",
    [
        fleet(True, None, silent_s=31.0, attempt_idle_s=0.2),  # its ranks go on
        fleet(True, None, silent_s=5.0, attempt_idle_s=31.0),  # not for long
        fleet(None, None, silent_s=31.0, attempt_idle_s=31.0),  # all: it may be us
    ],
)
def test_a_silent_host_alone_is_no_fault(seen: RunView) -> None:
    assert action(seen) == "wait"


def test_a_supervisor_that_is_gone_on_one_host_condemns_the_attempt_and_names_the_host() -> None:
    seen = fleet(True, False)
    decision = decide(seen, detect(seen))
    assert decision.action == "condemn" and decision.hosts == {"n2": "gone"}
    assert "n2" in decision.reason


def test_the_host_of_a_rank_that_a_signal_ended_is_named_and_left_out() -> None:
    killed = {"exit_code": -9, "failures": {"0": 1, "1": -9}}
    decision = decide(fleet(True, True, exit=killed), ())
    assert decision.action == "end_attempt" and decision.hosts == {"n2": "killed"}
    assert decision.cause.endswith("on n2")
    crashed = decide(fleet(True, True, exit={"exit_code": 1, "failures": {"0": 1}}), ())
    assert crashed.hosts == {}


def test_what_a_scheduler_holds_back_does_not_hang() -> None:
    waiting = view(
        attempt(1), ranks={}, observed=Observation(waiting="Resources"), attempt_idle_s=1e6
    )
    assert action(waiting) == "wait"


def test_what_a_scheduler_holds_or_has_not_taken_is_neither_hung_nor_gone() -> None:
    stuck = {"ranks": {}, "attempt_idle_s": 1e6}
    for seen in (Observation(waiting="pending"), Observation(settling="completing")):
        assert action(view(attempt(1), observed=seen, **stuck)) == "wait"
    stopping = replace(RUN, stop_requested_at=1.0)
    untaken = view(attempt(1), observed=Observation(submitted=False), **stuck)
    assert action(untaken) == "start"
    assert action(replace(untaken, submitted_s=1.0)) == "wait"
    assert action(replace(untaken, run=stopping)) == "condemn"
    completing = view(attempt(1), observed=Observation(settling="completing"), **stuck)
    assert action(replace(completing, run=stopping)) == "wait"


def test_time_in_a_queue_is_no_time_without_a_sign_of_life() -> None:
    tracker = ProgressTracker(1, 0.0, blind_gap_s=1e9)
    tracker.look({}, 3600.0)
    assert tracker.idle_s == 3600.0
    tracker.start_anew()
    tracker.look({}, 3605.0)
    assert tracker.idle_s == 5.0


def test_how_a_scheduler_says_that_it_ended_is_the_cause_and_blames_no_host() -> None:
    over = Observation((NodeView(0, "a", False), NodeView(1, "b", False)), over="ended: TIMEOUT")
    seen = view(attempt(1), observed=over, placement=Placement(("a", "b"), 1))
    decision = decide(seen, detect(seen))
    assert (decision.action, decision.cause, decision.hosts) == ("condemn", "ended: TIMEOUT", {})


def test_jobs_whose_time_is_too_short_for_one_step_are_not_repeated_for_ever() -> None:
    short = [ended(n, None, start=4, end=4, cause=TIME_LIMIT) for n in (1, 2, 3)]
    assert action(view(*short[:2], attempt(3))) == "wait"
    assert action(view(*short, attempt(4))) == "condemn"
    cause = decide(view(*short, attempt(4)), ()).cause
    decision = decide(view(*short, ended(4, None, start=4, end=4, cause=cause)), ())
    assert (decision.action, decision.end_state) == ("end_run", "failed")
    assert "3 jobs in a row reached the time limit" in decision.reason
    preempted = [replace(a, cause="node failure or preemption") for a in short]
    assert action(view(*preempted, attempt(4))) == "wait"
