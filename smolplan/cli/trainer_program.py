"""Programs of the trainer, run in a process of their own: they import torch."""

import subprocess
import sys
import tempfile
from collections.abc import Callable

from smolplan.errors import SmolplanError, UserError


def answer_of(module: str, arguments: list[str], say: Callable[[str], None]) -> list[str]:
    """Lines that `python -m module` writes to its output, while `say` is told those of its standard
    error. Raises SmolplanError in its words where it fails."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as answer:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert process.stderr is not None
        last = ""
        try:
            for line in process.stderr:
                last = line.strip() or last
                say(last)
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        answer.seek(0)
        lines = answer.read().splitlines()
    if code == 2:
        raise UserError(last.removeprefix("smolplan: "))
    if missing := last.partition("ModuleNotFoundError: ")[2]:
        raise UserError(
            f"the trainer is not installed here ({missing})",
            remedy="Install it: pip install 'smolplan[train]'",
        )
    if code:
        raise SmolplanError(f"{module} ended with exit code {code}: {last}")
    return lines
