"""`python -m monitor.track RUN TRACKER`: tell a tracker of a run while it goes on.

One process a run and tracker, started by the monitor and independent of it. It ends when nothing
has come for QUIET_S, or when the tracker fails; the monitor starts another when there is more, so
that no try inherits a library's state from the one before. It may be killed at any moment.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from monitor.track.follow import Follower, Sent
from monitor.track.sinks import open_sink
from smolplan.errors import SmolplanError
from smolplan.lock import hold
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, load_spec

log = logging.getLogger("monitor.track")

LOOK_S = 1.0
QUIET_S = 600.0

PAUSE_S = 60.0
"""After a failure, before the next process may try."""


def tell(run: RunDir, spec: RunSpec, tracker: str) -> None:
    """Until nothing comes any more. Raises OSError, and what the tracker raises."""
    sink = open_sink(tracker, run, spec, spec.log)
    follower = Follower(run, tracker, sink)
    news_at_s = time.monotonic()
    while run.spec.exists() and time.monotonic() - news_at_s < QUIET_S:
        if follower.look():
            news_at_s = time.monotonic()
        time.sleep(LOOK_S)
    sink.close()


def tell_of_trouble(run: RunDir, tracker: str, error: Exception) -> None:
    """By an event for each new reason. Raises OSError."""
    lines = str(error).splitlines()
    reason = f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
    log.warning("%s: %s", tracker, reason)
    sent = Sent.read(run, tracker)
    if sent.trouble != reason:
        run.record("tracker_failed", "monitor", tracker=tracker, reason=reason)
        sent.trouble = reason
        sent.write(run, tracker)


def main() -> int:
    parser = argparse.ArgumentParser(description="Tell a tracker of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("tracker")
    arguments = parser.parse_args()
    run, tracker = RunDir(arguments.run), arguments.tracker
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        spec = load_spec(run.spec)
        if not hold(run.tracking(tracker).with_suffix(".lock")):
            log.info("another process tells %s of %s already", tracker, run)
            return 0
        try:
            tell(run, spec, tracker)
        except Exception as error:  # a tracker may raise anything
            tell_of_trouble(run, tracker, error)
            time.sleep(PAUSE_S)
            return 1
    except (SmolplanError, OSError) as error:
        sys.stderr.write(f"smolplan: {error}\n")
        return int(error.exit_code) if isinstance(error, SmolplanError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
