"""`python -m preflight.probes.gpu_load DTYPE SECONDS SHARE UUID…`: all these GPUs at work at once,
each in a process of its own, so that shared power, cooling and memory show, and one that breaks
is known by name. An empty UUID stands for a CPU."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from smolplan.lifetime import die_with_parent

START_S = 90.0
"""To import torch and start the driver on all GPUs at once, from slow storage at that."""
SLACK_S = 120.0
"""Beyond its share of the time: the memory check ends by size, not by the clock."""


class Worker:
    """preflight.probes.gpu_work on one GPU, and what it said."""

    def __init__(self, uuid: str, arguments: list[str]) -> None:
        environment = dict(os.environ)
        if uuid:
            environment["CUDA_VISIBLE_DEVICES"] = uuid
        self.answers: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "preflight.probes.gpu_work", uuid, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
        )
        self._told = threading.Condition()
        self._ended = False
        self._last_words = ""
        self._readers = [
            threading.Thread(target=read, daemon=True) for read in (self._read, self._complain)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            with self._told:
                self.answers.append(answer)
                self._told.notify_all()
        with self._told:
            self._ended = True
            self._told.notify_all()

    def _complain(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self._last_words = line.strip() or self._last_words

    def wait(self, count: int, until: float) -> bool:
        """Whether it has given so many answers by then."""
        with self._told:
            self._told.wait_for(
                lambda: len(self.answers) >= count or self._ended,
                timeout=max(0.0, until - time.monotonic()),
            )
            return len(self.answers) >= count

    def begin(self) -> None:
        assert self.process.stdin
        with suppress(OSError):  # it has ended, and says why
            self.process.stdin.write("begin\n")
            self.process.stdin.flush()

    def error(self) -> str:
        """Why it gave no answer."""
        if self.process.poll() is None:
            return "no answer in time"
        for reader in self._readers:
            reader.join(1.0)
        return self._last_words or f"it ended with code {self.process.returncode}"

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        with suppress(subprocess.TimeoutExpired):  # in the driver: it dies when that lets it go
            self.process.wait(2.0)


def load(uuids: list[str], dtype: str, seconds: float, share: float) -> list[dict[str, Any]]:
    """Each GPU's answer, in their order; {"error": …} where there is none."""
    workers = [Worker(uuid, [dtype, str(seconds), str(share)]) for uuid in uuids]
    try:
        until = time.monotonic() + START_S
        ready = [worker.wait(1, until) for worker in workers]
        for worker in workers:
            worker.begin()
        until = time.monotonic() + seconds + SLACK_S
        done = [
            there and worker.wait(2, until) for worker, there in zip(workers, ready, strict=True)
        ]
        return [
            worker.answers[1] if well else {"error": worker.error()}
            for worker, well in zip(workers, done, strict=True)
        ]
    finally:
        for worker in workers:
            worker.end()


def main() -> None:
    die_with_parent()
    dtype, seconds, share, *uuids = sys.argv[1:]
    sys.stdout.write(json.dumps({"gpus": load(uuids, dtype, float(seconds), float(share))}) + "\n")


if __name__ == "__main__":
    main()
