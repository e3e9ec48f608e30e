"""Which rank holds the others up, from what each is at; and what real processes tell of that."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.backends.base import NodeView, Observation
from launcher.placement import Placement
from launcher.stacks import RankStack, collect, main_thread, read_stacks, tell_stacks
from monitor.detect.stuck import explained, judge
from monitor.policy import STACKS_S, Decision, decide
from monitor.view import Finding, Progress, StacksView
from smolplan.rundir import RunDir, write_json
from tests.monitor.test_policy import attempt, view
from tests.support import wait_until

C10D = "/venv/site-packages/torch/distributed/distributed_c10d.py"
LOOP = ("train", "/src/trainer/loop.py", 76)
WAITING = RankStack("S", "futex_wait", (("all_reduce", C10D, 3252), LOOP), "faulthandler")
READING = RankStack("S", "", (("batch", "/src/trainer/data/loader.py", 88), LOOP), "faulthandler")


def at(number: int, *, group: str = "0", waiting: bool = True) -> Progress:
    return Progress(group, f"group {group}", "all_reduce", number, waiting)


def test_the_one_that_is_in_no_collective_holds_up_those_that_are() -> None:
    verdict = judge({0: WAITING, 1: READING, 2: WAITING}, {})
    assert verdict.ranks == (1,)
    assert "batch (trainer/data/loader.py:88)" in verdict.told
    assert "2 others wait in train (trainer/loop.py:76)" in verdict.told


def test_a_stopped_rank_is_named_whatever_the_others_are_at() -> None:
    verdict = judge({0: READING, 1: RankStack("T", "", (), "")}, {0: (at(7),)})
    assert verdict.ranks == (1,)
    assert "stopped by a signal" in verdict.told


def test_on_a_device_where_all_seem_alike_the_flight_recorder_tells_who_is_behind() -> None:
    synchronising = RankStack("R", "", (("item", "/x/torch/_tensor.py", 1), LOOP), "faulthandler")
    recorded = {0: (at(57),), 1: (at(56, waiting=False),), 2: (at(57),)}
    verdict = judge(dict.fromkeys(range(3), synchronising), recorded)
    assert verdict.ranks == (1,)
    assert "did not come to all_reduce 57 of group 0" in verdict.told


def test_a_rank_that_is_behind_since_it_waits_for_another_is_a_victim() -> None:
    # Rank 1 cannot come to 9 of the outer group before 4 of the inner one, for which rank 2 lacks.
    recorded = {
        0: (at(9, group="outer"),),
        1: (at(8, group="outer", waiting=False), at(4, group="inner")),
        2: (at(3, group="inner", waiting=False),),
    }
    assert judge(dict.fromkeys(range(3), WAITING), recorded).ranks == (2,)


def test_a_rank_that_a_lost_one_left_alone_in_a_collective_is_a_victim() -> None:
    # Rank 2 is gone with its host: rank 0 got its last part of 54 from it, and rank 1 did not.
    verdict = judge({0: WAITING, 1: WAITING}, {0: (at(55),), 1: (at(54),)})
    assert verdict.ranks == ()
    assert "look at the network" in verdict.told


def test_where_all_wait_in_one_collective_no_rank_is_blamed() -> None:
    verdict = judge({0: WAITING, 1: WAITING}, {0: (at(7),), 1: (at(7),)})
    assert verdict.ranks == ()
    assert "look at the network" in verdict.told


def test_a_wait_in_the_kernel_is_told_with_its_function() -> None:
    stuck = replace(READING, state="D", waits_in="rpc_wait_bit_killable")
    assert "the kernel's rpc_wait_bit_killable" in judge({0: WAITING, 1: stuck}, {}).told


def test_a_deep_stack_that_was_cut_short_is_still_the_main_threads() -> None:
    text = (
        "Thread 0x1 (most recent call first):\n"
        '  File "/lib/threading.py", line 1002 in _bootstrap\n\n'
        "Current thread 0x2 (most recent call first):\n"
        '  File "/src/a.py", line 3 in f\n'
        "  ...\n"
    )
    assert main_thread(text) == [("f", "/src/a.py", 3)]


HANG = Finding("hang", "rank 0 has shown no progress", {"rank": 0})


def seen(**fields: Any) -> StacksView:
    base = StacksView(1.0, frozenset({1}), {0: WAITING, 1: READING}, {}, "attempts/1/stacks")
    return replace(base, **fields)


def test_a_hang_is_ended_once_its_stacks_are_told_or_have_been_waited_for_long_enough() -> None:
    assert decide(view(attempt(1)), (HANG,)).action == "ask_stacks"
    assert decide(view(attempt(1), stacks=seen()), (HANG,)).action == "wait"
    late = decide(view(attempt(1), stacks=seen(waited_s=STACKS_S)), (HANG,))
    assert late.action == "condemn"
    assert late.evidence["nodes_without_answer"] == [1]
    told = decide(view(attempt(1), stacks=seen(awaited=frozenset())), (HANG,))
    assert told.action == "condemn"
    assert told.evidence["at_fault"] == [1]


def test_a_host_that_told_nothing_leaves_the_hang_as_it_was_seen() -> None:
    silent = StacksView(STACKS_S, frozenset({0}), {}, {}, "")
    assert explained(HANG, silent).summary.startswith(HANG.summary)


def test_a_host_that_does_not_answer_is_the_cause_of_a_hang_where_no_rank_stands_out() -> None:
    def on_two_hosts(answers: bool, silent_s: float = 0.0, **more: Any) -> Decision:
        second = NodeView(1, "n2", answers, "", 0 if answers else 1, silent_s)
        nodes = Observation((NodeView(0, "n1", True), second))
        placed = Placement(("n1", "n2"), 1)
        stacks = seen(waited_s=STACKS_S, **more)
        return decide(view(attempt(1), observed=nodes, placement=placed, stacks=stacks), (HANG,))

    both = {0: WAITING, 1: WAITING}
    mute = on_two_hosts(False, awaited=frozenset({1}), ranks={0: WAITING})
    assert mute.hosts == {"n2": "unreachable"} and "n2 does not answer" in mute.cause
    assert on_two_hosts(False, awaited=frozenset(), ranks=both).hosts == {"n2": "unreachable"}
    assert not on_two_hosts(True, awaited=frozenset(), ranks=both).hosts
    assert on_two_hosts(True, 4.0, awaited=frozenset(), ranks=both).hosts == {"n2": "unreachable"}
    # Its SSH server may be gone for long, while a rank of the other host is at fault.
    other = on_two_hosts(False, awaited=frozenset(), ranks={0: READING, 1: WAITING})
    assert not other.hosts and "rank 0 on n1 is in no collective" in other.cause


RANK = """
import sys, time
from pathlib import Path
from trainer.stacks import tell_stack_on_signal

def loads():
    print("ready", flush=True)
    time.sleep(600)

if sys.argv[1] == "listens":
    tell_stack_on_signal(Path(sys.argv[2]))
loads()
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path)
    run.attempts.mkdir()
    run.begin_attempt(1)
    return run


def test_hung_processes_tell_where_they_are_and_none_is_ended_by_being_asked(
    run: RunDir, tmp_path: Path
) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    kinds = ["listens", "listens", "does not"]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "rank", kind, str(run.rank_stack(1, rank))],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        for rank, kind in enumerate(kinds)
    ]
    try:
        for process in ranks:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        ranks[1].send_signal(signal.SIGSTOP)
        wait_until(lambda: Path(f"/proc/{ranks[1].pid}/stat").read_text().split()[2] == "T")
        pids = {rank: process.pid for rank, process in enumerate(ranks)}
        write_json(run.stacks_request(1), {"request": "a"})
        tell_stacks(run, 1, 0, pids)
        told = read_stacks(run, 1, 0, "a")
        assert told is not None
        assert told[0].told_by == "faulthandler"
        assert told[0].frames[0][0] == "loads"
        assert told[1].state == "T"
        if os.geteuid() == 0:  # others may not be allowed to look into it
            assert (told[1].told_by, told[1].frames[0][0]) == ("py-spy", "loads")
        # Nobody may be ended who has not said that he handles the signal.
        assert all(process.poll() is None for process in ranks)
        assert read_stacks(run, 1, 0, "b") is None
        ranks[0].kill()
        ranks[0].wait()
        assert collect(run, 1, {0: ranks[0].pid})[0] == RankStack("", "", (), "")
    finally:
        for process in ranks:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
