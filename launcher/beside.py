"""What a supervisor does beside its ranks: it keeps the host's sampler at work, and has the ranks
tell where they are when that is asked for."""

import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from launcher.environment import HOST_VARIABLE
from launcher.placement import Placement
from launcher.processes import TOKEN_VARIABLE
from launcher.stacks import rank_processes, tell_stacks
from smolplan.lifetime import PARENT_VARIABLE
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec

log = logging.getLogger("launcher.beside")

LOOK_S = 0.5

SAMPLER_AGAIN_S = 10.0
"""Before a sampler that ended is started anew."""


def attend(run: RunDir, attempt: int, node: int, placement: Placement, spec: RunSpec) -> None:
    """For a thread of its own, with whose end the kernel ends the sampler."""
    command = sampler_command(run, attempt, node, placement, spec)
    sampler, started_at_s = None, float("-inf")
    while True:
        ended = sampler is None or sampler.poll() is not None
        if ended and time.monotonic() - started_at_s > SAMPLER_AGAIN_S:
            started_at_s = time.monotonic()
            sampler = _start(command)
        if run.stacks_request(attempt).exists():
            try:
                tell_stacks(run, attempt, node, rank_processes())
            except OSError as error:
                log.error("%s: %s", run.node_stacks(attempt, node), error.strerror)
        time.sleep(LOOK_S)


def sampler_command(
    run: RunDir, attempt: int, node: int, placement: Placement, spec: RunSpec
) -> list[str]:
    """A process of its own: what a sick driver does to it must not reach the ranks."""
    folders = dict.fromkeys(map(str, (run.path, *_caches(spec), Path(tempfile.gettempdir()))))
    return [
        *[sys.executable, "-P", "-m", "monitor.host", str(run.path), str(attempt)],
        *["--node", str(node), "--host", os.environ.get(HOST_VARIABLE) or placement.hosts[node]],
        *[word for rank in placement.ranks(node) for word in ("--rank", str(rank))],
        *[word for folder in folders for word in ("--folder", folder)],
        *(["--gpus"] if spec.cluster.gpu != "cpu" else []),
    ]


def _caches(spec: RunSpec) -> list[Path]:
    return [spec.data.cache_dir] if spec.data.cache_dir else []


def _start(command: list[str]) -> "subprocess.Popen[bytes] | None":
    # Without the attempt's token: a sampler that a sick driver holds in the kernel, where no signal
    # ends it, must not keep the attempt from being known to have ended.
    environment = {n: v for n, v in os.environ.items() if n != TOKEN_VARIABLE}
    environment[PARENT_VARIABLE] = str(os.getpid())
    try:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    except OSError as error:
        log.error("the sampler cannot be started: %s", error.strerror)
        return None
