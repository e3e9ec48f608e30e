"""`python -m preflight.probes.fork_server MODULE…`: imports the modules once, then forks.

Importing torch takes seconds of a core; a rank forked from here starts in milliseconds. It reads
a JSON command a line from stdin and answers with one on stdout; at the end of stdin it kills
what it started and ends.

    {"module": M, "arguments": […], "environment": {…}, "stdout": PATH, "stderr": PATH} → {"pid": N}
    {"pid": N} → {"code": null while it runs, then its exit code; negative: ended by that signal}
"""

import importlib
import json
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from typing import Any

from smolplan.forked import be_module


def _prepare(command: dict[str, Any]) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)
    os.environ.update(command["environment"])


def _start(command: dict[str, Any]) -> dict[str, Any]:
    pid = os.fork()
    if not pid:
        be_module(command["module"], command["arguments"], partial(_prepare, command))
    return {"pid": pid}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever an import prints is no answer
    try:
        for module in sys.argv[1:]:
            importlib.import_module(module)
        ready: dict[str, Any] = {"ready": True}
    except Exception as error:
        ready = {"error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(ready) + "\n")
    answers.flush()
    running: set[int] = set()
    for line in sys.stdin:
        command = json.loads(line)
        if "module" in command:
            answer = _start(command)
            running.add(answer["pid"])
        else:
            pid, status = os.waitpid(command["pid"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if pid else None}
            running.discard(pid)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    for pid in running:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
