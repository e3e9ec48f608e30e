"""Asks mlsysim (Harvard, package index), by a Python that has it. benchmarks.peers.questions says
what comes in and goes out.

It knows interleaved pipelines and ZeRO, but no recomputation short of selective. Micro-batches are
told as its own search does: of a pipeline as its micro-batches, otherwise as gradient
accumulation. Gradients are reduced during the backward, as its own search assumes."""

import importlib
import warnings
from functools import cache
from importlib.metadata import version
from typing import Any

from benchmarks.peers.serve import serve

NODES = {
    "h100": ("DGX_H100", "InfiniBand_NDR", None),
    "a100": ("DGX_A100", "InfiniBand_HDR", None),
    "a100-40gb": ("DGX_A100", "InfiniBand_HDR", "NVIDIA A100 40GB"),
    "b200": ("DGX_B200", "InfiniBand_NDR", None),
}


@cache
def fleet(gpu: str, gpus: int, per_node: int) -> Any:
    systems = importlib.import_module("mlsysim.systems.registry").Systems
    hardware = importlib.import_module("mlsysim.hardware.registry").Hardware
    kinds = importlib.import_module("mlsysim.systems.types")
    node_name, fabric, chip = NODES[gpu]
    node = getattr(systems.Nodes, node_name)
    changed: dict[str, Any] = {"accelerators_per_node": per_node}
    if chip is not None:
        changed["accelerator"] = next(h for h in hardware.Cloud.list() if h.name == chip)
    return kinds.Fleet(
        name="asked",
        node=node.model_copy(update=changed),
        count=gpus // per_node,
        fabric=getattr(systems.Fabrics, fabric),
    )


@cache
def model(parameters: int, layers: int, hidden: int, heads: int, kv_heads: int, vocab: int) -> Any:
    kinds = importlib.import_module("mlsysim.models.types")
    units = importlib.import_module("mlsysim.core.units")
    return kinds.TransformerWorkload(
        name="asked",
        architecture="Transformer",
        parameters=parameters * units.ureg.count,
        layers=layers,
        hidden_dim=hidden,
        heads=heads,
        kv_heads=kv_heads,
        vocab_size=vocab,
    )


def price(run: dict[str, Any], efficiency: float | None) -> tuple[float, bool]:
    """Seconds of a step, and whether it fits. Raises ValueError where it is refused."""
    if run["gpu"] not in NODES:
        raise ValueError(f"no GPU {run['gpu']}")
    solvers = importlib.import_module("mlsysim.engine.solvers.distributed")
    pipelined = run["pp"] > 1
    told = {} if efficiency is None else {"efficiency": efficiency}
    found = solvers.DistributedModel().solve(
        model(*(run[n] for n in ("parameters", "layers", "hidden", "heads", "kv_heads", "vocab"))),
        fleet(run["gpu"], run["gpus"], run["gpus_per_node"]),
        batch_size=run["micro_batch"] * run["accumulation"] * run["dp"],
        tp_size=run["tp"],
        pp_size=run["pp"],
        v_stages=run["vp"],
        microbatch_count=run["accumulation"] if pipelined else 1,
        gradient_accumulation_steps=1 if pipelined else run["accumulation"],
        zero_stage=run["zero"],
        activation_recomputation=run["recompute"] == "full",
        overlap_comm=True,
        seq_len=run["seq_len"],
        **told,
    )
    return float(found.step_latency_total.m_as("s")), bool(found.node_profile.feasible)


if __name__ == "__main__":
    importlib.import_module("mlsysim")
    warnings.simplefilter("ignore")
    serve(version("mlsysim"), price)
