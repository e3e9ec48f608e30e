"""Which software would train, and in which environment."""

import hashlib
import os
import platform
import re
import sys
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import preflight
from preflight.checks.gpu.devices import no_nvidia
from preflight.context import Context
from preflight.once import INSTALL_TRAINER
from preflight.registry import check
from preflight.report import Finding
from preflight.summary import brief
from smolplan.machine.files import read_text, system_path

OLDEST_TORCH = (2, 11)
"""As pyproject.toml asks."""

HARMFUL = {
    "CUDA_LAUNCH_BLOCKING": ("1", "makes every kernel wait for the one before"),
    "NCCL_DEBUG": ("TRACE", "writes gigabytes of log"),
    "NCCL_P2P_DISABLE": ("1", "turns NVLink off"),
    "NCCL_SHM_DISABLE": ("1", "turns shared memory between ranks off"),
    "NCCL_IB_DISABLE": ("1", "turns InfiniBand off"),
    "NCCL_NVLS_ENABLE": ("0", "turns sums within NVSwitches off"),
    "TORCH_DISTRIBUTED_DEBUG": ("DETAIL", "checks every collective with another"),
    "PYTORCH_NO_CUDA_MEMORY_CACHING": ("1", "allocates anew for every tensor"),
    "NVIDIA_TF32_OVERRIDE": ("0", "turns TF32 off in all libraries"),
    "PYTHONMALLOC": ("debug", "fills and checks every allocation"),
    "PYTHONDEVMODE": ("1", "turns Python's own checks on"),
}

DECISIVE = re.compile(
    r"(NCCL|CUDA|CUBLAS|CUDNN|TORCH|PYTORCH|GLOO|UCX|FI|OMP|MKL|TRITON|INDUCTOR)_\w+"
    r"|PYTHONPATH|LD_PRELOAD|LD_LIBRARY_PATH"
)
"""Variables that decide what is computed or over what, so that all hosts should share them."""
SECRET = re.compile("TOKEN|SECRET|PASSWORD|CREDENTIAL|KEY")

PACKAGES = re.compile(
    r"torch|triton|numpy|safetensors|tokenizers|pydantic|pyyaml|nvidia[-_].*|flash[-_]attn"
    r"|transformer[-_]engine|apex|deepspeed|megatron[-_]core|torchao|xformers"
)
"""Those whose version decides what is computed."""


@check("host.versions", remedy=INSTALL_TRAINER, tier="quick", passive=True)
def versions(context: Context) -> Finding:
    """Which Python, torch, CUDA and NCCL would train; torch is 2.11 or newer and runs on what the
    spec asks for."""
    python = ".".join(map(str, sys.version_info[:3]))
    facts = {"python": python}
    try:
        torch = version("torch")
    except PackageNotFoundError:
        return Finding(
            state="unknown",
            summary=f"Python {python}, no torch",
            why="training needs torch, and whatever needs it cannot be checked here",
            remedy=INSTALL_TRAINER,
            facts=facts,
        )
    built = torch_built_for()
    facts |= {"torch": torch, **{f"torch_{kind}": said for kind, said in built.items()}}
    summary = f"Python {python}, torch {torch}" + "".join(
        f", {LIBRARIES[kind]} {said}" for kind, said in built.items()
    )
    if tuple(int(part) for part in re.findall(r"\d+", torch)[:2]) < OLDEST_TORCH:
        return Finding(
            state="fail",
            summary=summary,
            why=f"torch {torch} is older than 2.11, what the trainer was written for",
            source="table",
            facts=facts,
        )
    if context.spec.cluster.gpu != "cpu" and not built:
        return Finding(
            state="fail",
            summary=f"torch {torch} knows no GPU",
            why=f"cluster.gpu is {context.spec.cluster.gpu}, and this torch was built for CPUs",
            remedy="Install a torch that was built for these GPUs: pytorch.org/get-started",
            source="spec",
            facts=facts,
        )
    return Finding(state="pass", summary=summary, source="table", facts=facts)


LIBRARIES = {"cuda": "CUDA", "hip": "ROCm"}


def torch_built_for() -> dict[str, str]:
    """Version of the GPU library that torch was built for, by its name in torch's own file, since
    importing torch takes seconds. Empty for a torch that knows no GPU."""
    spec = PathFinder.find_spec("torch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        try:
            text = (Path(folder) / "version.py").read_text("utf-8")
        except OSError:
            continue
        found = re.findall(r"^(cuda|hip)\b[^=]*= *['\"]([\d.]+)[^'\"]*['\"]", text, re.MULTILINE)
        return dict(found)
    return {}


@check(
    "host.driver",
    remedy="Install a newer NVIDIA driver, or a torch built for the CUDA that this one runs: "
    "pytorch.org/get-started",
    tier="quick",
    passive=True,
    deadline_s=25.0,
)
def driver(context: Context) -> Finding:
    """The GPUs' driver runs the CUDA that torch was built for."""
    if skipped := no_nvidia(context):
        return skipped
    runs, built = context.gpus()["cuda_driver"], torch_built_for().get("cuda")
    if not runs or not built:
        missing = "torch for CUDA: see host.versions" if runs else "driver: see gpu.present"
        return Finding(state="skipped", summary=f"no {missing}")
    # Within a major version of CUDA programs run on older drivers too (NVIDIA's CUDA
    # compatibility guide, minor version compatibility).
    old = int(runs.split(".")[0]) < int(built.split(".")[0])
    return Finding(
        state="fail" if old else "pass",
        summary=f"driver for CUDA {runs}, torch for {built}",
        why=f"torch would not find a GPU: its CUDA {built} is newer than the driver" if old else "",
    )


@check(
    "host.packages",
    remedy="Make the environments equal: install the same lock file on all hosts, or put the "
    "environment where all see it; pip freeze shows the difference.",
    tier="quick",
    passive=True,
)
def packages(context: Context) -> Finding:
    """The packages that compute are told by version, for comparison."""
    found = context.once("packages", _installed)
    named = {name: said for name, said in sorted(found.items()) if PACKAGES.fullmatch(name)}
    nccl = next((v for n, v in named.items() if n.startswith("nvidia-nccl")), "")
    return Finding(
        state="pass",
        summary=f"{len(named)} that compute" + (f", NCCL {nccl}" if nccl else ""),
        measured={"packages": len(named)},
        facts=named,
    )


def _installed() -> dict[str, str]:
    found: dict[str, str] = {}
    for one in distributions():
        if name := one.metadata["Name"]:
            # The first on the path is the one that is imported.
            found.setdefault(name.lower().replace("_", "-"), one.version)
    return found


@check(
    "host.other_packages",
    severity="advisory",
    remedy="pip freeze on both shows the difference: install the same lock file on all hosts.",
    tier="quick",
    passive=True,
)
def other_packages(context: Context) -> Finding:
    """All other packages are told by one digest, for comparison."""
    found = context.once("packages", _installed)
    rest = [f"{n}=={v}" for n, v in sorted(found.items()) if not PACKAGES.fullmatch(n)]
    digest = hashlib.sha256("\n".join(rest).encode()).hexdigest()[:12]
    return Finding(
        state="pass",
        summary=f"{len(rest)}, digest {digest}",
        measured={"packages": len(rest)},
        facts={"other_packages": digest},
    )


@check(
    "host.kernel",
    severity="advisory",
    remedy="Bring all hosts to one image: kernels and C libraries that differ make faults that "
    "only some hosts have.",
    tier="quick",
    passive=True,
)
def kernel(context: Context) -> Finding:
    """Which kernel and distribution this is, for comparison; its modules can be loaded."""
    release = platform.release()
    told = dict(
        line.partition("=")[::2] for line in (read_text("/etc/os-release") or "").splitlines()
    )
    name = told.get("PRETTY_NAME", platform.system()).strip('"')
    libc = " ".join(platform.libc_ver())
    facts = {"kernel": release, "os": name, "machine": platform.machine(), "libc": libc}
    folder = system_path("/lib/modules")
    gone = folder.is_dir() and any(folder.iterdir()) and not (folder / release).is_dir()
    return Finding(
        state="warn" if gone else "pass",
        summary=brief(f"{release}, {name}"),
        why=f"/lib/modules/{release} is gone: an update has replaced this kernel, and a driver "
        "that is not loaded yet cannot be"
        if gone
        else "",
        remedy="Reboot into the kernel that is installed." if gone else "",
        facts={word: said for word, said in facts.items() if said},
    )


@check(
    "host.reboot",
    severity="advisory",
    remedy="Reboot before the run, and keep unattended upgrades off while it goes.",
    tier="quick",
    passive=True,
)
def reboot(context: Context) -> Finding:
    """No update waits for a reboot."""
    # Debian and its kin; others leave no such mark.
    waiting = next(
        (
            p
            for p in ("/run/reboot-required", "/var/run/reboot-required")
            if system_path(p).exists()
        ),
        None,
    )
    packages = " ".join((read_text(f"{waiting}.pkgs") or "").split()) if waiting else ""
    return Finding(
        state="warn" if waiting else "pass",
        summary="a reboot is asked for" if waiting else "none is asked for",
        why=f"{waiting}{f' ({packages})' if packages else ''}: libraries on disk and in memory "
        "differ, and whoever keeps the machines may reboot it"
        if waiting
        else "",
    )


def _without_ourselves(path: str) -> str:
    """Where smolplan's own code is put on a host is no setting of the user's."""
    own = str(Path(preflight.__file__).parents[1])
    return os.pathsep.join(part for part in path.split(os.pathsep) if part != own)


@check(
    "host.environment",
    severity="advisory",
    remedy="Unset these variables, here or in launch.environment.",
    tier="quick",
    passive=True,
)
def environment(context: Context) -> Finding:
    """No variable is set that was meant for debugging and makes training slow."""
    variables = {**os.environ, **context.spec.launch.environment}
    harmful = [
        f"{name}={value} {effect}"
        for name, (value, effect) in HARMFUL.items()
        if variables.get(name) == value
    ]
    facts = {
        name: value
        for name, value in sorted(variables.items())
        if DECISIVE.fullmatch(name) and not SECRET.search(name)
    }
    if "PYTHONPATH" in facts:
        facts["PYTHONPATH"] = _without_ourselves(facts["PYTHONPATH"])
    return Finding(
        state="warn" if harmful else "pass",
        summary=f"{len(harmful)} of {len(HARMFUL)} harmful variables set",
        why="; ".join(harmful),
        source="table",
        facts=facts,
    )
