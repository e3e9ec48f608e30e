"""What a host can be asked to do: plain functions from arguments to an answer, by name.

They run on the host, each in a thread of the agent. What a caller asks for arrives as JSON and is
never seen by a shell.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # what few operations need they import themselves: an agent is to start quickly
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from launcher.hosts.children import Children

    Arguments = Mapping[str, Any]
    Note = Callable[[dict[str, Any]], None]
    Operation = Callable[[Arguments, "Asked"], dict[str, Any]]


class OperationError(Exception):
    """An operation that failed for a reason that has words; anything else it raises is told too,
    by its type."""

    def __init__(self, message: str, *, kind: str = "remote", remedy: str = "") -> None:
        self.kind, self.remedy = kind, remedy
        super().__init__(message)


class Asked:
    """One request: how long it may take, what it has to tell, and what it has started."""

    def __init__(self, children: Children, note: Note, timeout_s: float, held: int) -> None:
        self.children, self.note, self.timeout_s, self.held = children, note, timeout_s, held
        self.cancelled = threading.Event()


operations: dict[str, Operation] = {}


def operation(function: Operation) -> Operation:
    """Register a function under its name."""
    operations[function.__name__] = function
    return function


@operation
def ping(arguments: Arguments, asked: Asked) -> dict[str, Any]:
    """Who this is, and what its clock says; the Fleet adds round_trip_s and clock_offset_s."""
    return {
        "hostname": os.uname().nodename,
        "python": sys.executable,
        "python_version": sys.version.split()[0],
        "kernel": os.uname().release,
        "cores": len(os.sched_getaffinity(0)),
        "pid": os.getpid(),
        "tree": os.environ["PYTHONPATH"].partition(os.pathsep)[0],
        "cpu_s": sum(os.times()[:4]),
        "time_ns": time.time_ns(),
    }


@operation
def run(arguments: Arguments, asked: Asked) -> dict[str, Any]:
    """Run argv to its end: exit_code, stdout and stderr (the last MiB of each), and a note
    {"line": …} for each line of stdout. With `python` true, argv are arguments of this interpreter.
    stdin, env (added to the agent's), cwd and timeout_s may be given. All of its process group is
    killed when the time is over, when nobody waits for it any longer, or when the connection is
    gone."""
    timeout_s = min(asked.timeout_s, float(arguments.get("timeout_s") or asked.timeout_s))
    began = time.monotonic()
    with asked.children.start(
        _argv(arguments),
        env=_environment(arguments),
        cwd=arguments.get("cwd"),
        stdin=(arguments.get("stdin") or "").encode("utf-8", "surrogateescape"),
    ) as child:
        ended = child.wait(timeout_s, asked.cancelled, lambda line: asked.note({"line": line}))
    if not ended:
        last = child.stderr.strip().rpartition("\n")[2] or child.stdout.strip().rpartition("\n")[2]
        raise OperationError(
            f"{_argv(arguments)[0]} did not end within {timeout_s:g} s"
            + (f"; its last line: {last}" if last else ""),
            kind="timeout",
        )
    return {
        "exit_code": child.exit_code,
        "stdout": child.stdout,
        "stderr": child.stderr,
        "seconds": time.monotonic() - began,
    }


@operation
def spawn(arguments: Arguments, asked: Asked) -> dict[str, Any]:
    """Start argv in a session of its own, detached: it outlives the connection. Its output is
    added to the file `output`. The answer has `pid`, and `process` for `alive` to ask by."""
    from pathlib import Path

    from launcher.processes import process_name

    output = arguments.get("output")
    if output:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
    with Path(output or os.devnull).open("ab") as out:
        process = subprocess.Popen(
            _argv(arguments),
            env=_environment(arguments),
            cwd=arguments.get("cwd"),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # As long as it lives, the code that it may yet import is not swept.
            pass_fds=(asked.held,),
        )
    name = process_name(process.pid)
    threading.Thread(target=process.wait, daemon=True).start()
    return {"pid": process.pid, "process": name}


@operation
def alive(arguments: Arguments, asked: Asked) -> dict[str, Any]:
    """Process name → whether it runs; None if it is none of this host's."""
    from launcher.processes import is_alive

    return {"alive": {name: is_alive(name) for name in arguments["names"]}}


@operation
def kill(arguments: Arguments, asked: Asked) -> dict[str, Any]:
    """End every process whose environment has the attempt's token; whether none is left."""
    from launcher.processes import kill_by_token

    timeout_s = min(asked.timeout_s, float(arguments.get("timeout_s") or 30.0))
    return {"ended": kill_by_token(arguments["token"], timeout_s=timeout_s)}


@operation
def addresses(arguments: Arguments, asked: Asked) -> dict[str, Any]:
    """Where this host may be reached by others, the likely addresses first."""
    from launcher.hosts.interfaces import own_addresses

    preferred, interface = arguments.get("preferred", ""), arguments.get("interface", "")
    return {"addresses": own_addresses(preferred, interface)}


@operation
def listen(arguments: Arguments, asked: Asked) -> dict[str, Any]:
    """Listen on address and port (0 takes a free one) for `seconds`, or until `count` have come; a
    note says which port, and the answer who came."""
    import socket

    address = arguments.get("address") or ""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    came: list[str] = []
    with socket.create_server((address, arguments.get("port", 0)), family=family) as listener:
        port = listener.getsockname()[1]
        asked.note({"port": port})
        until = time.monotonic() + min(asked.timeout_s, float(arguments["seconds"]))
        listener.settimeout(0.1)
        enough = arguments.get("count")
        while time.monotonic() < until and not asked.cancelled.is_set() and len(came) != enough:
            try:
                caller, peer = listener.accept()
            except TimeoutError:
                continue
            caller.close()
            came.append(peer[0])
    return {"port": port, "came": came}


@operation
def connect(arguments: Arguments, asked: Asked) -> dict[str, Any]:
    """Whether address and port are reached from here, in how many seconds, or why not."""
    import socket

    timeout_s = min(asked.timeout_s, float(arguments.get("timeout_s") or 5.0))
    began = time.monotonic()
    try:
        socket.create_connection((arguments["address"], arguments["port"]), timeout_s).close()
    except OSError as error:
        return {"connected": False, "why": error.strerror or str(error)}
    return {"connected": True, "seconds": time.monotonic() - began}


@operation
def put(arguments: Arguments, asked: Asked) -> dict[str, Any]:
    """Write a small file whole: `text` or `base64` to `path`, by rename, with the bits `mode`."""
    import base64
    import tempfile
    from pathlib import Path

    if "base64" in arguments:
        content = base64.b64decode(arguments["base64"])
    else:
        content = arguments["text"].encode("utf-8", "surrogateescape")
    path = Path(arguments["path"]).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            os.fchmod(out.fileno(), arguments.get("mode", 0o644))
        Path(made).replace(path)
    except BaseException:
        Path(made).unlink(missing_ok=True)
        raise
    return {"bytes": len(content)}


@operation
def get(arguments: Arguments, asked: Asked) -> dict[str, Any]:
    """A file's content as `base64`, if it has no more than `limit_bytes` (16 MiB unless given)."""
    import base64
    from pathlib import Path

    path = Path(arguments["path"]).expanduser()
    limit = int(arguments.get("limit_bytes") or 16 << 20)
    with path.open("rb") as source:
        content = source.read(limit + 1)
    if len(content) > limit:
        raise OperationError(f"{path} is larger than {limit:,} bytes")
    return {"base64": base64.b64encode(content).decode("ascii")}


def _argv(arguments: Arguments) -> list[str]:
    argv: Sequence[str] = arguments["argv"]
    # -P: nothing is to be imported from the current folder.
    return [sys.executable, "-P", *argv] if arguments.get("python") else list(argv)


def _environment(arguments: Arguments) -> dict[str, str]:
    return {**os.environ, **(arguments.get("env") or {})}


def missing_package(error: ModuleNotFoundError) -> OperationError:
    """In words, for a host whose Python lacks what smolplan needs."""
    import importlib.util

    name = (error.name or "").partition(".")[0]
    known = bool(name) and importlib.util.find_spec(name) is None
    return OperationError(
        f"{sys.executable} has no package {name}" if known else str(error),
        remedy="Install smolplan's requirements there, or set launch.python to one that has them.",
    )
