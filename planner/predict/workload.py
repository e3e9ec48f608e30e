"""What a row describes, as the step-time model sees it: shape, layout, machine, with every
default stated here."""

import re
from dataclasses import dataclass, fields, replace

from planner.flops import flops_per_token
from planner.predict.architecture import architecture_of_row, lacking_architecture
from planner.predict.catalog import (
    Accelerator,
    SoftwareStack,
    find_accelerator,
    find_stack,
)
from planner.predict.rows import Row
from planner.step_inputs import BF16, BLOCK_FP8, FP4, FP8
from planner.step_shape import shape_of

SHARDED = re.compile(r"zero-?3|fsdp", re.I)
SHARDED_OPTIMIZER = re.compile(r"zero-?[123]|distopt|fsdp|dist-opt|hsdp", re.I)
EIGHT_BITS = re.compile(r"fp8|int8", re.I)
FOUR_BITS = re.compile(r"fp4", re.I)
BLOCK_SCALED = re.compile(r"mxfp8|fp8-mx|rowwise|block", re.I)
PARALLEL_BLOCK = re.compile(r"parallel block", re.I)
INTERLEAVED = re.compile(r"(?<!non-)interleaved", re.I)
NETWORK = re.compile(r"(\d+) ?Gb(?:ps|/s|it/s)/(node|GPU)", re.I)
MANY_CHUNKS = 12.0
"""Most virtual stages that a stack which interleaves by default is taken to make (assumed)."""
MICRO_BATCH_TOKENS = 16384.0
"""Most tokens that a GPU is taken to compute at once where no micro-batch is given (assumed)."""
BEYOND_REASON = 1e18
"""No count of anything in a training run is larger."""
NEEDED = ("seq_len", "global_batch_tokens", "gpus", "tp", "pp")


@dataclass(frozen=True)
class Workload:
    """A row's floats, by the names of planner.step_inputs' fields; None of them is an array."""

    row: Row
    accelerator: Accelerator
    stack: SoftwareStack
    shape: dict[str, float]
    layout: dict[str, float]
    machine: dict[str, float]
    flops_per_token: float
    """Model FLOPs, exact, causal attention: smolplan's one definition (docs/accuracy.md)."""
    full_attention_flops_per_token: float
    """The same with nothing masked, as most published figures count."""


def _network_bytes_per_s(row: Row, gpus_per_node: float) -> float | None:
    """What the notes say of a GPU's network, as in "800 Gbps/node"."""
    said = NETWORK.search(row.text("notes"))
    if said is None:
        return None
    return float(said[1]) * 1e9 / 8.0 / (gpus_per_node if said[2].lower() == "node" else 1.0)


def lacking(row: Row) -> str | None:
    """Why nothing can be predicted for a row; None if it can."""
    unknown = lacking_architecture(row)
    empty = [name for name in NEEDED if name not in row.numbers]
    if SHARDED.search(row.text("dp_or_zero")):
        empty = [name for name in empty if name not in ("tp", "pp")]
    if empty:
        return f"{unknown}, " * (unknown or "").startswith("no ") + "no " + ", ".join(empty)
    if unknown:
        return unknown
    if max(row.numbers.values()) > BEYOND_REASON:
        return "a number beyond all reason"
    if find_accelerator(row.text("gpu")) is None:
        return f"GPU {row.text('gpu') or 'unnamed'} is not in the catalogue"
    ranks = _parallel(row, "tp") * _parallel(row, "pp") * row.number("cp", 1.0)
    if row.numbers["gpus"] % ranks:
        return "tp × pp × cp does not divide the GPUs"
    if row.numbers["global_batch_tokens"] < row.numbers["seq_len"]:
        return "the global batch is shorter than a sequence"
    return None


def _parallel(row: Row, name: str) -> float:
    """Tensor or pipeline parallel; a run that shards its weights and names none has none."""
    return row.number(name, 1.0)


def workload_of(row: Row) -> Workload:
    """A row that lacks nothing (see `lacking`), with its defaults filled in."""
    accelerator = find_accelerator(row.text("gpu"))
    assert accelerator is not None
    arch, seq_len = architecture_of_row(row), int(row.numbers["seq_len"])
    shape = shape_of(arch, seq_len, int(row.numbers["global_batch_tokens"]))
    if PARALLEL_BLOCK.search(row.text("notes")):
        shape = replace(shape, parallel_block=1.0)
    stack = find_stack(row.origin)
    layout = layout_of_row(row, stack, arch.layers)
    dense = accelerator.peak_bf16_flops
    precision = row.text("precision")
    peak, number_format = dense, BF16
    if FOUR_BITS.search(precision) and accelerator.peak_fp4_flops:
        peak, number_format = accelerator.peak_fp4_flops, FP4
    elif EIGHT_BITS.search(precision) and accelerator.peak_fp8_flops:
        peak = accelerator.peak_fp8_flops
        number_format = BLOCK_FP8 if BLOCK_SCALED.search(precision) else FP8
    nodes = row.number("nodes", 0.0)
    domain = float(accelerator.gpus_per_domain)
    if nodes and domain <= 8:
        domain = min(domain, max(1.0, row.numbers["gpus"] / nodes))
    per_node = row.numbers["gpus"] / nodes if nodes else 8.0
    network = _network_bytes_per_s(row, min(per_node, 8.0))
    machine = {
        "matmul_flops_per_s": peak,
        "bf16_flops_per_s": dense,
        "hbm_bytes_per_s": accelerator.hbm_bytes_per_s,
        "link_bytes_per_s": accelerator.link_bytes_per_s,
        "network_bytes_per_s": network or accelerator.network_bytes_per_s,
        "gpus_per_domain": domain,
        "number_format": number_format,
    }
    return Workload(
        row,
        accelerator,
        stack,
        {field.name: float(getattr(shape, field.name)) for field in fields(shape)},
        layout,
        machine,
        flops_per_token(arch, seq_len),
        flops_per_token(arch, seq_len, causal=False),
    )


def _usual_chunks(row: Row, stack: SoftwareStack, layers: int) -> float:
    """Virtual stages where none are given: two where the notes say interleaved; as many as there
    are layers, up to MANY_CHUNKS, in a stack that interleaves by default; else one."""
    if INTERLEAVED.search(row.text("notes")):
        return 2.0
    chunks = layers / _parallel(row, "pp")
    return max(1.0, min(chunks // 1, MANY_CHUNKS)) if stack.interleaves else 1.0


def _usual_micro_batch(row: Row, local: float) -> float:
    """Where none is given: one sequence in a pipeline, which wants many; otherwise the local batch
    up to MICRO_BATCH_TOKENS."""
    if _parallel(row, "pp") > 1:
        return 1.0
    return max(1.0, min(local, MICRO_BATCH_TOKENS // row.numbers["seq_len"]))


def layout_of_row(row: Row, stack: SoftwareStack, layers: int) -> dict[str, float]:
    """By the names of planner.step_inputs.Layout's fields."""
    n = row.numbers
    cp = row.number("cp", 1.0)
    replicas = n["gpus"] / (_parallel(row, "tp") * _parallel(row, "pp") * cp)
    sequences = n["global_batch_tokens"] / n["seq_len"] / replicas
    recompute, sharding = row.text("recompute").lower(), row.text("dp_or_zero")
    sharded = bool(SHARDED.search(sharding))
    local = max(sequences, 1.0)
    micro_batch = min(row.number("micro_batch", _usual_micro_batch(row, local)), local)
    if sharded and _parallel(row, "pp") > 1 and micro_batch >= sequences:
        # torchtitan prints the local batch, which its pipeline splits by stages.
        micro_batch = max(1.0, micro_batch / _parallel(row, "pp"))
    full = "full" in recompute or recompute in ("yes", "true")
    return {
        "gpus": n["gpus"],
        "tp": _parallel(row, "tp"),
        "pp": _parallel(row, "pp"),
        "vp": row.number("vp", _usual_chunks(row, stack, layers)),
        "cp": cp,
        "ep": row.number("ep", 1.0),
        "micro_batch": micro_batch,
        "full_recompute": float(full),
        "attention_recompute": float("selective" in recompute),
        "sharded_weights": float(sharded),
        "sharded_optimizer": float(bool(SHARDED_OPTIMIZER.search(sharding))),
    }
