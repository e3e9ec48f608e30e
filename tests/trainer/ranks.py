"""Programs on ranks of this machine, in the environment that torchrun gives them, forked of one
process that has imported torch: by themselves most would import for longer than they compute."""

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from preflight.ranks import RankServer, wait


@dataclass(frozen=True)
class Ended:
    codes: list[int]
    stdout: str
    """Of all ranks, one after the other."""
    stderr: str


@cache
def _server() -> RankServer:
    """It ends with this process, whose end it reads from."""

    def start(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, *arguments], text=True, **options)

    return RankServer(start)


def run_on_ranks(ranks: int, module: str, *arguments: str, timeout_s: float = 120.0) -> Ended:
    """`python -m MODULE ARGUMENT…` on each; where one fails the others are killed."""
    with TemporaryDirectory() as folder:
        children = _server().start_ranks(
            module, [*arguments], ranks, Path(folder) / "said", dict(os.environ)
        )
        codes = wait(children, timeout_s)
        stdout, stderr = (
            "".join(file.read_text("utf-8", "replace") for file in files)
            for files in zip(*((child.stdout, child.stderr) for child in children), strict=True)
        )
    return Ended(codes, stdout, stderr)


def on_ranks(ranks: int, program: str, *arguments: str, timeout_s: float = 120.0) -> None:
    """A program beside this file; fails if it does on a rank."""
    module = f"tests.trainer.{program}"
    ended = run_on_ranks(ranks, module, *arguments, timeout_s=timeout_s)
    assert not any(ended.codes), ended.stdout + ended.stderr[-2000:]
