"""`python -m monitor.evaluate_through RUN`: what is due is evaluated elsewhere, one checkpoint
after the other, each by a process that eval.through starts: as a rule, a job of its cluster.

This one waits for it on the machine that watches, and holds the lock of the run's evaluations:
between hosts of a shared file system a lock may not reach. When this process ends, however that
is, so does the standard input of the other, and the other with it (smolplan/lifetime.py); another
of this kind begins anew.
"""

import argparse
import logging
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.through import command, environment
from smolplan.checksums import checksum
from smolplan.errors import SmolplanError
from smolplan.evaluations_due import due
from smolplan.lifetime import ATTENDED
from smolplan.lock import hold
from smolplan.rundir import RunDir, read_json, write_json
from smolplan.spec import RunSpec, load_spec

log = logging.getLogger("monitor.evaluate_through")

FIRST_WAIT_S, LONGEST_WAIT_S = 60.0, 3600.0
"""Before the next try; it doubles from one to the other."""

REFUSED_S = 86_400.0
"""A checkpoint whose evaluation could not be begun for so long is given up."""

TRIES = 3
"""A checkpoint of which so many evaluations ended in their midst (killed, out of time) is given
up: each may have held a GPU for hours."""

SEEN_S = 60.0
"""On NFS a host may see what another has written only after that time (nfs(5), acdirmax)."""

LOOK_S = 1.0

SAID_BYTES, SAID_LINES, SAID_SIGNS = 8192, 3, 500
"""Of what the program said last, as much is put on record."""


@dataclass(frozen=True)
class Ended:
    """How the program of eval.through did."""

    code: int | None
    """None: it could not be started."""
    said: str


def evaluate_all(run: RunDir, spec: RunSpec) -> None:
    """Until nothing is due. Raises OSError where the run folder cannot be used."""
    broken: Counter[tuple[int, str]] = Counter()
    wait_s, refused_at_s, told = FIRST_WAIT_S, None, ""
    while steps := due(run, spec):
        run.evaluation_begun.unlink(missing_ok=True)
        ended = start_one(run, spec)
        outcome, step = what_came_of_it(run, spec, ended)
        if outcome == "done":
            wait_s, refused_at_s, told = FIRST_WAIT_S, None, ""
            continue
        step = steps[0] if step is None else step
        which = step, checksum(run, step) or ""
        if outcome == "broken":
            broken[which] += 1
            is_over, refused_at_s = broken[which] >= TRIES, None
        else:
            now_s = time.monotonic()
            refused_at_s = now_s if refused_at_s is None else refused_at_s
            is_over = now_s - refused_at_s >= REFUSED_S
        reason = _reason(spec, ended)
        log.error("step %d: %s", step, reason)
        kind = f"{outcome} {re.sub('[0-9]+', '#', reason)}"  # the number of a job is no news
        try:
            if is_over or kind != told:
                _tell(run, *which, reason, ended.code, is_over=is_over)
            told = "" if is_over else kind
            refused_at_s = None if is_over else refused_at_s
        except OSError as error:  # a full disk: no reason to try more often
            log.error("step %d: this cannot be told: %s", step, error)
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _tell(
    run: RunDir, step: int, made: str, reason: str, exit_code: int | None, *, is_over: bool
) -> None:
    """Put on record that a checkpoint could not be evaluated; `is_over`: and will not be tried
    again. Raises OSError."""
    failed = {"step": step, "reason": reason}
    if is_over:
        write_json(run.unevaluable(step), {**failed, "checkpoint": made})
    again = {} if is_over else {"tried_again": True}
    run.record("evaluation_failed", "monitor", **failed, exit_code=exit_code, **again)


def start_one(run: RunDir, spec: RunSpec) -> Ended:
    """Of the checkpoint that is the newest once it begins, which in a queue may take days."""
    words = command(spec, [str(run.path.absolute()), "--attended"])
    log.info("starting %s", words)
    with (run.evals / "log").open("ab") as output:
        before = output.tell()
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment()
            )
        except OSError as error:
            return Ended(None, error.strerror or str(error))
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended already, or never reads
        process.stdin.write(ATTENDED)
        process.stdin.flush()
    code = process.wait()
    with suppress(BrokenPipeError):
        process.stdin.close()
    return Ended(code, _last_lines(run.evals / "log", before))


def what_came_of_it(
    run: RunDir, spec: RunSpec, ended: Ended
) -> tuple[Literal["done", "broken", "refused"], int | None]:
    """Whether a checkpoint was evaluated, or its evaluation ended in the midst, or none was begun;
    and which step it was, where that is known."""
    deadline_s = time.monotonic() + (SEEN_S if ended.code == 0 else 0.0)
    while True:
        begun, left = read_json(run.evaluation_begun) or {}, due(run, spec)
        step: Any = begun.get("step")
        if not left or (step is not None and step not in left):
            return "done", step
        if ended.code != 0 or time.monotonic() >= deadline_s:
            return ("refused", None) if step is None else ("broken", step)
        time.sleep(LOOK_S)


def _reason(spec: RunSpec, ended: Ended) -> str:
    program = spec.eval.through[0]
    if ended.code is None:
        return f"{program} cannot be started: {ended.said}"
    if ended.code < 0:
        how = f"was ended by signal {-ended.code}"
    elif ended.code:
        how = f"ended with exit code {ended.code}"
    else:
        how = "ended with exit code 0, and no checkpoint was evaluated"
    return f"{program} {how}" + (f": {ended.said}" if ended.said else "")


def _last_lines(path: Path, before: int) -> str:
    """Of what was written behind `before`."""
    with path.open("rb") as file:
        file.seek(max(before, file.seek(0, 2) - SAID_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines[-SAID_LINES:])[-SAID_SIGNS:]


def main() -> int:
    parser = argparse.ArgumentParser(description="Have checkpoints of a run evaluated elsewhere.")
    parser.add_argument("run", type=Path)
    run = RunDir(parser.parse_args().run)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        spec = load_spec(run.existing().spec)
        if hold(run.evaluation_lock):
            evaluate_all(run, spec)
    except (SmolplanError, OSError) as error:
        sys.stderr.write(f"smolplan: {error}\n")
        return int(error.exit_code) if isinstance(error, SmolplanError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
