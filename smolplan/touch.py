"""Whether paths answer. Whoever touches a network file system whose server is gone is stuck in the
kernel, and may not even be killed: so it is a process of its own that touches each path."""

import json
import os
import select
import signal
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from smolplan.errors import UserError

ANSWER_S = 5.0
"""What a command gives a folder before it says that it hangs; one that is well takes milliseconds,
and a file server under load a second or two (our choice)."""


def touch(path: str) -> dict[str, Any]:
    """What whoever starts the run does first. The path may not be there yet: then the nearest
    folder above it that is."""
    began = time.perf_counter()
    place = Path(path)
    for place in (Path(path), *Path(path).parents):
        try:
            place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return {"error": error.strerror, "errno": error.errno, "real": str(place)}
        break
    try:
        os.statvfs(place)
        if place.is_dir():
            with os.scandir(place) as entries:
                next(entries, None)
    except PermissionError:
        pass  # which is told where it matters
    except OSError as error:
        return {"error": error.strerror, "errno": error.errno, "real": str(place)}
    return {
        "error": "",
        "errno": 0,
        "real": str(place.resolve()),
        "seconds": time.perf_counter() - began,
    }


def _ask(path: str) -> tuple[int, int]:
    """A process that touches the path, and where its answer is read."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    try:
        # One that is stuck is not to keep its parent's files: whoever reads its output would wait,
        # and a lock or port that the parent has let go of would stay taken.
        os.closerange(0, writing)
        os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
        os.write(writing, json.dumps(touch(path)).encode())
    finally:
        os._exit(0)


def touch_all(paths: Mapping[str, str], deadline_s: float) -> dict[str, dict[str, Any]]:
    """Word → what touching its path gave, all at once; those that do not answer are left out."""
    asked = {word: _ask(path) for word, path in paths.items()}
    waiting = {reading: word for word, (_, reading) in asked.items()}
    answers: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + deadline_s
    while waiting and (left := end - time.monotonic()) > 0:
        for reading in select.select(list(waiting), [], [], left)[0]:
            answers[waiting.pop(reading)] = json.loads(os.read(reading, 65_536) or b"{}")
    for word, (process, reading) in asked.items():
        os.close(reading)
        if word not in answers:
            os.kill(process, signal.SIGKILL)  # and not waited for: it may never end
        with suppress(ChildProcessError):
            os.waitpid(process, 0 if word in answers else os.WNOHANG)
    return answers


def hung(paths: Collection[Path]) -> list[Path]:
    """Those of them that do not answer within ANSWER_S."""
    words = {str(path): str(path) for path in paths}
    return [Path(word) for word in words.keys() - touch_all(words, ANSWER_S).keys()]


class NoAnswer(UserError):
    """A folder on a mount that hangs."""


def require_answer(path: Path, where: str) -> None:
    """Raises NoAnswer, and hangs in no case. `path` is absolute."""
    if hung([path]):
        raise NoAnswer(
            f"{path} does not answer within {ANSWER_S:g} s: its mount hangs (storage.mounts)",
            where=where,
            remedy="Have the file system's server or network mended, or name another folder.",
        )
