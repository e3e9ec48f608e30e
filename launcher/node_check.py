"""Whether the nodes of an attempt are fit for it, asked on each before any rank starts.

Where a scheduler chooses the nodes nobody can check them beforehand, so that they check themselves:
preflight's quick checks of one host, in a process of their own, which leaves its report in the
attempt's folder. Nobody starts ranks before all reports are there and none has a required check
that failed.
"""

import logging
import os
import subprocess
import sys
import time
from contextlib import suppress

from launcher.processes import TOKEN_VARIABLE
from smolplan.rundir import RunDir, read_json, write_json

log = logging.getLogger("launcher.node_check")

LONGEST_S = 180.0
"""A node's quick checks are to take less than 30 s; each of them has a deadline of its own. What
has given no report by then is unknown, and nothing is known against the node."""

CLEAN_UP_S = 15.0
RECORD_S = 30.0
"""For putting reports on record, which takes a second or two. A monitor that waits longer than its
lease lasts takes it up again, or finds that another has."""

LOOK_S = 0.2


def check_node(run: RunDir, attempt: int, node: int, host: str) -> None:
    """Have this node checked; its report is in the attempt's folder afterwards. Raises OSError if
    that cannot be written."""
    # Not of the attempt: it ends by itself when its standard input does, and clears up.
    environment = {n: v for n, v in os.environ.items() if n != TOKEN_VARIABLE}
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [
            *[sys.executable, "-P", "-m", "preflight.node"],
            *[str(run.path), str(attempt), str(node), host],
        ],
        env=environment,
        stdin=reading,
        start_new_session=True,
    )
    os.close(reading)
    why = ""
    try:
        if code := process.wait(LONGEST_S):
            why = f"preflight ended with exit code {code}"
    except subprocess.TimeoutExpired:
        why = f"preflight gave no report within {LONGEST_S:g} s"
    finally:
        os.close(writing)
        with suppress(subprocess.TimeoutExpired):
            process.wait(CLEAN_UP_S)
        process.kill()
    if why:
        log.warning("node %d, %s, is not checked: %s", node, host, why)
        write_json(run.node_check(attempt, node), {"host": host, "unknown": why})


def await_all(run: RunDir, attempt: int, nodes: int) -> None:
    """Until every node's report is there. Whoever ends the attempt ends the process that waits."""
    missing = list(range(nodes))
    while missing := [node for node in missing if not run.node_check(attempt, node).exists()]:
        time.sleep(LOOK_S)


def told_unfit(run: RunDir, attempt: int, nodes: int) -> str:
    """Which required checks failed, and where, in a clause; empty if none did."""
    clauses = [
        f"{result['name']} failed on {result['host']} ({result['why'] or result['summary']})"
        for node in range(nodes)
        for result in (read_json(run.node_check(attempt, node)) or {}).get("results", ())
        if result["state"] == "fail" and result["severity"] == "required"
    ]
    return "; ".join(clauses[:3]) + (f"; and {len(clauses) - 3} more" if clauses[3:] else "")


def put_on_record(run: RunDir, attempt: int, nodes: int, *, over: bool) -> bool:
    """Have what an attempt's nodes found of themselves put on the hosts' record, once all have
    reported; with `over`, what is there, since there will be no more. True when that is done, or
    was tried in vain; done again without harm."""
    if run.checks(attempt).exists():
        return True
    if not run.node_check(attempt, 0).parent.is_dir():
        return False
    if not over and not all(run.node_check(attempt, node).exists() for node in range(nodes)):
        return False
    command = [sys.executable, "-P", "-m", "preflight.nodes", str(run.path), str(attempt)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RECORD_S
        )
        trouble = done.stderr.strip().rpartition("\n")[2] if done.returncode else ""
    except subprocess.TimeoutExpired:
        trouble = f"no answer within {RECORD_S:g} s"
    if trouble:
        log.error("attempt %d of %s: its checks are not on record: %s", attempt, run, trouble)
    return True
