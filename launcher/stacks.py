"""What the ranks of a node are at, asked for when they hang: the Python stack of each, and what
the kernel says of a process that has none to tell.

A rank writes its stack itself at STACK_SIGNAL (trainer/stacks.py), which needs no privilege and no
ptrace, in containers too. One that is stopped cannot; where py-spy is installed it reads the stack
from outside.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from launcher.processes import TOKEN_VARIABLE, find_by_token
from smolplan.rundir import STACK_SIGNAL, RunDir, read_json, write_json

log = logging.getLogger("launcher.stacks")

ANSWER_S = 1.5
"""For the ranks to write their stacks: a few kilobytes each, on a file system that may be slow."""

COLLECTIVES_S = 0.5
"""More, for what their flight recorders hold."""

SPY_S = 2.0

_FRAME = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')

_MODULE_FILE = "<frozen runpy>"
"""Of the outermost frame of `python -m`, which only the main thread has."""

_CUT = "  ...\n"
"""faulthandler's word where a stack is deeper than 100 frames."""


@dataclass(frozen=True)
class RankStack:
    """What one rank is at."""

    state: str
    """proc(5): S waits, R runs, T is stopped by a signal, D waits in the kernel for a device or a
    file system, Z is dead; empty if there is no such process."""
    waits_in: str
    """The kernel's function that it waits in; empty if it is not told."""
    frames: tuple[tuple[str, str, int], ...]
    """(function, file, line) of its main thread, innermost first; empty if not told."""
    told_by: str
    """faulthandler or py-spy; empty where there are no frames."""


def rank_processes() -> dict[int, int]:
    """Rank → process id of the attempt's ranks on this host."""
    found = {}
    for process in find_by_token(os.environ.get(TOKEN_VARIABLE, "")):
        with suppress(psutil.Error, KeyError, ValueError, OSError):
            if "launcher.forge.child" not in process.cmdline():  # which stands in for one
                found[int(process.environ()["RANK"])] = process.pid
    return found


def tell_stacks(run: RunDir, attempt: int, node: int, processes: dict[int, int]) -> None:
    """Answer the request for stacks, unless it is answered already, or there is none. Raises
    OSError if the answer cannot be written."""
    asked = read_json(run.stacks_request(attempt))
    answer = run.node_stacks(attempt, node)
    if asked is None or (read_json(answer) or {}).get("request") == asked.get("request"):
        return
    log.info("the attempt hangs: %d ranks are asked for their stacks", len(processes))
    ranks = collect(run, attempt, processes)
    told = {str(rank): asdict(stack) for rank, stack in ranks.items()}
    write_json(answer, {"request": asked.get("request"), "node": node, "ranks": told})


def read_stacks(run: RunDir, attempt: int, node: int, request: str) -> dict[int, RankStack] | None:
    """A node's answer to that request; None if there is none yet."""
    told = read_json(run.node_stacks(attempt, node))
    if told is None or told.get("request") != request:
        return None
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        return {int(rank): _stack(content) for rank, content in told["ranks"].items()}
    return {}


def _stack(content: dict[str, Any]) -> RankStack:
    frames = tuple((str(f), str(file), int(line)) for f, file, line in content["frames"])
    return RankStack(**{**content, "frames": frames})


def collect(run: RunDir, attempt: int, processes: dict[int, int]) -> dict[int, RankStack]:
    """Of each process, by rank, within some seconds whatever state they are in."""
    files = {rank: run.rank_stack(attempt, rank) for rank in processes}
    collectives = {rank: run.rank_collectives(attempt, rank) for rank in processes}
    for old in collectives.values():
        old.unlink(missing_ok=True)
    before = {rank: _size(file) for rank, file in files.items()}
    awaited = set()
    for rank, pid in processes.items():
        # A rank that is not yet so far as to handle the signal would be ended by it.
        if _state(pid) not in ("T", "Z", "") and _handles(pid, STACK_SIGNAL):
            with suppress(ProcessLookupError):
                os.kill(pid, STACK_SIGNAL)
                awaited.add(rank)
    deadline = time.monotonic() + ANSWER_S
    told: dict[int, list[tuple[str, str, int]]] = {}
    while awaited - told.keys() and time.monotonic() < deadline:
        time.sleep(0.05)
        for rank in awaited - told.keys():
            if frames := main_thread(_after(files[rank], before[rank])):
                told[rank] = frames
    by = dict.fromkeys(told, "faulthandler")
    deadline = time.monotonic() + COLLECTIVES_S
    while not all(collectives[r].exists() for r in told) and time.monotonic() < deadline:
        time.sleep(0.05)
    deadline = time.monotonic() + SPY_S
    for rank in sorted(processes.keys() - told.keys()):
        if frames := _spied(processes[rank], deadline - time.monotonic()):
            told[rank], by[rank] = frames, "py-spy"
    return {
        rank: RankStack(_state(pid), _waits_in(pid), tuple(told.get(rank, ())), by.get(rank, ""))
        for rank, pid in processes.items()
    }


def main_thread(text: str) -> list[tuple[str, str, int]]:
    """Frames of the main thread, innermost first, in what faulthandler wrote; nothing if it is not
    all there yet."""
    threads: list[list[tuple[str, str, int]]] = []
    for line in text.splitlines():
        if "(most recent call first)" in line:
            threads.append([])
        elif threads and (frame := _FRAME.fullmatch(line)):
            number = int(frame[2]) if frame[2].isdigit() else 0
            threads[-1].append((frame[3], frame[1], number))
    main = [t for t in threads if any(file == _MODULE_FILE for _, file, _ in t)]
    if not main and threads and text.endswith(_CUT):
        main = threads  # the main thread is written last
    return [frame for frame in main[-1] if frame[1] != _MODULE_FILE] if main else []


def _spied(pid: int, timeout_s: float) -> list[tuple[str, str, int]]:
    own = Path(sys.executable).parent
    spy = shutil.which("py-spy", path=f"{own}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if spy is None or timeout_s <= 0:
        return []
    # Without stopping the process: it may be stopped, or wait where nothing stops it.
    command = [spy, "dump", "--nonblocking", "--json", "--pid", str(pid)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=True
        )
        threads = json.loads(done.stdout)
        main = next(t for t in threads if t["thread_name"] == "MainThread")
        frames = [(str(f["name"]), str(f["filename"]), int(f["line"])) for f in main["frames"]]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, StopIteration):
        return []  # a process that cannot be read tells nothing; its state still does
    return [frame for frame in frames if "runpy" not in frame[1]]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _after(file: Path, offset: int) -> str:
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def _proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _state(pid: int) -> str:
    fields = _proc(pid, "stat").rpartition(")")[2].split()
    return fields[0] if fields else ""


def _waits_in(pid: int) -> str:
    function = _proc(pid, "wchan").strip()
    return "" if function == "0" else function


def _handles(pid: int, number: int) -> bool:
    for line in _proc(pid, "status").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False
