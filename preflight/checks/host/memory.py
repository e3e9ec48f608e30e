"""The host's memory: enough of it, in order, and whose it is."""

import re

import psutil

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.machine import cgroup
from smolplan.machine.files import names_in, read_text
from smolplan.machine.pci import FOLDER, NVIDIA, gpus
from smolplan.units import format_bytes

BYTES_PER_CPU_RANK = 1e9
"""Python, torch and gloo take some 350 MB of a rank before the model is there; and room."""
SWAP_USED = 0.03
"""Of the memory: Meta's GCM allows three per cent."""
HUGE_PAGES_MOST = 0.25
"""Of the memory: what is kept back as huge pages and unused is missing to everything else. Our
choice."""
NODES_APART = 0.9
"""The smallest NUMA node's share of the largest one: firmware keeps some of the first. Below, a
memory module is missing (a tenth is our choice)."""


def _meminfo() -> dict[str, float]:
    """/proc/meminfo in bytes; numbers of pages as they are."""
    found = {}
    for line in (read_text("/proc/meminfo") or "").splitlines():
        if match := re.match(r"(\w+|\w+\(\w+\)): +(\d+)( kB)?", line):
            found[match[1]] = float(match[2]) * (1024 if match[3] else 1)
    return found


@check(
    "host.memory",
    remedy="End what takes the memory (ps aux --sort -rss), raise the container's or job's limit, "
    "or run fewer ranks on this machine.",
    tier="quick",
    passive=True,
    peers={"total_memory_bytes": "equal"},
)
def memory(context: Context) -> Finding:
    """Memory for the processes themselves, beside what the model takes."""
    told = _meminfo()
    machine = told.get("MemAvailable") or float(psutil.virtual_memory().available)
    group = cgroup.memory_left()
    have = machine if group is None else min(machine, group)
    need = BYTES_PER_CPU_RANK * context.spec.cluster.gpus_per_node
    limited = group is not None and group < machine
    return Finding(
        state="fail" if have < need else "pass",
        summary=f"{format_bytes(have)} available, {format_bytes(need)} needed",
        why="a rank takes about 1 GB for Python, torch and buffers"
        + ("; a control group (container, job or service) sets the limit" if limited else "")
        if have < need
        else "",
        measured={
            "available_bytes": have,
            **({"total_memory_bytes": told["MemTotal"]} if "MemTotal" in told else {}),
        },
        needed={"available_bytes": need},
        source="table",
    )


@check(
    "host.swap",
    severity="advisory",
    remedy="Find what was swapped out, end it, then swapoff -a && swapon -a; keep swap off on "
    "hosts that train.",
    tier="quick",
    passive=True,
)
def swap(context: Context) -> Finding:
    """Nothing is swapped out."""
    told = _meminfo()
    if "SwapTotal" not in told:
        return Finding(state="skipped", summary="this kernel does not tell")
    used = told["SwapTotal"] - told["SwapFree"]
    much = used > SWAP_USED * told["MemTotal"]
    return Finding(
        state="warn" if much else "pass",
        summary=f"{format_bytes(used)} in use" if told["SwapTotal"] else "no swap",
        why="a rank whose memory comes back from disk holds up all others" if much else "",
        measured={"swap_used_bytes": used},
        needed={"swap_used_bytes_max": SWAP_USED * told["MemTotal"]},
        source="table",
    )


@check(
    "host.huge_pages",
    severity="advisory",
    remedy="Give them back: sysctl vm.nr_hugepages=0",
    tier="quick",
    passive=True,
)
def huge_pages(context: Context) -> Finding:
    """Huge pages keep no memory from the ranks; transparent ones are told, for comparison."""
    told = _meminfo()
    kept = told.get("HugePages_Free", 0) * told.get("Hugepagesize", 0)
    mode = re.search(r"\[(\w+)\]", read_text("/sys/kernel/mm/transparent_hugepage/enabled") or "")
    much = kept > HUGE_PAGES_MOST * told.get("MemTotal", float("inf"))
    return Finding(
        state="warn" if much else "pass",
        summary=f"{format_bytes(kept)} kept for nobody" if kept else "none kept",
        why="that memory is missing to ranks, loaders and the page cache" if much else "",
        measured={"unused_huge_pages_bytes": kept},
        source="table",
        facts={"transparent_huge_pages": mode[1]} if mode else {},
    )


@check(
    "host.numa",
    severity="advisory",
    remedy="Look for a missing or disabled memory module (dmidecode -t memory); NUMA settings of "
    "the BIOS should be alike on all hosts.",
    tier="quick",
    passive=True,
)
def numa(context: Context) -> Finding:
    """All NUMA nodes have the same memory; which GPU is at which is told, for comparison."""
    sizes = {}
    for name in names_in("/sys/devices/system/node"):
        if re.fullmatch(r"node\d+", name) and (
            found := re.search(
                r"MemTotal: +(\d+) kB", read_text(f"/sys/devices/system/node/{name}/meminfo") or ""
            )
        ):
            sizes[name] = float(found[1]) * 1024
    # A node without memory is an accelerator's or a CPU's that shares another's.
    sizes = {name: size for name, size in sizes.items() if size}
    if not sizes:
        return Finding(state="skipped", summary="this kernel does not tell")
    least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    uneven = sizes[least] < NODES_APART * sizes[most]
    places = _gpu_nodes()
    return Finding(
        state="warn" if uneven else "pass",
        summary=f"{len(sizes)} of {format_bytes(sizes[least])} and more",
        why=f"{least} has {format_bytes(sizes[least])}, {most} {format_bytes(sizes[most])}: copies "
        "to the GPUs of that node are slower"
        if uneven
        else "",
        measured={"numa_nodes": len(sizes)},
        source="table",
        facts={"gpu_numa_nodes": places} if places else {},
    )


def _gpu_nodes() -> str:
    """NUMA node of each NVIDIA GPU, in the order of their addresses."""
    places = (read_text(f"{FOLDER}/{name}/numa_node") for name in gpus(NVIDIA))
    return ",".join(place or "?" for place in places)
