"""Memory of layers that are not dense attention, and laws that hold for every layout."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.architecture import (
    MLA,
    Architecture,
    GatedDeltaNet,
    Mamba2,
    MoE,
    architecture_of,
)
from planner.catalog import models
from planner.memory import (
    MIXED_STATE,
    Conventions,
    Layout,
    Recompute,
    Schedule,
    find_conventions,
    memory_bytes,
    memory_lines,
    rank_parameters,
    rank_routed_parameters,
)
from planner.params import matrix_counts, parameter_count, vector_counts
from smolplan.spec import load_preset

SMOLLM3 = architecture_of(load_preset("smollm3-3b").model)
DENSE = Architecture(
    layers=8,
    hidden=1024,
    heads=16,
    kv_heads=16,
    head_dim=64,
    ffn_hidden=4096,
    vocab_size=32_768,
    tied_embeddings=False,
)
EXPERTS = replace(DENSE, moe=MoE(16, experts_per_token=2, expert_ffn_hidden=2048))
TOKENS = 2048


def lines(arch: Architecture, layout: Layout = Layout()) -> dict[str, float]:  # noqa: B008
    return {line.name: line.value for line in memory_lines(arch, layout, TOKENS)}


def test_experts_bring_lines_of_their_own() -> None:
    dense, mixture = lines(DENSE), lines(EXPERTS)
    assert {"routed activations", "dispatched tokens"} == mixture.keys() - dense.keys()
    assert mixture["routed activations"] == 8 * TOKENS * 3 * 2 * 2048 * 2
    assert mixture["dispatched tokens"] == 8 * TOKENS * (2 * 2 * 1024 * 2 + 4 * 16)


def test_experts_are_split_among_expert_parallel_ranks_and_sharded_among_their_copies() -> None:
    routed = matrix_counts(EXPERTS, active=False)["routed experts"]
    spread = Layout(data_parallel=16, expert_parallel=8)
    assert rank_routed_parameters(EXPERTS, spread) == routed / 8
    whole = parameter_count(EXPERTS)
    assert lines(EXPERTS, spread)["weights"] == 4 * (whole - routed + routed / 8)
    sharded = replace(spread, zero_stage=1)
    assert lines(EXPERTS, sharded)["optimiser state"] == 8 * whole / 16


@pytest.mark.parametrize("pipeline", [1, 2, 4])
def test_a_stage_of_experts_only_holds_more_than_one_with_the_dense_layers(pipeline: int) -> None:
    moe = MoE(16, experts_per_token=2, expert_ffn_hidden=2048, first_dense_layers=1)
    arch = replace(EXPERTS, moe=moe)
    one = 3 * 1024 * 2048 * 16
    layers = 8 // pipeline
    layout = Layout(pipeline_parallel=pipeline)
    first = rank_routed_parameters(arch, layout)
    last = rank_routed_parameters(arch, layout, last_stage=True)
    assert last == (layers if pipeline > 1 else 7) * one
    # In a longer pipeline the second stage stands for the first.
    assert first == (layers - 1 if pipeline <= 2 else layers) * one


def test_deepseek_v3_takes_what_it_was_measured_to_take() -> None:
    # 4 layers, the first dense, on 8 ranks: 104.30 GiB allocated (SimuMax, B200, v1.2)
    whole, _ = models()["deepseek-v3"].architecture()
    assert whole.moe is not None
    arch = replace(whole, layers=4, mtp_layers=0, moe=replace(whole.moe, first_dense_layers=1))
    layout = Layout(data_parallel=8, expert_parallel=8, zero_stage=1)
    known = replace(find_conventions("SimuMax"), reserved_over_allocated=1.0)
    need = memory_bytes(arch, layout, 4096, state=known.state, conventions=known)
    assert need == pytest.approx(104.30 * 2**30, rel=0.02)


def test_latent_attention_keeps_the_latents_beside_what_they_become() -> None:
    mla = MLA(
        kv_lora_rank=256, q_lora_rank=None, qk_nope_head_dim=32, qk_rope_head_dim=32, v_head_dim=64
    )
    arch = replace(DENSE, mla=mla)
    more = lines(arch)["activations"] - lines(DENSE)["activations"]
    assert more == 8 * TOKENS * 2 * (2 * 256 + 32)


def test_mamba_layers_keep_a_state_a_chunk() -> None:
    mamba = Mamba2(layers=6, heads=32, head_dim=64, state_size=128, chunk_size=256)
    arch = replace(DENSE, mamba=mamba)
    found = lines(arch)
    assert found["recurrent states"] == 6 * (TOKENS / 256) * 32 * 64 * 128 * 4
    mixer = (2 * 2048 + 2 * 128 + 32) + (2048 + 2 * 128) + 2 * 2048
    attention = 2 * (1024 + 1024)
    kept = 8 * (8 * 1024 + 3 * 4096) + 6 * mixer + 2 * attention
    assert found["activations"] == TOKENS * 2 * kept


def test_linear_attention_keeps_a_state_a_chunk() -> None:
    net = GatedDeltaNet(
        layers=6, key_heads=8, value_heads=16, key_head_dim=64, value_head_dim=64, chunk_size=64
    )
    found = lines(replace(DENSE, delta_net=net))
    assert found["recurrent states"] == 6 * (TOKENS / 64) * 16 * 64 * 64 * 4


def test_every_published_model_has_its_bytes_counted() -> None:
    for row in models().values():
        arch, _ = row.architecture()
        found = lines(arch)
        assert found["weights"] == pytest.approx(4 * row.parameters, rel=1e-3), row.name
        assert ("routed activations" in found) == (arch.moe is not None), row.name
        recurrent = arch.mamba is not None or arch.delta_net is not None
        assert ("recurrent states" in found) == recurrent, row.name


ARCHITECTURES = st.sampled_from([SMOLLM3, DENSE, EXPERTS])
STACKS = st.sampled_from(
    [
        Conventions(),
        Conventions(score_bytes=5, dropout=True, sequence_parallel=False, hidden_tensors=4),
        Conventions(
            weight_workspace_bytes=2, gated_tensors=4, gathers_stage=False, gathered_tensors=2
        ),
    ]
)
SCHEDULES: tuple[Schedule, ...] = ("1f1b", "zero-bubble")


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    pipeline = draw(st.sampled_from([1, 2, 4]))
    schedule = draw(st.sampled_from(SCHEDULES))
    return Layout(
        data_parallel=draw(st.sampled_from([2, 8, 16])),
        tensor_parallel=draw(st.sampled_from([1, 2, 4])),
        pipeline_parallel=pipeline,
        context_parallel=draw(st.sampled_from([1, 2])),
        zero_stage=draw(st.integers(0, 3)),
        micro_batch_size=draw(st.integers(1, 4)),
        gradient_accumulation=draw(st.sampled_from([8, 16])),
        schedule=schedule,
    )


def need(arch: Architecture, layout: Layout, stack: Conventions, seq_len: int = 4096) -> float:
    return float(memory_bytes(arch, layout, seq_len, state=MIXED_STATE, conventions=stack))


@given(ARCHITECTURES, layouts(), STACKS)
def test_more_sharding_never_needs_more(arch: Architecture, layout: Layout, s: Conventions) -> None:
    stages = [need(arch, replace(layout, zero_stage=stage), s) for stage in range(4)]
    assert stages == sorted(stages, reverse=True)


@given(ARCHITECTURES, layouts(), STACKS)
def test_more_recomputation_never_needs_more(
    arch: Architecture, layout: Layout, s: Conventions
) -> None:
    modes: tuple[Recompute, ...] = ("none", "selective", "full")
    needs = [need(arch, replace(layout, recompute=mode), s) for mode in modes]
    assert needs == sorted(needs, reverse=True)


@settings(max_examples=300, deadline=None)
@given(ARCHITECTURES, layouts(), STACKS)
def test_twice_the_tensor_parallel_ranks_never_need_more_each(
    arch: Architecture, layout: Layout, s: Conventions
) -> None:
    twice = replace(layout, tensor_parallel=layout.tensor_parallel * 2)
    assert need(arch, twice, s) <= need(arch, layout, s)


@settings(max_examples=300, deadline=None)
@given(ARCHITECTURES, layouts(), STACKS)
def test_twice_the_stages_never_need_more_each(
    arch: Architecture, layout: Layout, s: Conventions
) -> None:
    """But for FSDP that begins with a pipeline to keep its whole stage gathered."""
    twice = replace(layout, pipeline_parallel=layout.pipeline_parallel * 2)
    begins = layout.pipeline_parallel == 1 and layout.zero_stage >= 2 and s.gathers_stage
    if arch.layers % twice.pipeline_parallel == 0 and not begins:
        assert need(arch, twice, s) <= need(arch, layout, s)


@given(ARCHITECTURES, layouts(), STACKS, st.sampled_from([1024, 2048, 8192]))
def test_a_longer_sequence_never_needs_less(
    arch: Architecture, layout: Layout, s: Conventions, seq_len: int
) -> None:
    assert need(arch, layout, s, 2 * seq_len) >= need(arch, layout, s, seq_len)


@pytest.mark.parametrize("name", models())
def test_one_rank_holds_every_parameter_of_a_published_model(name: str) -> None:
    arch, _ = models()[name].architecture()
    # Where layers differ, matrices and each kind of vector are means over them, rounded up.
    alike = not (arch.moe or arch.mamba or arch.delta_net)
    kinds = 1 + len(vector_counts(arch))
    beyond = rank_parameters(arch, Layout()) - parameter_count(arch)
    assert 0 <= beyond <= (0 if alike else kinds * (arch.layers - 1))


@settings(deadline=None)
@given(layouts(), st.integers(0, 3), st.booleans())
def test_shards_add_up_to_the_whole(layout: Layout, stage: int, tied: bool) -> None:
    """Over stages, tensor-parallel ranks and shards: the model's parameters, what tensor parallel
    repeats (vectors) and a tied head's copy counted as often as they are held."""
    arch = replace(SMOLLM3, tied_embeddings=tied)
    layout = replace(layout, zero_stage=stage, context_parallel=1)
    p, tp = int(layout.pipeline_parallel), int(layout.tensor_parallel)
    vectors = 36 * 2 * 2048 + 2048
    table = 128_256 * 2048
    copies = table if tied and p > 1 else 0
    inner_stages = max(0, p - 2)
    ends = [False, True] if p > 1 else [True]
    held = sum(rank_parameters(arch, layout, last_stage=end) for end in ends) * tp
    # An inner stage is an end without its table; every stage counts the last norm.
    held += inner_stages * (rank_parameters(arch, layout) * tp - table)
    repeated = (tp - 1) * vectors + (p - 1) * tp * 2048
    assert held == parameter_count(arch) + copies + repeated
    for name, per_param, from_stage in (
        ("weights", 2, 3),
        ("gradients", 2, 2),
        ("optimiser state", 12, 1),
    ):
        found = {
            line.name: line.value for line in memory_lines(arch, layout, 4096, state=MIXED_STATE)
        }
        ranks = int(layout.data_parallel) if stage >= from_stage else 1
        assert found[name] * ranks == pytest.approx(per_param * rank_parameters(arch, layout))
