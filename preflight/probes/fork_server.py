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
import runpy
import signal
import sys
import warnings
from contextlib import suppress
from typing import Any


def _run(command: dict[str, Any]) -> int:
    """In the child: be `python -m MODULE ARGUMENTS`; its exit code."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)
    os.environ.update(command["environment"])
    sys.argv = [command["module"], *command["arguments"]]
    # runpy warns of a module that was imported before it is run; that is the point here.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    try:
        runpy.run_module(command["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _start(command: dict[str, Any]) -> dict[str, Any]:
    pid = os.fork()
    if pid:
        return {"pid": pid}
    code = 1
    try:
        code = _run(command)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


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
