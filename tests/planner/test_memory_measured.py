"""Peaks measured on B200 GPUs with Megatron-LM (torch's max_memory_allocated, GiB), published by
MooreThreads/SimuMax in docs/b200/b200_release_v1.2_summary.md. Those marked new had no part in
finding the conventions, nor any in fitting."""

from dataclasses import replace

import pytest

from planner.architecture import Architecture
from planner.catalog import models
from planner.memory import Layout, find_conventions, memory_bytes

GIB = 2.0**30


def architecture(model: str, layers: int) -> Architecture:
    """With fewer layers, the first of a mixture's dense, and no multi-token prediction, as
    simu_tools/megatron_scripts has them; Llama 3.1 405B with 16 groups of keys and values there."""
    whole, _ = models()[model].architecture()
    moe = None if whole.moe is None else replace(whole.moe, first_dense_layers=1)
    groups = 16 if model == "llama3.1-405b" else whole.kv_heads
    return replace(whole, layers=layers, moe=moe, mtp_layers=0, kv_heads=groups)


@pytest.mark.parametrize(
    ("model", "layers", "degrees", "seq_len", "published"),
    [
        ("llama3.1-70b", 12, {"data_parallel": 4, "tensor_parallel": 2}, 4096, 60.68),
        ("llama3.1-70b", 12, {"tensor_parallel": 8}, 4096, 28.29),
        ("llama3.1-70b", 12, {"context_parallel": 8}, 131_072, 147.99),
        ("llama3.1-70b", 12, {"context_parallel": 8}, 32_768, 104.51),
        ("llama3.1-405b", 4, {"data_parallel": 2, "tensor_parallel": 4}, 4096, 52.89),
        ("deepseek-v2", 4, {"data_parallel": 8, "expert_parallel": 8}, 4096, 45.63),
        ("deepseek-v3", 4, {"data_parallel": 8, "expert_parallel": 8}, 4096, 104.30),
        # new
        ("llama3.1-70b", 12, {"data_parallel": 4, "pipeline_parallel": 2}, 4096, 66.55),
        ("llama3.1-405b", 4, {"tensor_parallel": 8}, 4096, 38.57),
        ("llama3.1-405b", 4, {"data_parallel": 4, "pipeline_parallel": 2}, 4096, 87.08),
        ("llama3.1-405b", 4, {"tensor_parallel": 2, "context_parallel": 4}, 131_072, 118.13),
        (
            "deepseek-v2",
            4,
            {"data_parallel": 4, "expert_parallel": 4, "pipeline_parallel": 2},
            4096,
            44.70,
        ),
    ],
)
def test_a_measured_peak_is_met_within_five_per_cent(
    model: str, layers: int, degrees: dict[str, int], seq_len: int, published: float
) -> None:
    known = replace(find_conventions("SimuMax"), reserved_over_allocated=1.0)
    layout = Layout(zero_stage=1, gradient_accumulation=4, **degrees)  # type: ignore[arg-type]
    need = memory_bytes(
        architecture(model, layers), layout, seq_len, state=known.state, conventions=known
    )
    assert need / GIB == pytest.approx(published, rel=0.05)
