"""`python -m benchmarks.chaos --faults N --seed S`: break a run at random moments and see whether
it ends as an undisturbed one does, bit for bit. Exit 0 if so, 1 if not.

With `--hosts H`, on so many hosts with links, processes and SSH servers of their own, and a spare:
23 kinds of faults, and of what is none; how soon each is seen and got over (needs root). With
`--torchrun` besides, the goodput of smolplan and of torchrun by itself under the same faults.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.chaos import beside_torchrun, many_hosts, one_machine
from benchmarks.chaos.faults import KINDS
from tests.lab.namespaces import missing


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="of one machine")
    parser.add_argument("--hosts", type=int, default=0, help="that train; one more is the spare")
    parser.add_argument("--torchrun", action="store_true", help="goodput beside torchrun")
    parser.add_argument("--kind", action="append", default=[], help="of fault; may be given again")
    parser.add_argument(
        "--steps",
        type=int,
        default=100,
        help="for each fault, with --hosts: a slow machine makes "
        "fewer while it is disturbed, and the rest when it is not",
    )
    parser.add_argument(
        "--keep", type=Path, help="folder of results: the table is then of all that are there"
    )
    parser.add_argument("--write", type=Path, help="document whose section is written anew")
    told = parser.parse_args()
    if not told.hosts:
        return one_machine.run(told.faults, told.seed, as_json=told.json)
    if why := missing():
        print(f"--hosts: {why}", file=sys.stderr)
        return 2
    if unknown := set(told.kind) - KINDS.keys():
        print(
            f"--kind: there is no {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}",
            file=sys.stderr,
        )
        return 2
    if told.torchrun:
        return beside_torchrun.run(told.hosts, told.faults, told.seed, told.write)
    return many_hosts.run(
        told.hosts,
        told.faults,
        told.seed,
        told.kind,
        steps=told.steps,
        keep=told.keep,
        write=told.write,
    )


if __name__ == "__main__":
    sys.exit(main())
