"""What ranks compute, and when, recorded for a few steps by torch.profiler on request.

It only looks on: losses and weights are the same bit for bit.
"""

import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from smolplan.profile_request import ProfileRequest
from smolplan.rundir import RunDir
from trainer.parallel import World
from trainer.report import Reporter


class Profiles:
    """All ranks call `accept`, `begin` and `end` at the same steps."""

    def __init__(self, run: RunDir, world: World, report: Reporter) -> None:
        self._run, self._world, self._report = run, world, report
        self._request: ProfileRequest | None = None
        self._first, self._last = 0, 0
        self._recording: profile | None = None
        self._trouble = ""

    def requested(self) -> ProfileRequest | None:
        """On rank 0: what is asked for, while nothing is under way."""
        if self._world.rank or self._request:
            return None
        return ProfileRequest.read(self._run)

    def accept(self, request: ProfileRequest | None, step: int, steps: int) -> None:
        """Once the ranks know that rank 0 has a request: record the steps after this one."""
        self._request = self._world.gather(request)[0]
        assert self._request is not None
        self._first, self._last = step + 1, min(step + self._request.steps, steps)
        if self._world.rank == 0:
            self._report.take_away(self._run.profile_request)

    def begin(self, step: int) -> None:
        """Before this step."""
        request = self._request
        if request is None or step != self._first or self._world.rank not in request.ranks:
            return
        activities = [ProfilerActivity.CPU]
        if self._world.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        try:
            self._recording = profile(activities=activities)
            self._recording.start()
        except RuntimeError as error:  # as where another profiler holds the device
            self._recording, self._trouble = None, _first_line(error)

    def end(self, step: int) -> None:
        """After this step."""
        request = self._request
        if request is None or step < self._last:
            return
        began = time.perf_counter()
        written = self._world.gather((self._write(), self._trouble))
        self._request, self._trouble = None, ""
        self._report.event(
            "profiled",
            request=request.id,
            first_step=self._first,
            last_step=self._last,
            files=[file for file, _ in written if file],
            troubles={rank: trouble for rank, (_, trouble) in enumerate(written) if trouble},
            stall_s=round(time.perf_counter() - began, 3),
        )

    def _write(self) -> str:
        """The trace's path in the run folder; empty if there is none."""
        if self._recording is None:
            return ""
        name = f"step-{self._first}-rank-{self._world.rank}.json.gz"
        path = self._run.profiles / name
        recording, self._recording = self._recording, None
        try:
            if self._world.device.type == "cuda":
                torch.cuda.synchronize(self._world.device)
            recording.stop()
            path.parent.mkdir(exist_ok=True)
            partly = path.with_name(f".{name}")  # its ending has torch pack it
            recording.export_chrome_trace(str(partly))
            partly.replace(path)
        except (OSError, RuntimeError) as error:  # a full disk is no reason to end training
            self._trouble = _first_line(error)
            return ""
        return str(Path(path.parent.name) / name)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
