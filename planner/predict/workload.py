"""What a row describes, as the step-time model sees it: shape, layout, machine, with every
default stated here."""

import re
from dataclasses import dataclass

from planner.predict.catalog import (
    Accelerator,
    SoftwareStack,
    find_accelerator,
    find_stack,
)
from planner.predict.rows import Row
from planner.step_inputs import BF16, BLOCK_FP8, FP4, FP8

UNGATED = re.compile(r"gpt|mpt|opt|bloom|nemotron|neox|megatron|mt-nlg|pythia|falcon", re.I)
"""Families whose feed-forward has two matrices; others have a gate (as their papers say)."""
GATED_ALL_THE_SAME = re.compile(r"gpt-oss", re.I)
HEAD_DIMS = {"qwen3-next": 256.0, "qwen3": 128.0, "gpt-oss": 64.0, "gemma": 256.0}
"""Where heads × head dimension is not the hidden width, by their published configurations."""
EXPERTS = re.compile(r"(\d+) experts,? top-?(\d+)", re.I)
MIXTURES = re.compile(r"moe|deepseek-?v[23]|mixtral|-a\d+(\.\d+)?b|kimi-k2|llama4|gpt-oss", re.I)
"""Names that a mixture of experts goes by."""
HYBRIDS = re.compile(r"nemotron-?(3|h)\b|mamba|jamba|qwen3-next|zamba|granite-?4", re.I)
"""Models whose layers are not all attention."""
DENSE_FROM = 0.98
"""Active over all parameters from which a model counts as dense."""
SHARDED = re.compile(r"zero-?3|fsdp", re.I)
SHARDED_OPTIMIZER = re.compile(r"zero-?[123]|distopt|fsdp|dist-opt|hsdp", re.I)
EIGHT_BITS = re.compile(r"fp8|int8", re.I)
FOUR_BITS = re.compile(r"fp4", re.I)
BLOCK_SCALED = re.compile(r"mxfp8|fp8-mx|rowwise|block", re.I)


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


INTERLEAVED = re.compile(r"(?<!non-)interleaved", re.I)
MANY_CHUNKS = 12.0
MICRO_BATCH_TOKENS = 16384.0
NETWORK = re.compile(r"(\d+) ?Gb(?:ps|/s|it/s)/(node|GPU)", re.I)


def _network_bytes_per_s(row: Row, gpus_per_node: float) -> float | None:
    """What the notes say of a GPU's network, as in "800 Gbps/node"."""
    said = NETWORK.search(row.text("notes"))
    if said is None:
        return None
    return float(said[1]) * 1e9 / 8.0 / (gpus_per_node if said[2].lower() == "node" else 1.0)


NEEDED = (
    "layers",
    "hidden",
    "heads",
    "vocab",
    "seq_len",
    "global_batch_tokens",
    "gpus",
    "tp",
    "pp",
)


def lacking(row: Row) -> str | None:
    """Why nothing can be predicted for a row; None if it can."""
    empty = [name for name in NEEDED if name not in row.numbers]
    if SHARDED.search(row.text("dp_or_zero")):
        empty = [name for name in empty if name not in ("tp", "pp")]
    if empty:
        return "no " + ", ".join(empty)
    if find_accelerator(row.text("gpu")) is None:
        return f"GPU {row.text('gpu') or 'unnamed'} is not in the catalogue"
    ranks = _parallel(row, "tp") * _parallel(row, "pp") * row.number("cp", 1.0)
    if row.numbers["gpus"] % ranks:
        return "tp × pp × cp does not divide the GPUs"
    if row.numbers["global_batch_tokens"] < row.numbers["seq_len"]:
        return "the global batch is shorter than a sequence"
    if HYBRIDS.search(row.text("model")):
        return "a hybrid with state-space or linear-attention layers, which are not modelled"
    params, active = row.number("params_b", 0.0), row.number("active_b", 0.0)
    sparse = 0 < active < DENSE_FROM * params
    told = EXPERTS.search(row.text("notes")) or EXPERTS.search(row.text("source"))
    if MIXTURES.search(row.text("model")) and not (sparse or told):
        return "a mixture of experts without active_b"
    if (sparse or told) and "ffn" not in row.numbers:
        return "a mixture of experts without the width of one (ffn)"
    return None


def _parallel(row: Row, name: str) -> float:
    """Tensor or pipeline parallel; a run that shards its weights and names none has none."""
    return row.number(name, 1.0)


def workload_of(row: Row) -> Workload:
    """A row that lacks nothing (see `lacking`), with its defaults filled in."""
    accelerator = find_accelerator(row.text("gpu"))
    assert accelerator is not None
    shape = _shape(row)
    stack = find_stack(" | ".join(row.text(c) for c in ("model", "source", "notes")))
    layout = _layout(row, stack)
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
    causal, full = flops_per_token(shape)
    return Workload(row, accelerator, stack, shape, layout, machine, causal, full)


def _shape(row: Row) -> dict[str, float]:
    n = row.numbers
    hidden, layers, heads, vocab = n["hidden"], n["layers"], n["heads"], n["vocab"]
    kv_heads = min(row.number("kv_heads", heads), heads)
    model = row.text("model").lower()
    head_dim = next((d for name, d in HEAD_DIMS.items() if name in model), hidden / heads)
    query, kv = heads * head_dim, kv_heads * head_dim
    attention = hidden * 2.0 * (query + kv)
    gated = not UNGATED.search(model) or bool(GATED_ALL_THE_SAME.search(model))
    matrices = 3.0 if gated else 2.0
    # Parameters decide whether there is a gate, where both are published.
    per_layer = (row.number("params_b", 0.0) * 1e9 - vocab * hidden) / layers - attention
    default_ffn = 4.0 * hidden if not gated else 8.0 / 3.0 * hidden
    if "ffn" not in n and per_layer > 0:
        default_ffn = per_layer / (matrices * hidden)
    ffn = row.number("ffn", default_ffn)
    active, experts = 1.0, 1.0
    params = row.number("params_b", 0.0) * 1e9
    active_params = row.number("active_b", params / 1e9) * 1e9
    named = EXPERTS.search(row.text("notes")) or EXPERTS.search(row.text("source"))
    one = matrices * hidden * ffn
    if 0 < active_params < DENSE_FROM * params:
        embeddings = 2.0 * vocab * hidden
        active = max(1.0, ((active_params - embeddings) / layers - attention) / one)
        experts = max(active, round(((params - embeddings) / layers - attention) / one))
    elif named:
        experts, active = float(named[1]), float(named[2])
    if active_params >= DENSE_FROM * params and "ffn" in n and params > 0:
        matrices = min((2.0, 3.0), key=lambda m: abs(per_layer - m * hidden * ffn))
    elif named and params > 0:
        matrices = min((2.0, 3.0), key=lambda m: abs(per_layer - experts * m * hidden * ffn))
    return {
        "layers": layers,
        "hidden": hidden,
        "query_width": query,
        "kv_width": kv,
        "heads": heads,
        "ffn": ffn,
        "ffn_matrices": matrices,
        "active_experts": active,
        "experts": experts,
        "vocab": vocab,
        "seq_len": n["seq_len"],
        "tokens_per_step": n["global_batch_tokens"],
    }


def _usual_chunks(row: Row, stack: SoftwareStack) -> float:
    """Virtual stages where none are given: two where the notes say interleaved; as many as there
    are layers, up to MANY_CHUNKS, in a stack that interleaves by default; else one."""
    if INTERLEAVED.search(row.text("notes")):
        return 2.0
    chunks = row.numbers["layers"] / _parallel(row, "pp")
    return max(1.0, min(chunks // 1, MANY_CHUNKS)) if stack.interleaves else 1.0


def _usual_micro_batch(row: Row, local: float) -> float:
    """Where none is given: one sequence in a pipeline, which wants many; otherwise the local batch
    up to MICRO_BATCH_TOKENS."""
    if _parallel(row, "pp") > 1:
        return 1.0
    return max(1.0, min(local, MICRO_BATCH_TOKENS // row.numbers["seq_len"]))


def _layout(row: Row, stack: SoftwareStack) -> dict[str, float]:
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
        "vp": row.number("vp", _usual_chunks(row, stack)),
        "cp": cp,
        "ep": row.number("ep", 1.0),
        "micro_batch": micro_batch,
        "full_recompute": float(full),
        "attention_recompute": float("selective" in recompute),
        "sharded_weights": float(sharded),
        "sharded_optimizer": float(bool(SHARDED_OPTIMIZER.search(sharding))),
    }


def flops_per_token(shape: dict[str, float]) -> tuple[float, float]:
    """Model FLOPs of training one token, with causal and with full attention: 3 × (2 × weights
    of the matrices that it meets + 4 × query width × keys); no embedding, no recomputation."""
    attention = shape["hidden"] * 2.0 * (shape["query_width"] + shape["kv_width"])
    ffn = shape["active_experts"] * shape["ffn_matrices"] * shape["hidden"] * shape["ffn"]
    matrices = shape["layers"] * (attention + ffn) + shape["vocab"] * shape["hidden"]
    scores = 4.0 * shape["layers"] * shape["query_width"]
    causal = 3.0 * (2.0 * matrices + scores * (shape["seq_len"] + 1.0) / 2.0)
    return causal, 3.0 * (2.0 * matrices + scores * shape["seq_len"])
