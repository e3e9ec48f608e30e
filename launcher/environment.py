"""The environment that ranks are started in; above all what decides what is computed, and on what.

A restart comes from the monitor, which may have been started from another shell: it has to run
in the environment of the first start, or the kernels, and so the losses, may be others. Secrets
are no part of it: they stay in the environment of whoever starts a process.
"""

import os
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import psutil

from launcher.processes import TOKEN_VARIABLE
from smolplan.rundir import RunDir, read_json, write_json
from smolplan.spec import RunSpec

HOST_VARIABLE = "SMOLPLAN_HOST"
"""Where a node is a container: the name of the host that it runs on, for its supervisor."""

VERSION_VARIABLE = "SMOLPLAN_VERSION"
"""Where code is not carried to the hosts: the version that a supervisor there must be of."""

_PREFIXES = (
    *("CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "CUBLAS", "CUDNN_", "HIP_", "ROCR_", "RCCL_"),
    *("TORCH", "PYTORCH_", "ATEN_", "TRITON_", "INDUCTOR_"),
    *("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_", "DNNL_", "ONEDNN_"),
)
_NAMES = {"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV", "TMPDIR"}
_SECRET = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "_KEY")


def decides(name: str) -> bool:
    known = name in _NAMES or name.startswith(_PREFIXES)
    return known and not any(word in name for word in _SECRET)


def keep_environment(run: RunDir) -> None:
    """Put this process's on record as the run's. Raises OSError."""
    write_json(run.environment, {n: v for n, v in sorted(os.environ.items()) if decides(n)})


def environment_of(run: RunDir) -> Mapping[str, str]:
    """This process's environment, with what decides put back as it is on record."""
    kept = read_json(run.environment)
    if kept is None:
        return os.environ
    others = {name: value for name, value in os.environ.items() if not decides(name)}
    return {**others, **{name: str(value) for name, value in kept.items()}}


def outside_of_jobs(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what an outer job of Slurm's has set, which its commands would take for wishes."""
    kept = ("SLURM_CONF", "SLURM_JWT")
    return {n: v for n, v in environment.items() if n in kept or not n.startswith("SLURM_")}


def rank_environment(spec: RunSpec, token: str) -> dict[str, str]:
    """What an attempt's processes get beyond the environment of whoever starts them."""
    return {
        "OMP_NUM_THREADS": str(spec.launch.threads_per_rank),
        "PYTHONUNBUFFERED": "1",
        **spec.launch.environment,
        TOKEN_VARIABLE: token,
    }


def code_version() -> str:
    """Of smolplan, as it is installed here; empty where it is not."""
    try:
        return version("smolplan")
    except PackageNotFoundError:
        return ""


def meeting_interface(address: str, port: int) -> dict[str, str]:
    """Have gloo and NCCL talk over the interface by which this host reaches `address`, where its
    nodes meet: the loopback one if all ranks are here. Empty if it cannot be told."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, port or 9))  # of a datagram socket: nothing is sent
            own = probe.getsockname()[0]
    except OSError:
        return {}
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address == own for entry in entries):
            return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
    return {}
