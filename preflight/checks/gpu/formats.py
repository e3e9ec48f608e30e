"""Whether what the run computes in is there: on the GPUs, and in the software."""

import importlib.util

from preflight.checks.gpu.devices import DEADLINE_S, devices_of, named, no_nvidia, verdict
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.spec.fp8 import CAPABILITY

INSTALL = "Install torchao: pip install 'smolplan[fp8]', or set optim.precision to bf16."


@check(
    "gpu.fp8",
    remedy="Set optim.precision to bf16, or take GPUs that multiply in fp8 (H100, L40S and newer).",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
)
def fp8(context: Context) -> Finding:
    """Where the spec computes in fp8, torchao is installed and the GPUs multiply in it."""
    if context.spec.optim.precision != "fp8":
        summary = f"the spec computes in {context.spec.optim.precision}"
        return no_nvidia(context) or Finding(state="skipped", summary=summary)
    if importlib.util.find_spec("torchao") is None:
        why = "optim.precision is fp8, and the trainer would end at its start"
        return Finding(state="fail", summary="torchao is missing", why=why, remedy=INSTALL)
    if context.spec.cluster.gpu == "cpu":
        return Finding(
            state="warn",
            summary="emulated on CPUs",
            why="optim.precision is fp8, which CPUs only imitate, and slowly",
            remedy="Set optim.precision to bf16 or fp32, unless fp8 is what is to be tried.",
        )
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    least = ".".join(map(str, CAPABILITY))
    old = [
        f"{named(d)}: compute capability {'.'.join(map(str, capability))}, fp8 takes {least}"
        for d in devices
        if (capability := d["compute_capability"]) and tuple(capability) < CAPABILITY
    ]
    return verdict(
        devices,
        f"all {len(devices)} multiply in it",
        old,
        [],
        "compute_capability",
        follows="the trainer would end at its start",
    )
