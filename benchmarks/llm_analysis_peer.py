"""Prices layouts by llm-analysis (Cheng Li, package index), run by a Python that has it: JSON on
standard input, JSON on standard output. benchmarks.layout_search --peer calls it."""

import contextlib
import importlib
import json
import sys
from time import perf_counter
from typing import Any


def price(question: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a step for each layout, None where it refuses one, and how long that took."""
    analysis = importlib.import_module("llm_analysis.analysis")
    config = importlib.import_module("llm_analysis.config")
    model = config.ModelConfig(**question["model"])
    gpu = config.get_gpu_config_by_name(question["gpu"])
    times: list[float | None] = []
    began = perf_counter()
    for layout in question["layouts"]:
        parallel = config.ParallelismConfig(
            tp_size=layout["tp"], pp_size=layout["pp"], dp_size=layout["dp"], sp_size=layout["tp"]
        )
        try:
            found = analysis.LLMAnalysis(
                model,
                gpu,
                parallelism_config=parallel,
                flops_efficiency=question["flops_efficiency"],
                hbm_memory_efficiency=question["hbm_memory_efficiency"],
            ).training(
                batch_size_per_gpu=layout["micro_batch"],
                gradient_accumulation_steps=layout["accumulation"],
                seq_len=question["seq_len"],
                ds_zero=analysis.DSZeRO(layout["zero"]),
                activation_recomputation=analysis.ActivationRecomputation(layout["recompute"]),
                mlp_gated_linear_units=True,
            )
            times.append(found["latency_per_iter"])
            params = found["num_params_total"]
        except (AssertionError, ValueError):
            times.append(None)
    return {"times_s": times, "took_s": perf_counter() - began, "params": params}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        answer = price(asked)
    json.dump(answer, sys.stdout)
