"""How many GPUs there are, of which make, and with which software."""

from typing import Any

from preflight.checks.gpu.devices import (
    DEADLINE_S,
    Device,
    devices_of,
    named,
    no_nvidia,
    verdict,
)
from preflight.context import Context
from preflight.registry import check
from preflight.report import IDENTITY, Finding
from smolplan.machine.pci import NVIDIA, gpus
from smolplan.units import count_of


@check(
    "gpu.present",
    remedy="Mend the driver, or reboot and look for the missing GPU by lspci; else set "
    "cluster.gpus_per_node and cluster.gpu to what is here.",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
)
def present(context: Context) -> Finding:
    """The driver answers, and the GPUs are as many and of the make that the spec counts on.

    Its facts hold the serial number of each GPU (its UUID, if it has none) as id.gpu0 and so on:
    by them a GPU that failed is known again in another host.
    """
    cluster = context.spec.cluster
    if skipped := no_nvidia(context):
        return skipped
    answer = context.gpus()
    if answer["driver"] is None:
        return Finding(
            state="fail",
            summary="no NVIDIA driver on this machine",
            why=f"the spec wants {cluster.gpus_per_node} × {cluster.gpu}; NVML says: "
            f"{answer['error']}",
            source="spec",
            remedy="Install NVIDIA's driver, run this on a node that has GPUs, or set "
            "cluster.gpu to cpu.",
        )
    devices = answer["devices"]
    models = sorted({d["name"] for d in devices if d["name"]})
    said = f"{len(devices)} × {', '.join(models) or 'no name'}, driver {answer['driver']}"
    figures: dict[str, Any] = {
        "measured": {"gpus": len(devices)},
        "needed": {"gpus": cluster.gpus_per_node},
        "facts": {"model": ", ".join(models), **_identities(devices)},
        "source": "spec",
    }
    if len(devices) < cluster.gpus_per_node or answer["error"]:
        return Finding(
            state="fail",
            summary=f"{len(devices)} of {count_of(cluster.gpus_per_node, 'GPU')}",
            why=f"{said}; the spec wants {cluster.gpus_per_node} × {cluster.gpu}"
            + (f"; NVML says: {answer['error']}" if answer["error"] else "")
            + _on_the_bus(devices),
            **figures,
        )
    lost = [named(d) for d in devices if any("is lost" in e for e in d["errors"].values())]
    if lost:
        return Finding(
            state="fail",
            summary=f"{len(lost)} of {count_of(len(devices), 'GPU')} lost",
            why=f"{', '.join(lost)}: the driver cannot reach it any more",
            remedy="Reboot the node, and test the GPU before it is used again.",
            **figures,
        )
    wanted = cluster.gpu.lower().replace("-", " ").split()[0]
    others = [m for m in models if wanted not in m.lower().replace(" ", "")]
    if others or len(models) > 1:
        return Finding(
            state="warn",
            summary=said,
            why=f"the plan was made for {cluster.gpu}, here are {', '.join(models)}: its figures "
            "and thresholds do not hold",
            remedy="Set cluster.gpu to what is here.",
            **figures,
        )
    return Finding(state="pass", summary=said, **figures)


def _on_the_bus(devices: list[Device]) -> str:
    """What the bus has that the driver has not: then the GPU is there, and does not work."""
    known, there = {d["pci"] for d in devices}, gpus(NVIDIA)
    undriven = [address for address in there if address not in known]
    if undriven:
        return f"; on the bus, but not with the driver: {', '.join(undriven)}"
    return f"; the bus has {len(there)}: a missing one is off, unseated or dead" if there else ""


def _identities(devices: list[Device]) -> dict[str, str]:
    # A board without a serial number reports "0" (from memory).
    told = {
        d["index"]: d["serial"] if d["serial"] not in (None, "", "0") else d["uuid"]
        for d in devices
    }
    return {f"{IDENTITY}gpu{index}": identity for index, identity in told.items() if identity}


@check(
    "gpu.versions",
    severity="advisory",
    remedy="Bring all GPUs to one VBIOS with the vendor's tool, and all hosts to one driver.",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
)
def versions(context: Context) -> Finding:
    """Driver, CUDA and firmware are told, for comparison; this host's GPUs have one firmware."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    answer = context.gpus()
    firmware = {
        word: ", ".join(sorted({d[word] for d in devices if d[word]})) for word in ("vbios", "gsp")
    }
    facts = {"driver": answer["driver"], "cuda_driver": answer["cuda_driver"], **firmware}
    mixed = [f"{word}: {said}" for word, said in firmware.items() if ", " in said]
    return Finding(
        state="warn" if mixed else "pass",
        summary=f"driver {answer['driver']}, CUDA {answer['cuda_driver'] or 'unknown'}",
        why=f"GPUs of one host differ ({'; '.join(mixed)}): they may clock and fail differently"
        if mixed
        else "",
        facts={word: said for word, said in facts.items() if said},
    )


RECOVERY = {
    1: "reset the GPU: nvidia-smi --gpu-reset",
    2: "reboot the node",
    3: "drain its peers: stop what uses other GPUs with it, then reset it",
    4: "end all processes on it, then reset it: nvidia-smi --gpu-reset",
    5: "recover the IMEX domain: restart nvidia-imex on its hosts",
    6: "reset the bus that it is on, or reboot the node",
    7: "reboot the system, baseboard included",
}
"""nvml.h, NVML_GPU_RECOVERY_ACTION_*; drivers from 570 on tell it (as Xid 154 does)."""


@check(
    "gpu.recovery",
    remedy="Do what the driver asks for, then check the GPU again: smolplan preflight SPEC "
    "--only gpu.",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
)
def recovery(context: Context) -> Finding:
    """The driver asks for no reset and no reboot."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    if all(d["recovery_action"] is None for d in devices):
        return Finding(state="skipped", summary="this driver does not tell (570 and newer do)")
    bad = [
        f"{named(d)}: the driver asks to {RECOVERY.get(action, f'take recovery action {action}')}"
        for d in devices
        if (action := d["recovery_action"])
    ]
    return verdict(
        devices,
        f"none asked for on {count_of(len(devices), 'GPU')}",
        bad,
        [],
        "recovery_action",
        follows="until then its results and its time to fail are unknown",
        source="none",
    )
