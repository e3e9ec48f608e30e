"""A supervisor sees to it that its run has a forge on this host."""

import logging
import os
import subprocess
import sys

from launcher.forge.meeting import connect
from launcher.processes import TOKEN_VARIABLE
from smolplan.lifetime import PARENT_VARIABLE
from smolplan.rundir import RunDir

ROOM = "_" * 256

log = logging.getLogger("launcher.forge")


def forge_command(run: RunDir) -> list[str]:
    """Arguments of an interpreter that is to be the run's forge; a second one on a host ends at
    once."""
    return ["-P", "-m", "launcher.forge.server", str(run.path), "--room", ROOM]


def start_forge(run: RunDir, *, tied: bool) -> None:
    """Start it if there is none; it is to outlive this process unless `tied` to it. Without one
    all goes on, only slower."""
    if sys.platform != "linux":
        return
    if (there := connect(run.path)) is not None:
        there.close()
        return
    # Without the attempt's token: it is no part of it, and stays for the next.
    environment = {n: v for n, v in os.environ.items() if n != TOKEN_VARIABLE}
    environment[PARENT_VARIABLE] = str(os.getpid())
    try:
        subprocess.Popen(
            [sys.executable, *forge_command(run), *(["--tied"] if tied else [])],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            # What was handed to this process to keep the code from being swept is handed on.
            close_fds=False,
        )
    except OSError as error:
        log.warning("no forge: %s", error.strerror)
