"""A rank that cannot stop politely, and one whose agent is gone: neither outstays its welcome."""

import os
import signal
import subprocess
import sys

from launcher.processes import is_alive, process_name
from tests.support import wait_until

LISTENS = """
import sys, time
from trainer import signals
signals.STUCK_S = 0.3
stop = signals.StopFlag()
stop.listen()
print("ready", flush=True)
{then}
"""


def started(then: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENS.format(then=then)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_rank_stuck_in_a_collective_ends_by_itself_when_asked_to_stop() -> None:
    # As in a collective, the main thread sits in a call that no signal's handler gets out of.
    stuck = "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()"
    with started(stuck) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 1


def test_a_rank_that_agreed_with_the_others_has_all_the_time_it_needs() -> None:
    saves = "\n".join(
        [
            "while not stop.is_set(): time.sleep(0.01)",
            "stop.agreed(); time.sleep(1.5); sys.exit(7)",
        ]
    )
    with started(saves) as process:
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == 7


def test_patience_follows_the_longest_step() -> None:
    steps = "\n".join(
        [
            "for _ in range(2): stop.is_set(); time.sleep(0.5)",
            "print('stepped', flush=True)",
            "while not stop.is_set(): time.sleep(0.01)",
            "time.sleep(1.0); stop.agreed(); time.sleep(0.5); sys.exit(7)",
        ]
    )
    with started(steps) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stepped\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 7


def test_a_rank_that_is_asked_while_it_saves_is_not_taken_for_stuck() -> None:
    saves = "\n".join(
        [
            "stop.is_set()",
            "with stop.saving():",
            "    print('saving', flush=True); time.sleep(1.5)",
            "while not stop.is_set(): time.sleep(0.01)",
            "stop.agreed(); sys.exit(7)",
        ]
    )
    with started(saves) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "saving\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 7


def test_a_rank_dies_with_its_agent_however_that_dies() -> None:
    rank = "import time; from smolplan.lifetime import die_with_parent; die_with_parent(); "
    rank += "print('ready', flush=True); time.sleep(60)"
    agent = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); "
    agent += "print(p.pid, flush=True); p.wait()"
    with subprocess.Popen(
        [sys.executable, "-c", agent, rank], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        said = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
        (pid,) = (int(word) for word in said - {"ready"})
        name = process_name(pid)
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(name), timeout_s=10)


def test_a_rank_whose_agent_was_gone_before_it_could_ask_ends_at_once() -> None:
    rank = "import os, time; from smolplan.lifetime import die_with_parent, PARENT_VARIABLE\n"
    rank += "while os.getppid() == int(os.environ[PARENT_VARIABLE]): time.sleep(0.01)\n"
    rank += "print('orphan', flush=True); die_with_parent(); print('went on', flush=True)"
    agent = "import os, subprocess, sys; from smolplan.lifetime import PARENT_VARIABLE\n"
    agent += "os.environ[PARENT_VARIABLE] = str(os.getpid())\n"
    agent += "subprocess.Popen([sys.executable, '-c', sys.argv[1]]); os._exit(0)"
    done = subprocess.run(
        [sys.executable, "-c", agent, rank], stdout=subprocess.PIPE, text=True, timeout=20
    )
    assert done.stdout == "orphan\n"
