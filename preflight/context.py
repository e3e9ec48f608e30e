"""What a check may use: the spec, the plan, folders that vanish, and processes that end."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from launcher import through
from launcher.environment import meeting_interface, rank_environment
from launcher.processes import kill_by_token
from planner.plan import Plan
from preflight.once import Once, ProbeError
from smolplan.spec import RunSpec

if TYPE_CHECKING:
    from preflight.ranks import RankServer
    from preflight.real_steps import Steps
    from preflight.small_run import SmallRun

T = TypeVar("T")

Completed = subprocess.CompletedProcess[str]

PIPES: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
}


class Context:
    """One preflight. Closing it ends every process and removes every file that it made."""

    def __init__(
        self, spec: RunSpec, plan: Plan, runs_dir: Path, *, scripts: Sequence[Path] = ()
    ) -> None:
        self.scripts = tuple(scripts)
        """Of the user, to be read for what they delete."""
        self.spec = spec
        self.plan = plan
        self.runs_dir = runs_dir
        self._token = f"preflight-{secrets.token_hex(8)}"
        self._folders: list[Path] = []
        self._lock = threading.RLock()
        self._processes: dict[subprocess.Popen[str], str] = {}
        self._server: RankServer | None = None
        self._closed = False
        self._made: dict[str, Once[Any]] = {}
        self.storage = Once(self._nearest_folder)
        """The nearest folder to runs_dir that exists: it lies on the same file system. Raises
        ProbeError."""
        self.gpus = Once(lambda: self.probe("gpu", timeout_s=20.0))
        """What NVML says (preflight/probes/gpu.py). Raises ProbeError."""
        self.kernel_log = Once(lambda: self.probe("kernel_log", timeout_s=9.0))
        """What the kernel has said (preflight/probes/kernel_log.py). Raises ProbeError."""
        self.dataset_made = Once(self._made_data)
        """dataset.json of the spec's own text, if it was made before, whole or damaged; else None.
        Raises ProbeError and DataRefused."""
        self.dataset = Once(self._prepare_data)
        """The same, made now if it was not. Raises ProbeError and DataRefused."""
        self.small_run = Once(self._make_small_run)
        """The small training run that several checks look at. Raises ProbeError, and
        TrainingFailed if the trainer ends with an error."""
        self.real_steps = Once(self._make_real_steps)
        """The first steps of the run itself (preflight/real_steps.py), which may be TooLarge."""

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What several checks look at, made by the first of them under this name. Raises what
        making it raised."""
        with self._lock:
            made: Once[T] = self._made.setdefault(name, Once(make))
        return made()

    @property
    def local_ranks(self) -> int:
        """Ranks that this machine can be asked to run: one a GPU, or one a core, of those that
        the spec puts on one node."""
        wanted = min(self.spec.parallel.ranks, self.spec.cluster.gpus_per_node)
        if self.uses_gpus:
            return min(wanted, len(self.gpus()["devices"]))
        return min(wanted, max(2, os.cpu_count() or 2))

    @property
    def uses_gpus(self) -> bool:
        """Whether ranks started here would run on GPUs. Raises ProbeError."""
        return self.spec.cluster.gpu != "cpu" and bool(self.gpus()["devices"])

    def environment(self) -> dict[str, str]:
        """Of every process of this preflight: the spec's, and a token to find it again by."""
        meeting = meeting_interface("127.0.0.1", 0)
        return {**os.environ, **meeting, **rank_environment(self.spec, self._token)}

    def folder(self, parent: Path | None = None) -> Path:
        """A new folder that is removed at the end. Raises OSError if `parent` takes none."""
        with self._lock:
            if self._closed:
                raise ProbeError("the preflight was broken off")
            made = Path(tempfile.mkdtemp(prefix=".smolplan-preflight-", dir=parent))
            self._folders.append(made)
        return made

    def start(self, arguments: list[str], **options: Any) -> subprocess.Popen[str]:
        """A Python process that ends with this preflight, or with its check's deadline."""
        argv = [sys.executable, "-P", *arguments]
        return self._start(argv, env=self.environment(), **options)

    def _start(self, argv: list[str], **options: Any) -> subprocess.Popen[str]:
        with self._lock:
            if self._closed:
                raise ProbeError("the preflight was broken off")
            process = subprocess.Popen(
                argv, text=True, errors="replace", start_new_session=True, **options
            )
            self._processes[process] = threading.current_thread().name
        return process

    def run(self, arguments: list[str], timeout_s: float) -> Completed:
        """Run Python to its end. Raises ProbeError if it does not end in time."""
        return self._to_its_end(self.start(arguments, **PIPES), timeout_s)

    def run_through(self, arguments: list[str], timeout_s: float) -> Completed:
        """`python -m trainer.evaluate` to its end, where eval.through starts it. Raises UserError
        without such a program, and ProbeError if it does not end in time."""
        through.check_through(self.spec)
        argv = through.command(self.spec, arguments)
        process = self._start(argv, env=through.environment(), **PIPES)
        return self._to_its_end(process, timeout_s)

    def _to_its_end(self, process: subprocess.Popen[str], timeout_s: float) -> Completed:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ProbeError(f"no answer within {timeout_s:g} s") from None
        finally:
            self._end(process)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def probe(self, name: str, *arguments: str, timeout_s: float) -> dict[str, Any]:
        """The JSON object that `python -m preflight.probes.NAME` prints, or that a module with a
        dot in its name does. Raises ProbeError."""
        module = name if "." in name else f"preflight.probes.{name}"
        done = self.run(["-m", module, *arguments], timeout_s)
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = None
        if done.returncode or not isinstance(answer, dict):
            last = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
            raise ProbeError(last)
        return answer

    def server(self) -> "RankServer":
        """The process that ranks are forked from; started at first use."""
        from preflight.ranks import RankServer

        server = self._server
        if server is None or not server.alive:
            # Not under the lock: this takes seconds, and `abandon` must get through.
            server = self._server = RankServer(self.start)
        return server

    def _nearest_folder(self) -> Path:
        return Path(self.probe("storage", "nearest", str(self.runs_dir), timeout_s=5.0)["folder"])

    def _made_data(self) -> dict[str, Any] | None:
        from preflight.dataset import made

        return made(self)

    def _prepare_data(self) -> dict[str, Any]:
        from preflight.dataset import prepare

        return prepare(self)

    def _make_small_run(self) -> "SmallRun":
        from preflight.small_run import SmallRun

        return SmallRun(self)

    def _make_real_steps(self) -> "Steps":
        from preflight.real_steps import make_steps

        return make_steps(self)

    def abandon(self, check_name: str) -> None:
        """End what a check that is out of time has started."""
        with self._lock:
            mine = [p for p, owner in self._processes.items() if owner == check_name]
            if self._server is not None and self._server.process not in mine:
                mine.append(self._server.process)
        for process in mine:
            self._end(process)

    def _end(self, process: subprocess.Popen[str]) -> None:
        # Asked first, so that it removes what it has made. One in an uninterruptible read (a dead
        # NFS server) cannot be waited for.
        for number, patience_s in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 2.0)):
            if process.poll() is None:
                with suppress(OSError):
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(patience_s)
        with self._lock:
            self._processes.pop(process, None)

    def stop(self) -> None:
        """End all processes; from now on none is started, and no folder made."""
        with self._lock:
            self._closed = True
            processes, had_server = list(self._processes), self._server is not None
        for process in processes:
            self._end(process)
        if had_server:
            # torchrun puts its workers in sessions of their own.
            kill_by_token(self._token, timeout_s=5.0)

    def close(self) -> None:
        """End all processes, remove all folders. Safe to call twice."""
        self.stop()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
