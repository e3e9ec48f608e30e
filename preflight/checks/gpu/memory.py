"""Errors of a GPU's memory, and whether they are looked for."""

from preflight.checks.gpu.devices import DEADLINE_S, devices_of, named, none_tells, verdict
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import count_of, format_bytes

REMAPS_MAX = 512
"""Uncorrectable row remaps after which Azure's node health checks retire a GPU."""
CORRECTED_MAX = 20_000_000
SRAM_CORRECTED_MAX = 10_000
"""Corrected errors beyond which Azure's node health checks fail a GPU."""
RETIRED_PAGES_MAX = 60
"""Of GPUs before Ampere: NVIDIA's dynamic page retirement document has a GPU exchanged at so many
(from memory)."""
SHOWN = 0.98
"""Of the catalogue's memory, in decimal gigabytes: drivers show a little more or less than that."""


@check(
    "gpu.memory_errors",
    remedy="Drain this node. A pending row remap or page retirement: reset the GPU "
    "(nvidia-smi --gpu-reset). A failed one, or uncorrected errors that come again: replace the "
    "GPU.",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
)
def memory_errors(context: Context) -> Finding:
    """No uncorrected ECC error, no row remap pending or failed, spare rows left."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    bad, soft = [], []
    for device in devices:
        rows, sram = device["remapped_rows"] or {}, device["sram"] or {}
        pages = device["retired_pages"] or {}
        retired = pages.get("single_bit", 0) + pages.get("double_bit", 0)
        corrected = device["ecc_corrected"] or 0
        for count, what in [
            (device["ecc_uncorrected"], "uncorrected ECC errors since the driver was loaded"),
            (sram.get("uncorrected"), "uncorrected errors of its SRAM, ever"),
            (sram.get("threshold_exceeded"), "SRAM error threshold exceeded"),
            (rows.get("pending"), "row remap pending, done by a reset"),
            (rows.get("failed"), "row remap failed"),
            (pages.get("pending"), "page retirement pending, done by a reset"),
            (retired if retired >= RETIRED_PAGES_MAX else 0, "pages retired for good"),
            (corrected if corrected > CORRECTED_MAX else 0, "corrected ECC errors"),
        ]:
            if count:
                bad.append(f"{named(device)}: {what}: {count}")
        if rows.get("uncorrectable", 0) > REMAPS_MAX:
            bad.append(f"{named(device)}: {rows['uncorrectable']} rows remapped for good")
        if sram.get("corrected", 0) > SRAM_CORRECTED_MAX:
            bad.append(f"{named(device)}: {sram['corrected']} corrected errors of its SRAM")
        if rows.get("banks_exhausted"):
            soft.append(
                f"{named(device)}: banks without a spare row: {rows['banks_exhausted']}, so the "
                "next bad row there cannot be remapped"
            )
    return verdict(
        devices,
        f"none on {count_of(len(devices), 'GPU')}",
        bad,
        soft,
        *("ecc_uncorrected", "remapped_rows", "retired_pages", "ecc_corrected", "sram"),
        follows="a run ends at the next access, or goes on with wrong numbers" if bad else "",
        measured={
            "uncorrected_ever_errors": sum(d["ecc_uncorrected_ever"] or 0 for d in devices),
            "remapped_rows": sum(
                rows["correctable"] + rows["uncorrectable"]
                for d in devices
                if (rows := d["remapped_rows"])
            ),
        },
    )


@check(
    "gpu.memory",
    remedy="End what holds the memory (gpu.idle), set cluster.gpu to what is here, or have each "
    "rank need less: shard more, or lower parallel.micro_batch_size.",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
    peers={"memory_bytes": "equal"},
)
def memory(context: Context) -> Finding:
    """Each GPU has the memory that the plan fills, and that it takes the GPU to have."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    plan = context.plan
    need, whole = plan.memory_per_rank_bytes, plan.gpu_memory_bytes or 0.0
    told = [(d, m["total"]) for d in devices if (m := d["memory"])]
    bad = [
        f"{named(d)}: {format_bytes(total)}, a rank takes {format_bytes(need)}"
        for d, total in told
        if total < need
    ]
    soft = [
        f"{named(d)}: {format_bytes(total)}, the plan counts on {format_bytes(whole)}"
        for d, total in told
        if need <= total < SHOWN * whole
    ]
    least = min((total for _, total in told), default=0)
    return verdict(
        devices,
        f"{format_bytes(least)} for {format_bytes(need)} of a rank",
        bad,
        soft,
        "memory",
        follows="ranks would end with 'CUDA out of memory'" if bad else "",
        source="plan",
        measured={"memory_bytes": least},
        needed={"memory_bytes": need},
    )


@check(
    "gpu.ecc",
    severity="advisory",
    remedy="Turn it on and reset the GPUs: nvidia-smi -e 1 && nvidia-smi --gpu-reset",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
)
def ecc(context: Context) -> Finding:
    """ECC is on."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    if skipped := none_tells(devices, "ecc_mode", "ECC"):
        return skipped
    modes = [(d, d["ecc_mode"]) for d in devices if d["ecc_mode"] is not None]
    soft = [
        f"{named(d)}: ECC is {'on' if now else 'off'}"
        + ("" if now == later else f", and will be {'on' if later else 'off'} after a reset")
        for d, (now, later) in modes
        if not now or not later
    ]
    return verdict(
        devices,
        f"on, on {count_of(len(modes), 'GPU')}",
        [],
        soft,
        "ecc_mode",
        follows="a flipped bit would go unnoticed into the weights",
        facts={"ecc": ", ".join(sorted({"on" if now else "off" for _, (now, _) in modes}))},
    )
