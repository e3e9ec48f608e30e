"""`python -m preflight.probes.agent RANKS PORT ARGUMENTS`: run `python ARGUMENTS` on ranks of this
machine, as a launch runs the trainer. Exit code 1 if one failed."""

import os
import sys

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs

from launcher.agent import Node, run_ranks


def main() -> int:
    ranks, port, *arguments = sys.argv[1:]
    failures = run_ranks(
        arguments,
        ranks=int(ranks),
        name=f"preflight-{os.getpid()}",
        logs=DefaultLogsSpecs(os.devnull),
        node=Node(port=int(port)),
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
