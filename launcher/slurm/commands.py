"""Slurm's own commands, each with a deadline. SlurmError: the scheduler did not answer, so nothing
is known of the job."""

import subprocess
from collections.abc import Mapping, Sequence

from launcher.slurm.state import QUEUE_FORMAT, Job, parse_config, parse_fields, parse_queue
from smolplan.errors import SmolplanError, UserError

DEADLINE_S = 30.0


class SlurmError(SmolplanError):
    """A command of Slurm's failed, or did not answer."""


class SlurmSilent(SlurmError):
    """Its controller does not answer."""


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    timeout_s: float = DEADLINE_S,
) -> str:
    """Its output. Raises SlurmError, and UserError if there is no such command here."""
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise UserError(
            f"there is no {argv[0]} here",
            where="launch.backend slurm",
            remedy="Launch from a node of the Slurm cluster.",
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmSilent(f"{argv[0]} gave no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise SlurmError(f"{argv[0]}: {error.strerror}") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise SlurmError(said[:500])
    return done.stdout


def answers() -> bool:
    """Whether a controller of the cluster is up."""
    try:
        said = run(["scontrol", "ping"])
    except SlurmError:
        return False
    return any(line.endswith(" is UP") for line in said.splitlines())


def find_job(number: str, *, timeout_s: float = DEADLINE_S) -> Job | None:
    """The job as it stands; None if Slurm no longer knows it (it forgets ended ones after
    MinJobAge). Raises SlurmError."""
    try:
        said = run(_squeue("--jobs", number, "--states=all"), timeout_s=timeout_s)
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    return next((job for job in parse_queue(said) if job.number == number), None)


def own_jobs(*, timeout_s: float = DEADLINE_S) -> list[Job]:
    """All jobs of this user that Slurm still knows. Raises SlurmError."""
    return parse_queue(run(_squeue("--me", "--states=all"), timeout_s=timeout_s))


def _squeue(*options: str) -> list[str]:
    # --array: a line for each task of a job array, by its own name.
    return ["squeue", "--noheader", "--array", f"--format={QUEUE_FORMAT}", *options]


def host_names(node_list: str) -> list[str]:
    """ "node[1-3]" → the names in it, in Slurm's order. Raises SlurmError."""
    return run(["scontrol", "show", "hostnames", node_list]).split()


def node_address(name: str) -> str:
    """By which Slurm reaches a node. Raises SlurmError."""
    fields = parse_fields(run(["scontrol", "--oneliner", "show", "node", name]))
    return fields.get("NodeAddr", name)


def config() -> dict[str, str]:
    """The cluster's settings, names in lower case. Raises SlurmError."""
    return parse_config(run(["scontrol", "show", "config"]))
