"""How an attempt ended: what its nodes say, and the causes that ranks name."""

import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from launcher.placement import read_placement
from launcher.store import state_folder
from smolplan.errors import ExitCode
from smolplan.rundir import RunDir, read_json, write_json

log = logging.getLogger("launcher.outcome")


def attempt_outcome(run: RunDir, attempt: int, failures: dict[str, int]) -> dict[str, Any]:
    """How a node's part ended whose ranks ended with `failures` (rank → code; negative: that
    signal). A rank that names its cause (64 and above) knows more than its neighbours, which died
    of a closed connection; so does one that a signal ended (the agent's own signals come later,
    to ranks that are not among `failures`)."""
    if not failures:
        return {"exit_code": 0, "failures": {}}
    told = {}
    for file in sorted(run.attempt(attempt).glob("rank-*.exit.json")):
        content = read_json(file) or {}
        if isinstance(content.get("exit_code"), int):
            told[content["exit_code"]] = str(content.get("cause", ""))
    code = _telling([*failures.values(), *told])
    outcome: dict[str, Any] = {"exit_code": code, "failures": failures}
    return {**outcome, "error": told[code]} if told.get(code) else outcome


def _telling(codes: list[int]) -> int:
    """The exit code that says most about why."""
    named = [code for code in codes if code >= ExitCode.BAD_SPEC]
    signalled = [code for code in codes if code < 0]
    return (named or signalled or codes)[0]


def knows_cause(outcome: dict[str, Any]) -> bool:
    """Whether an outcome is more than a rank's having lost its neighbours."""
    code = outcome.get("exit_code")
    return isinstance(code, int) and (code < 0 or code >= ExitCode.BAD_SPEC)


def _spare(token: str) -> Path:
    return state_folder() / "exits" / f"{token}.json"


def _node_token(token: str, node: int) -> str:
    return f"{token}.{node}"


def write_exit(run: RunDir, attempt: int, token: str, content: dict[str, Any]) -> None:
    """Put on record that an attempt was ended from outside, and why: in the run directory, or,
    where that is gone or cannot be written, in the state folder. Raises OSError if neither can
    be."""
    _write(run, attempt, run.attempt_exit(attempt), token, content)


def end_from_outside(run: RunDir, attempt: int, token: str, why: str) -> dict[str, Any] | None:
    """Put on record that an attempt is ended, and why, unless it has ended already: then how. Where
    it cannot be written that is logged, since the attempt has to be ended all the same."""
    ended = read_exit(run, attempt, token)
    if ended is None:
        try:
            write_exit(run, attempt, token, {"exit_code": None, "failures": {}, "error": why})
        except OSError as error:
            log.error("attempt %d of %s: %s", attempt, run, error.strerror)
    return ended


def write_node_exit(
    run: RunDir, attempt: int, token: str, node: int, content: dict[str, Any]
) -> None:
    """As write_exit, for how one node's part ended."""
    _write(run, attempt, run.node_exit(attempt, node), _node_token(token, node), content)


def _write(run: RunDir, attempt: int, path: Path, token: str, content: dict[str, Any]) -> None:
    content = {**content, "ended_at": time.time()}
    if run.spec.exists():
        try:
            run.begin_attempt(attempt)  # it may be ended before it was started
            write_json(path, content)
            return
        except OSError as error:
            log.error("%s: %s", path, error.strerror)
    spare = _spare(token)
    spare.parent.mkdir(parents=True, exist_ok=True)  # a host of a run may have no state folder
    write_json(spare, content)


def read_exit(run: RunDir, attempt: int, token: str) -> dict[str, Any] | None:
    """How an attempt ended; None if it has not. Its exit_code is an int, or None where it was
    ended from outside before it said anything itself. One node that failed ends it for all; it is
    well only once all are."""
    if ended := read_json(run.attempt_exit(attempt)) or read_json(_spare(token)):
        return _checked(ended)
    placement = read_placement(run, attempt)
    nodes = len(placement.hosts) if placement else 1
    outcomes = node_outcomes(run, attempt, token, range(nodes))
    failed = [content for content in outcomes.values() if content["exit_code"] != 0]
    if not failed:
        return next(iter(outcomes.values())) if len(outcomes) == nodes else None
    code = _telling([content["exit_code"] for content in failed])
    first = next(content for content in failed if content["exit_code"] == code)
    failures = {rank: c for content in failed for rank, c in content.get("failures", {}).items()}
    return {**first, "failures": failures}


def node_outcomes(
    run: RunDir, attempt: int, token: str, nodes: Iterable[int]
) -> dict[int, dict[str, Any]]:
    """How those of the nodes ended that have."""
    # Of thousands of nodes hardly one has: folders are listed, not each node's files tried.
    own, spare = run.node_exit(attempt, 0).parent, _spare("").parent
    told, told_spare = _names(own), _names(spare)
    found = {}
    for node in nodes:
        content = None
        if (name := f"{node}.exit.json") in told:
            content = read_json(own / name)
        if content is None and (name := f"{_node_token(token, node)}.json") in told_spare:
            content = read_json(spare / name)
        if content is not None:
            found[node] = _checked(content)
    return found


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return frozenset()


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    code = content.get("exit_code")
    return {**content, "exit_code": code if code is None or isinstance(code, int) else 1}


def describe_exit(content: dict[str, Any], host_of: Callable[[int], str] = lambda rank: "") -> str:
    """One clause about an exit.json: "rank 1 was ended by signal 9 on node2"; `host_of` gives a
    rank's host, where it is worth telling."""
    code, error = content.get("exit_code"), str(content.get("error", ""))
    if code is None:
        return error or "ended by the monitor"
    if code == ExitCode.OK:
        return "finished"
    if code >= ExitCode.BAD_SPEC and code in set(ExitCode):
        name = ExitCode(code).name.lower().replace("_", " ")
        return f"{name}: {error}" if error else name
    if error:
        return error
    failures = sorted(content.get("failures", {}).items(), key=lambda item: int(item[0]))
    clauses = [
        f"rank {rank} "
        + (f"was ended by signal {-value}" if value < 0 else f"exited with {value}")
        + (f" on {host}" if (host := host_of(int(rank))) else "")
        for rank, value in failures
    ]
    return ", ".join(clauses) or f"exited with {code}"


def cause_kind(exit_code: int | None) -> str:
    """A cause out of a short fixed list, as a metric's label needs it."""
    if exit_code is None:
        return "ended_by_monitor"
    if exit_code >= ExitCode.BAD_SPEC and exit_code in set(ExitCode):
        return ExitCode(exit_code).name.lower()
    return "killed" if exit_code < 0 else "crashed"


def last_log_lines(run: RunDir, attempt: int, count: int = 5) -> list[str]:
    """The last lines that the ranks of an attempt wrote, "rank-0: …", newest last."""
    lines = []
    for path in sorted((run.attempt(attempt) / "logs").glob("*.log")):
        try:
            with path.open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - 8192))
                tail = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            continue
        lines += [f"{path.stem}: {line[:200]}" for line in tail[-count:]]
    return lines
