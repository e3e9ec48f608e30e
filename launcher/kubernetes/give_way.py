"""`python -P -m launcher.kubernetes.give_way RUN ATTEMPT --node-from VARIABLE`: what the kubelet
runs before it ends a pod that was preempted, evicted or deleted.

It has the ranks save a checkpoint and end, and waits for that. The kubelet sends its signals only
afterwards, or when the pod's grace period is over.
"""

import argparse
import os
import time
from pathlib import Path

from launcher.outcome import read_exit
from launcher.processes import TOKEN_VARIABLE
from smolplan.rundir import RunDir


def main() -> None:
    parser = argparse.ArgumentParser(description="Have an attempt's ranks save and end.")
    parser.add_argument("run", type=Path)
    parser.add_argument("attempt", type=int)
    parser.add_argument("--node-from", required=True)
    arguments = parser.parse_args()
    give_way(
        RunDir(arguments.run),
        arguments.attempt,
        os.environ.get(TOKEN_VARIABLE, ""),
        int(os.environ[arguments.node_from]),
    )


def give_way(run: RunDir, attempt: int, token: str, node: int) -> None:
    """Raises OSError if the ranks cannot be told."""
    if read_exit(run, attempt, token) is not None:
        return  # some node has failed, or all were ended from outside: nothing is left to save
    run.yield_request(attempt).touch()
    while not (run.node_exit(attempt, node).exists() or run.attempt_exit(attempt).exists()):
        time.sleep(0.2)


if __name__ == "__main__":
    main()
