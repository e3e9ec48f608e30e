"""Asks calculon (Isaev et al. 2023, "Calculon: a methodology and tool for high-level co-design of
systems and large language models", SC 23), which no package index has: from the checkout that the
argument names. benchmarks.peers.questions says what comes in and goes out.

It knows dense GPT-like models (two matrices a feed-forward, no grouped queries, no output head) and
Megatron's parallelism; a sharded optimiser, but no sharded weights. Its GPUs are those of its
systems/*.json; a share of the peak multiplies their matrix rate. Gradients are reduced during the
backward, tensor-parallel traffic is not hidden."""

import copy
import importlib
import json
import logging
import sys
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.peers.serve import serve

SYSTEMS = {"h100": "h100_80g_nvl8.json", "a100": "a100_80g.json"}
RECOMPUTES = {"none": "none", "selective": "attn_only", "full": "full"}
ENDLESS_GIB = 10**6


@cache
def system(gpu: str, share: float | None, endless: bool) -> Any:
    """Its description of a node of eight; with memory without end to price what does not fit."""
    text = (Path(sys.argv[1]) / "systems" / SYSTEMS[gpu]).read_text("utf-8")
    content = copy.deepcopy(json.loads(text))
    if share is not None:
        content["matrix"]["float16"]["tflops"] *= share
    if endless:
        content["mem1"]["GiB"] = ENDLESS_GIB
    return importlib.import_module("calculon.system").System(content)


def step_s(run: dict[str, Any], share: float | None, *, endless: bool) -> float:
    llm = importlib.import_module("calculon.llm.llm").Llm
    ranks = run["tp"] * run["pp"]
    application = llm.Application(
        {
            "hidden": run["hidden"],
            "feedforward": run["ffn"],
            "seq_size": run["seq_len"],
            "attn_heads": run["heads"],
            "attn_size": run["hidden"] // run["heads"],
            "num_blocks": run["layers"],
        }
    )
    execution = llm.Execution.from_json(
        {
            "num_procs": run["gpus"],
            "tensor_par": run["tp"],
            "pipeline_par": run["pp"],
            "data_par": run["dp"],
            "tensor_par_net": int(run["tp"] > 8),
            "pipeline_par_net": int(ranks > 8),
            "data_par_net": int(run["gpus"] > 8),
            "batch_size": run["micro_batch"] * run["accumulation"] * run["dp"],
            "microbatch_size": run["micro_batch"],
            "datatype": "float16",
            "fused_activation": True,
            "attention_type": "multihead",
            "activation_recompute": RECOMPUTES[run["recompute"]],
            "pipeline_interleaving": run["vp"],
            "optimizer_sharding": run["zero"] > 0 and run["dp"] > 1,
            "tensor_par_comm_type": "rs_ag" if run["tp"] > 1 else "ar",
            "tensor_par_overlap": "none",
            "seq_par_ag_redo": False,
            "data_par_overlap": run["dp"] > 1,
            "weight_offload": False,
            "activations_offload": False,
            "optimizer_offload": False,
            "training": True,
        }
    )
    model = llm(application, logging.getLogger("calculon"))
    where = system(run["gpu"], share, endless)
    try:
        model.compile(where, execution)
        model.run(where)
    except llm.Error as error:
        raise ValueError(str(error)) from None
    return float(model.get_total_time())


def price(run: dict[str, Any], share: float | None) -> tuple[float, bool]:
    """Seconds of a step, and whether it fits. Raises AssertionError or ValueError where it is
    refused."""
    for told, why in (
        (run["gpu"] not in SYSTEMS, f"no GPU {run['gpu']}"),
        (run["gated"], "a gated feed-forward"),
        (run["kv_heads"] != run["heads"], "grouped queries"),
        (run["zero"] == 3, "sharded weights"),
    ):
        if told:
            raise ValueError(why)
    try:
        return step_s(run, share, endless=False), True
    except ValueError as error:
        if not str(error).startswith("Mem tier1"):
            raise
        return step_s(run, share, endless=True), False


if __name__ == "__main__":
    sys.path.append(sys.argv[1])
    serve(importlib.import_module("calculon").__version__, price)
