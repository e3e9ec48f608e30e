"""What starts an evaluation elsewhere: the words of eval.through, and the command after them."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher.environment import outside_of_jobs
from smolplan.errors import UserError
from smolplan.spec import RunSpec


def command(spec: RunSpec, arguments: Sequence[str]) -> list[str]:
    """`python -m trainer.evaluate ARGUMENTS` there, by the interpreter of the run's hosts."""
    words = list(spec.eval.through)
    python = str(spec.launch.python or sys.executable)
    program = [python, "-P", "-m", "trainer.evaluate", *arguments]
    if any(Path(word).name == "ssh" for word in words):
        # It puts them together with blanks, for a shell of the other host to take apart.
        program = [shlex.quote(word) for word in program]
    return [*words, *program]


def environment() -> dict[str, str]:
    """This process's, without what it says of this machine's GPUs, and of a job that this is."""
    own = outside_of_jobs(os.environ) if "SLURM_JOB_ID" in os.environ else dict(os.environ)
    own.pop("CUDA_VISIBLE_DEVICES", None)
    return own


def check_through(spec: RunSpec) -> None:
    """Raises UserError if this machine lacks the program."""
    words = spec.eval.through
    if words and shutil.which(words[0]) is None:
        raise UserError(
            f"there is no program {words[0]!r} here",
            where="eval.through",
            remedy="Name one that starts evaluations from this machine, each argument a word of "
            "its own, as [srun, --gpus=1].",
        )
