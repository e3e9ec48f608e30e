"""Trainer processes, started fast: forked from one process that has imported torch."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from preflight.once import ProbeError
from smolplan.ports import free_port

PRELOADED = ("trainer.loop", "trainer.evaluate", "launcher.agent")


def rank_environments(ranks: int) -> list[dict[str, str]]:
    """What torchrun gives each of the ranks of a world on this machine."""
    shared = {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


class RankServer:
    """The process that ranks are forked from (preflight/probes/fork_server.py)."""

    def __init__(self, start: Callable[..., subprocess.Popen[str]]) -> None:
        """`start`: an interpreter's arguments and Popen's options → the process. Raises ProbeError
        if torch or the trainer cannot be imported."""
        self.process = start(
            ["-m", "preflight.probes.fork_server", *PRELOADED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        ready = self._answer()
        if "error" in ready:
            raise ProbeError(f"the trainer cannot be imported: {ready['error']}")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def start(
        self, module: str, arguments: list[str], environment: dict[str, str], output: Path
    ) -> "Child":
        """`python -m module arguments`, writing to output.stdout and output.stderr."""
        output.parent.mkdir(parents=True, exist_ok=True)
        stdout, stderr = (output.with_name(f"{output.name}.{s}") for s in ("stdout", "stderr"))
        answer = self._ask(
            {
                "module": module,
                "arguments": arguments,
                "environment": environment,
                "stdout": str(stdout),
                "stderr": str(stderr),
            }
        )
        return Child(answer["pid"], stdout, stderr, self._code)

    def start_ranks(
        self,
        module: str,
        arguments: list[str],
        ranks: int,
        output: Path,
        environment: Mapping[str, str] = {},
    ) -> list["Child"]:
        """One process a rank, in the environment that torchrun gives them."""
        return [
            self.start(
                module,
                arguments,
                {**environment, **own},
                output.with_name(f"{output.name}-rank-{rank}"),
            )
            for rank, own in enumerate(rank_environments(ranks))
        ]

    def _code(self, pid: int) -> int | None:
        code: int | None = self._ask({"pid": pid})["code"]
        return code

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError):
            raise ProbeError("the process that ranks are forked from is gone") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ProbeError("the process that ranks are forked from is gone")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Child:
    """A process forked by the server."""

    def __init__(
        self, pid: int, stdout: Path, stderr: Path, code: Callable[[int], int | None]
    ) -> None:
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self._ask = code
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code (negative: ended by that signal); None while it runs."""
        if self._code is None:
            self._code = self._ask(self.pid)
        return self._code

    def kill(self) -> None:
        # Until poll has its exit code it is at most a zombie, so the pid is still its own.
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def error_line(self) -> str:
        """What it wrote to stderr that tells most: the last line that names an error, or the
        last one."""
        try:
            lines = self.stderr.read_text("utf-8", "replace").split("\n")
        except OSError:
            return ""
        lines = [line.strip() for line in lines if line.strip()]
        # torchrun's own report comes last, and says no more than that a rank ended.
        errors = [
            line
            for line in lines
            if re.search(r"error\b", line, re.IGNORECASE) and "ChildFailedError" not in line
        ]
        return (errors or lines or ["it wrote nothing"])[-1]


def wait(children: list[Child], timeout_s: float) -> list[int]:
    """Exit codes of all. As soon as one fails the rest are killed, as torchrun's agent does.
    Raises ProbeError if they do not end in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        codes = [child.poll() for child in children]
        if any(codes) or time.monotonic() > deadline:
            kill(children)
        if time.monotonic() > deadline + 5:
            raise ProbeError("a killed process does not end")
        ended = [code for code in codes if code is not None]
        if len(ended) == len(children):
            if time.monotonic() > deadline:
                raise ProbeError(f"no end within {timeout_s:g} s")
            return ended
        time.sleep(0.01)


def kill(children: list[Child]) -> None:
    for child in children:
        child.kill()
