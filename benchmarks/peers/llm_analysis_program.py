"""Asks llm-analysis (Cheng Li, package index), by a Python that has it. benchmarks.peers.questions
says what comes in and goes out."""

import importlib
import logging
from importlib.metadata import version
from typing import Any

from benchmarks.peers.serve import serve

GPUS = {"h100": "h100-sxm-80gb", "a100": "a100-sxm-80gb", "a100-40gb": "a100-sxm-40gb"}
RECOMPUTES = {"none": 0, "selective": 1, "full": 2}


def price(run: dict[str, Any], efficiency: float | None) -> tuple[float, bool]:
    """Seconds of a step, and whether it fits. Raises AssertionError or ValueError where it
    is refused."""
    if run["gpu"] not in GPUS:
        raise ValueError(f"no GPU {run['gpu']}")
    analysis = importlib.import_module("llm_analysis.analysis")
    config = importlib.import_module("llm_analysis.config")
    model = config.ModelConfig(
        name="asked",
        num_layers=run["layers"],
        n_head=run["heads"],
        hidden_dim=run["hidden"],
        vocab_size=run["vocab"],
        max_seq_len=run["seq_len"],
        num_key_value_heads=run["kv_heads"],
        ffn_embed_dim=run["ffn"],
        expansion_ratio=run["ffn"] / run["hidden"],
    )
    parallel = config.ParallelismConfig(
        tp_size=run["tp"], pp_size=run["pp"], dp_size=run["dp"], sp_size=run["tp"]
    )
    found = analysis.LLMAnalysis(
        model,
        config.get_gpu_config_by_name(GPUS[run["gpu"]]),
        parallelism_config=parallel,
        flops_efficiency=efficiency,
    ).training(
        # All three given, it prices what does not fit, too.
        batch_size_per_gpu=run["micro_batch"],
        gradient_accumulation_steps=run["accumulation"],
        global_batch_size=run["micro_batch"] * run["accumulation"] * run["dp"],
        seq_len=run["seq_len"],
        ds_zero=analysis.DSZeRO(run["zero"]),
        activation_recomputation=analysis.ActivationRecomputation(RECOMPUTES[run["recompute"]]),
        mlp_gated_linear_units=run["gated"],
    )
    return found["latency_per_iter"], found["memory_left_per_gpu"] >= 0


if __name__ == "__main__":
    importlib.import_module("llm_analysis.analysis")
    logging.disable(logging.CRITICAL)  # it would spend most of its time on log lines
    serve(version("llm-analysis"), price)
