"""How an attempt ended: exit.json and the causes that ranks name."""

from typing import Any

from smolplan.errors import ExitCode
from smolplan.rundir import RunDir, read_json


def attempt_exit_code(run: RunDir, attempt: int, failures: dict[str, int]) -> int:
    """The exit code of an attempt whose ranks ended with `failures` (rank → code; negative: that
    signal). A rank that names its cause (64 and above) knows more than its neighbours, which died
    of a closed connection; so does one that a signal ended (the agent's own signals come later,
    to ranks that are not among `failures`)."""
    codes = list(failures.values())
    for file in sorted(run.attempt(attempt).glob("rank-*.exit.json")):
        content = read_json(file)
        if content is not None:
            codes.append(int(content.get("exit_code", 1)))
    named = [code for code in codes if code >= ExitCode.BAD_SPEC]
    signalled = [code for code in codes if code < 0]
    return (named or signalled or codes or [1])[0]


def describe_exit(content: dict[str, Any]) -> str:
    """One clause about an exit.json: "rank 1 was ended by signal 9"."""
    code = int(content.get("exit_code", 1))
    if code == ExitCode.OK:
        return "finished"
    if code >= ExitCode.BAD_SPEC and code in set(ExitCode):
        return ExitCode(code).name.lower().replace("_", " ")
    if "error" in content:
        return str(content["error"])
    failures = sorted(content.get("failures", {}).items(), key=lambda item: int(item[0]))
    clauses = [
        f"rank {rank} " + (f"was ended by signal {-value}" if value < 0 else f"exited with {value}")
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
