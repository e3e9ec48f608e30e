"""`python -m preflight.probes.collectives JSON`: this host's ranks of a group of hosts, which meet
and measure collectives. The group's first host tells what came of it.

The JSON has node, nodes, local_ranks, master, port, device (cpu or cuda), kinds, sizes (may be
empty), timeout_s, and environment. After timeout_s the ranks are ended, on every host by itself.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from launcher.environment import meeting_interface
from smolplan.lifetime import die_with_parent


def run_ranks(told: dict[str, Any], folder: Path) -> dict[str, Any]:
    out, local_ranks = folder / "out.json", told["local_ranks"]
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        **meeting_interface(told["master"], told["port"]),
        **told["environment"],
        "WORLD_SIZE": str(told["nodes"] * local_ranks),
        "LOCAL_WORLD_SIZE": str(local_ranks),
        "MASTER_ADDR": told["master"],
        "MASTER_PORT": str(told["port"]),
    }
    words = [str(out), told["device"], ",".join(told["kinds"])]
    if told["sizes"]:
        words.append(",".join(map(str, told["sizes"])))
    processes = []
    for local in range(local_ranks):
        with (folder / f"{local}.stderr").open("w") as stderr:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "preflight.probes.collectives_rank", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    env={
                        **shared,
                        "RANK": str(told["node"] * local_ranks + local),
                        "LOCAL_RANK": str(local),
                    },
                )
            )
    failed = _wait(processes, time.monotonic() + told["timeout_s"])
    if failed is not None:
        return {"error": _last_words(folder, failed, processes[failed].returncode)}
    if any(process.poll() is None for process in processes):
        _end(processes)
        return {"error": f"no end within {told['timeout_s']:g} s", "hung": True}
    return json.loads(out.read_text("utf-8")) if told["node"] == 0 else {}


def _wait(processes: list[subprocess.Popen[bytes]], deadline: float) -> int | None:
    """Until all have ended, one has failed (its number; the rest are ended), or time is up."""
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        for number, code in enumerate(codes):
            if code:
                _end(processes)
                return number
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.02)
    return None


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def _last_words(folder: Path, rank: int, code: int) -> str:
    lines = (folder / f"{rank}.stderr").read_text("utf-8", "replace").strip().split("\n")
    errors = [line for line in lines if "rror" in line]
    return (errors or lines)[-1].strip() or f"a rank ended with exit code {code}"


def main() -> None:
    die_with_parent()
    told = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="smolplan-collectives-") as folder:
        answer = run_ranks(told, Path(folder))
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
