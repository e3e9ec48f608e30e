"""Ports, names, and the collectives between the ranks."""

import json
import os
import socket
import subprocess
import sys
import time

import psutil

from preflight.registry import Answer, Context, check

NO_TORCH = "torch is not installed; install the trainer: pip install 'smolplan[train]'"


@check("network.port", remedy="End what holds it, or set launch.rendezvous_port to another or 0.")
def port(context: Context) -> Answer:
    number = context.spec.launch.rendezvous_port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            return "fail", f"port {number} cannot be used: {error.strerror}{_holder(number)}"
    return "pass", f"port {number} is free" if number else "a free port is taken at start"


def _holder(number: int) -> str:
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.laddr.port == number and connection.pid:
            return f" (held by {psutil.Process(connection.pid).name()}, pid {connection.pid})"
    return ""


@check("network.names", remedy="Add this host's name to /etc/hosts or mend its resolver.")
def names(context: Context) -> Answer:
    began = time.perf_counter()
    host = socket.gethostname()
    try:
        address = socket.getaddrinfo(host, None)[0][4][0]
    except OSError as error:
        return "warn", f"{host} does not resolve: {error}"
    took = time.perf_counter() - began
    return ("warn" if took > 1 else "pass"), f"{host} is {address}, found in {took * 1e3:.0f} ms"


@check(
    "network.all_reduce",
    remedy="See the message; for NCCL run again with NCCL_DEBUG=INFO in launch.environment.",
    deadline_s=120,
)
def all_reduce(context: Context) -> Answer:
    """Real collectives across this machine's ranks, started as the trainer is."""
    try:
        import torch  # noqa: F401 - only whether it is there
    except ImportError:
        return "skipped", NO_TORCH
    ranks = min(context.spec.parallel.ranks, context.spec.cluster.gpus_per_node)
    if ranks == 1:
        return "skipped", "one rank has nobody to talk to"
    out = context.scratch / "all-reduce.json"
    process = subprocess.run(
        [
            *[sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)],
            *["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"],
            *["--local-addr", "127.0.0.1", "-m", "preflight.probes.all_reduce", str(out)],
            context.spec.cluster.gpu,
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    if process.returncode:
        last = [line for line in process.stderr.splitlines() if "Error" in line]
        return "fail", last[-1].strip() if last else f"it ended with code {process.returncode}"
    rows = json.loads(out.read_text())
    large, small = rows[-1], rows[0]
    if not all(row["correct"] for row in rows):
        return "fail", "the sums are wrong"
    return "pass", (
        f"{ranks} ranks by {large['backend']}: busbw {large['busbw_bytes_per_s'] / 1e9:.2f} GB/s "
        f"at {large['bytes'] / 2**20:.0f} MiB, {small['seconds'] * 1e6:.0f} µs at "
        f"{small['bytes']} B"
    )
