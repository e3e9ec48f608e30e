"""`python -m trainer RUN --attempt K`, on every rank, under torchrun's environment."""

import argparse
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

from smolplan.errors import ExitCode, NamedExit, UserError
from smolplan.lifetime import die_with_parent
from smolplan.rundir import RunDir
from smolplan.spec import load_spec
from trainer.report import Reporter, fenced
from trainer.signals import StopFlag
from trainer.stacks import tell_collectives, tell_stack_on_signal

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

log = logging.getLogger("trainer")


def main() -> None:
    parser = argparse.ArgumentParser(description="One rank of a training run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    arguments = parser.parse_args()
    die_with_parent()
    rank = os.environ.get("RANK", "0")
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s rank {rank} %(levelname)s %(message)s",
    )
    run, attempt = RunDir(arguments.run), arguments.attempt
    report = Reporter(run, attempt, int(rank))
    try:
        _train(run, attempt, report)
    except (NamedExit, UserError) as error:
        code = error.exit_code if isinstance(error, NamedExit) else ExitCode.BAD_SPEC
        log.error("%s", error)
        report.ended(code, str(error))
        _leave(code)
    except BaseException:  # DCP's own exception is not an Exception
        log.exception("crashed")
        _leave(1)
    _leave(0)


def _train(run: RunDir, attempt: int, report: Reporter) -> None:
    spec = load_spec(run.spec)
    if missing := [name for name in TORCHRUN if name not in os.environ]:
        raise UserError(
            f"{', '.join(missing)} is not set",
            where="the environment",
            remedy="Start it by torchrun: python -m torch.distributed.run --nproc-per-node "
            f"{spec.parallel.ranks} -m trainer {run} --attempt {attempt}",
        )
    fenced(run, attempt)
    report.beat(0, "starting")
    rank = int(os.environ["RANK"])
    tell_stack_on_signal(run.rank_stack(attempt, rank))
    # Torch takes seconds to import: what can be said before is said before.
    from trainer.loop import train

    collectives = run.rank_collectives(attempt, rank)
    train(run, spec, attempt, report, StopFlag(lambda: tell_collectives(collectives)))


def _leave(code: int) -> None:
    """Not sys.exit: leaving the process group politely would wait for ranks that may be gone."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a full disk has no room for the log either: the code tells
            stream.flush()
    os._exit(int(code))


if __name__ == "__main__":
    main()
