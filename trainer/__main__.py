"""`python -m trainer RUN --attempt K`, on every rank, under torchrun's environment."""

import argparse
import logging
import os
import sys
from pathlib import Path

from trainer.signals import StopFlag, die_with_parent


def main() -> None:
    parser = argparse.ArgumentParser(description="One rank of a training run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    arguments = parser.parse_args()
    die_with_parent()
    stop = StopFlag()
    stop.listen()

    from smolplan.errors import ExitCode, NamedExit, UserError
    from smolplan.rundir import RunDir
    from smolplan.spec import load_spec

    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s rank {os.environ.get('RANK', '0')} %(levelname)s %(message)s",
    )
    log = logging.getLogger("trainer")
    run = RunDir(arguments.run)
    from trainer.report import Reporter

    report = Reporter(run, arguments.attempt, int(os.environ.get("RANK", "0")))
    try:
        from trainer.loop import train

        train(run, load_spec(run.spec), arguments.attempt, report, stop)
        _leave(0)
    except (NamedExit, UserError) as error:
        code = error.exit_code if isinstance(error, NamedExit) else ExitCode.BAD_SPEC
        log.error("%s", error)
        report.ended(code, str(error))
        _leave(code)
    except Exception:
        log.exception("crashed")
        _leave(1)


def _leave(code: int) -> None:
    """End at once. Taking the process group down politely waits for ranks that may be gone, and
    gloo aborts a rank whose neighbour went down first."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))


if __name__ == "__main__":
    main()
