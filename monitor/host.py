"""`python -m monitor.host RUN ATTEMPT --node I`: what a host and its GPUs are like, each second.

Started by the supervisor of the node, and ended with it. Nothing that it looks at can hold it up: a
source that does not answer is told to be blind, and the others go on.
"""

import argparse
import logging
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitor.collect import machine
from monitor.collect.host_sample import GpuSample, HostSample, write_host_sample
from monitor.collect.kernel import KernelLines
from monitor.collect.source import Source
from smolplan.lifetime import die_with_parent
from smolplan.rundir import RunDir

if TYPE_CHECKING:
    from monitor.collect.nvml import Nvml

log = logging.getLogger("monitor.host")

EVERY_S = 1.0


class Sampler:
    """The sources of one host, and what they tell together."""

    def __init__(
        self,
        run: RunDir,
        attempt: int,
        node: int,
        *,
        host: str = "",
        ranks: tuple[int, ...] = (),
        folders: tuple[str, ...] = (),
        gpus: bool = False,
    ) -> None:
        self._run, self._attempt, self._node = run, attempt, node
        self._host = host or socket.gethostname()
        self.kernel = KernelLines()
        self._log = Source("kernel log", self.kernel.look, every_s=0.01)
        self._memory = Source("memory", machine.memory, every_s=EVERY_S)
        self._network = Source("network", machine.interfaces, every_s=10.0)
        self._clock = Source("clock", machine.clock, every_s=60.0)
        self._hung = Source("processes", machine.HungProcesses().look, every_s=60.0)
        ranks_memory = machine.RankMemory(run, attempt, ranks)
        self._ranks = Source("ranks", ranks_memory.look, every_s=10.0)
        self._disks = [
            Source(f"disk {folder}", lambda folder=folder: machine.disk(folder), every_s=10.0)  # type: ignore[misc]
            for folder in folders
        ]
        self._gpus = _gpus(self.kernel) if gpus else None

    def _sources(self) -> list[Source[Any]]:
        own = [self._log, self._memory, self._network, self._clock, self._hung, self._ranks]
        return [*own, *self._disks, *(self._gpus.sources if self._gpus else ())]

    def sample(self) -> HostSample:
        gpus = self._gpus.samples() if self._gpus else ()
        disks = [source.value for source in self._disks]
        blind = [source.blindness() for source in self._sources()]
        return HostSample(
            host=self._host,
            node=self._node,
            time=time.time(),
            attempt=self._attempt,
            **(self._memory.value or {}),
            hung_processes=self._hung.value or (),
            gpus=tuple(self.kernel.with_xids(gpu) for gpu in gpus),
            disks=tuple(disk for disk in disks if disk is not None),
            interfaces=self._network.value or (),
            clock=self._clock.value,
            ranks=self._ranks.value or (),
            kernel=tuple(self.kernel.lines),
            blind=tuple(one for one in blind if one is not None),
        )

    def go(self) -> None:
        """For ever."""
        trouble = ""
        while True:
            self.kernel.news.clear()
            try:
                write_host_sample(self._run, self.sample())
                trouble = ""
            except FileNotFoundError:  # the run folder is gone, and with it who would read
                return
            except OSError as error:
                if trouble != (trouble := str(error)):
                    log.error("%s", error)
            self.kernel.news.wait(EVERY_S)


class _NoNvml:
    """In place of NVML, on a host that lacks nvidia-ml-py."""

    def __init__(self, why: str) -> None:
        def tell() -> None:
            raise RuntimeError(why)

        self.sources = [Source("nvml", tell, every_s=60.0)]

    def samples(self) -> tuple[GpuSample, ...]:
        return ()


def _gpus(kernel: KernelLines) -> "Nvml | _NoNvml":
    try:
        from monitor.collect.nvml import Nvml
    except ImportError as error:
        return _NoNvml(str(error))
    return Nvml(kernel.take_from_nvml)


def main() -> None:
    die_with_parent()
    parser = argparse.ArgumentParser(description="Sample this host once a second.")
    parser.add_argument("run", type=Path)
    parser.add_argument("attempt", type=int)
    parser.add_argument("--node", type=int, default=0)
    parser.add_argument("--host", default="", help="Its name, if it has another than its own.")
    parser.add_argument("--rank", type=int, action="append", default=[], help="Of this host.")
    parser.add_argument("--folder", action="append", default=[], help="Whose disk may fill up.")
    parser.add_argument("--gpus", action="store_true", help="There are NVIDIA GPUs.")
    told = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    Sampler(
        RunDir(told.run),
        told.attempt,
        told.node,
        host=told.host,
        ranks=tuple(told.rank),
        folders=tuple(told.folder),
        gpus=told.gpus,
    ).go()


if __name__ == "__main__":
    main()
