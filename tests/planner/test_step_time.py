from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog import models
from planner.comms import all_to_all_s, gather_s, link_bytes_per_s, way_out_slowdown
from planner.kernels import longer, matmul_s, roundup_quotient
from planner.step_inputs import BF16, Layout, Machine, Shape, Stack
from planner.step_shape import shape_of
from planner.step_time import StepTime, step_time

LLAMA_8B = shape_of(models()["llama3.1-8b"].architecture()[0], 8192, 8192 * 512)
LAYOUT = Layout(
    gpus=64.0,
    tp=2.0,
    pp=2.0,
    vp=1.0,
    cp=1.0,
    ep=1.0,
    micro_batch=1.0,
    full_recompute=0.0,
    attention_recompute=0.0,
    sharded_weights=0.0,
    sharded_optimizer=1.0,
)
H100 = Machine(
    matmul_flops_per_s=989.4e12,
    bf16_flops_per_s=989.4e12,
    hbm_bytes_per_s=3.35e12,
    link_bytes_per_s=450e9,
    network_bytes_per_s=50e9,
    gpus_per_domain=8.0,
    number_format=BF16,
)
STACK = Stack(
    matmul_share=0.75,
    fp8_share=0.6,
    block_fp8_share=0.5,
    fp4_share=0.4,
    half_size=100.0,
    attention_share=0.4,
    elementwise_bytes=60.0,
    host_s=1e-3,
    collective_latency_s=2e-6,
    pipelined_latency_s=2e-6,
    send_latency_s=1e-4,
    link_share=0.75,
    network_share=0.7,
    tensor_exposed=0.8,
    data_exposed=0.3,
    expert_share=0.6,
    scan_share=0.02,
    step_s=0.02,
    replica_latency_s=1e-4,
    gradient_bytes=4.0,
    balanced_stages=0.0,
    reduces_shares=1.0,
    flash=1.0,
    sequence_parallel=1.0,
)


def predict(
    shape: Shape = LLAMA_8B,
    layout: Layout = LAYOUT,
    machine: Machine = H100,
    stack: Stack = STACK,
) -> StepTime:
    return step_time(shape, layout, machine, stack)


def total(**changes: Any) -> float:
    """Of the example with some fields changed, each wherever it belongs."""
    parts: list[Any] = [LLAMA_8B, LAYOUT, H100, STACK]
    parts = [
        replace(part, **{k: v for k, v in changes.items() if hasattr(part, k)}) for part in parts
    ]
    return float(predict(*parts).total_s)


def test_the_example_runs_at_a_plausible_share_of_peak() -> None:
    # 3 × 2 FLOPs a weight and token, attention left out.
    matrices = 32 * (4096 * 2 * (4096 + 1024) + 3 * 4096 * 14336) + 128256 * 4096
    mfu = 6 * matrices * 8192 * 512 / 64 / total() / 989.4e12
    assert 0.3 < mfu < 0.6


def test_the_causes_add_up_to_the_total() -> None:
    time = predict()
    assert sum(vars(time).values()) == pytest.approx(time.total_s)
    assert all(part >= 0 for part in vars(time).values())


def test_many_layouts_at_once_are_priced_as_each_alone() -> None:
    tps, pps = np.array([1.0, 2.0, 8.0, 4.0]), np.array([1.0, 2.0, 4.0, 1.0])
    together = predict(layout=replace(LAYOUT, tp=tps, pp=pps)).total_s
    alone = [total(tp=tp, pp=pp) for tp, pp in zip(tps, pps, strict=True)]
    assert together == pytest.approx(alone)


@given(
    st.sampled_from(
        [
            "matmul_flops_per_s",
            "bf16_flops_per_s",
            "hbm_bytes_per_s",
            "link_bytes_per_s",
            "network_bytes_per_s",
        ]
    ),
    st.floats(1.01, 10.0),
    st.sampled_from([1.0, 2.0, 4.0, 8.0, 16.0]),
    st.sampled_from([1.0, 2.0, 4.0]),
    st.sampled_from([{}, {"zero_bubble": 1.0}, {"sharded_weights": 1.0, "shard_group": 2.0}]),
    st.sampled_from([1e-4, 1e-3, 1e-2]),
)
def test_a_faster_machine_is_never_slower(
    field: str,
    factor: float,
    tensor: float,
    stages: float,
    changed: dict[str, float],
    host_s: float,
) -> None:
    layout = replace(LAYOUT, tp=tensor, pp=stages, **changed)
    stack = replace(STACK, host_s=host_s)
    faster = replace(H100, **{field: getattr(H100, field) * factor})
    before = predict(layout=layout, stack=stack).total_s
    assert predict(layout=layout, machine=faster, stack=stack).total_s <= before * (1 + 1e-9)


@given(st.integers(1, 200), st.integers(1, 16), st.floats(0.0, 6.0))
def test_the_slowest_stage_holds_at_least_its_share(
    layers: int, stages: int, balanced: float
) -> None:
    from planner.step_time import slowest_stage_s

    shape = replace(LLAMA_8B, layers=float(layers))
    layout = replace(LAYOUT, pp=float(stages))
    head_s = balanced
    for stack in (STACK, replace(STACK, balanced_stages=1.0)):
        slot_s = float(slowest_stage_s(shape, layout, stack, 1.0, head_s))
        assert slot_s >= (layers + head_s) / stages - 1e-9
        assert slot_s <= layers + head_s + 1


def test_balanced_stages_make_room_for_a_heavy_output_head() -> None:
    from planner.step_time import slowest_stage_s

    shape, layout = replace(LLAMA_8B, layers=16.0), replace(LAYOUT, pp=2.0)
    balanced = replace(STACK, balanced_stages=1.0)
    # 16 layers and a head as long as four: ten layers, and six with the head.
    assert slowest_stage_s(shape, layout, balanced, 1.0, 4.0) == 10.0
    assert slowest_stage_s(shape, layout, STACK, 1.0, 4.0) == 12.0


def test_a_pipeline_of_few_micro_batches_waits_in_its_bubble() -> None:
    long = predict(replace(LLAMA_8B, tokens_per_step=8192.0 * 16 * 64), LAYOUT)
    short = predict(replace(LLAMA_8B, tokens_per_step=8192.0 * 16), LAYOUT)
    assert short.pipeline_s / short.total_s > 0.2 > 0.1 > long.pipeline_s / long.total_s


def test_interleaving_shortens_the_bubble() -> None:
    assert total(pp=4.0, vp=4.0) < total(pp=4.0, vp=1.0)


def test_zero_bubble_leaves_a_third_of_the_bubble_where_all_is_products() -> None:
    """As the paper has it for F = B = W (Qi et al. 2024, arXiv 2401.10241, section 2.1)."""
    shape = replace(LLAMA_8B, vocab=1.0)
    fast = {"network_bytes_per_s": 1e30, "link_bytes_per_s": 1e30, "hbm_bytes_per_s": 1e30}
    machine = replace(H100, **fast)
    none = dict.fromkeys(("elementwise_bytes", "host_s", "pipelined_latency_s", "half_size"), 0.0)
    stack = replace(STACK, attention_share=1e12, **none)
    plain, late = (
        predict(shape, replace(LAYOUT, pp=4.0, zero_bubble=late), machine, stack).pipeline_s
        for late in (0.0, 1.0)
    )
    assert late / plain == pytest.approx(1 / 3, rel=1e-3)


@given(st.sampled_from([1.0, 2.0, 4.0, 8.0]), st.sampled_from([1.0, 8.0]), st.floats(0.0, 1.0))
def test_zero_bubble_is_never_slower_and_its_bubble_never_below_none(
    stages: float, tensor: float, recompute: float
) -> None:
    layout = replace(LAYOUT, pp=stages, tp=tensor, full_recompute=float(recompute > 0.5))
    plain, late = predict(layout=layout), predict(layout=replace(layout, zero_bubble=1.0))
    assert late.pipeline_s >= 0
    assert late.total_s < plain.total_s if stages > 1 else late.total_s == plain.total_s


FSDP = replace(LAYOUT, tp=1.0, pp=1.0, micro_batch=1.0, sharded_weights=1.0)


def test_a_shard_group_of_all_replicas_is_no_group() -> None:
    assert predict(layout=replace(FSDP, shard_group=64.0)) == predict(layout=FSDP)


def test_sharding_within_a_node_spares_the_network_what_every_micro_batch_gathers() -> None:
    # Eight micro-batches: each gathers over the network, or within the node.
    whole, grouped = (
        predict(layout=replace(FSDP, shard_group=group)).data_parallel_s for group in (0.0, 8.0)
    )
    assert grouped < whole
    slower = replace(H100, network_bytes_per_s=5e9)
    gain = [
        predict(layout=replace(FSDP, shard_group=group), machine=slower).data_parallel_s
        for group in (0.0, 8.0)
    ]
    assert gain[0] / gain[1] > whole / grouped


def test_sharded_gradients_are_reduced_for_each_micro_batch() -> None:
    # Eight micro-batches, and one.
    for tokens, times in ((8192.0 * 512, 8), (8192.0 * 64, 1)):
        shape = replace(LLAMA_8B, tokens_per_step=tokens)
        layout = replace(FSDP, sharded_weights=0.0)
        stack = replace(STACK, data_exposed=1.0, replica_latency_s=0.0)
        once, each = (
            predict(shape, replace(layout, sharded_gradients=s), stack=stack).data_parallel_s
            for s in (0.0, 1.0)
        )
        # fp32 gradients reduced, bf16 weights gathered: 4 to 2 of the bytes.
        assert each / once == pytest.approx((4.0 * times + 2.0) / (4.0 + 2.0))


def test_a_group_updates_more_of_the_weights_each() -> None:
    grouped = predict(layout=replace(FSDP, shard_group=8.0))
    assert grouped.optimizer_s == pytest.approx(8 * predict(layout=FSDP).optimizer_s)


@given(
    st.sampled_from([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]),
    st.sampled_from(["link_bytes_per_s", "network_bytes_per_s"]),
    st.floats(1.01, 10.0),
)
def test_faster_links_never_slow_a_shard_group(group: float, field: str, factor: float) -> None:
    layout = replace(FSDP, shard_group=group)
    faster = replace(H100, **{field: getattr(H100, field) * factor})
    before = predict(layout=layout).total_s
    assert predict(layout=layout, machine=faster).total_s <= before * (1 + 1e-9)


def test_recomputing_costs_a_forward() -> None:
    ratio = total(full_recompute=1.0) / total()
    assert 1.2 < ratio < 1.4


def test_tensor_parallel_across_nodes_is_slower_than_within() -> None:
    within = predict(layout=replace(LAYOUT, tp=8.0)).tensor_parallel_s
    across = predict(layout=replace(LAYOUT, tp=16.0)).tensor_parallel_s
    assert across > within > 0


def test_one_gpu_alone_sends_nothing() -> None:
    time = predict(layout=replace(LAYOUT, gpus=1.0, tp=1.0, pp=1.0))
    sent = (time.tensor_parallel_s, time.data_parallel_s, time.pipeline_s, time.context_parallel_s)
    assert sent == (0.0, 0.0, 0.0, 0.0)


def test_a_slow_host_is_waited_for() -> None:
    assert predict(stack=replace(STACK, host_s=0.1)).host_s > 10 * predict().host_s


def test_an_all_gather_of_one_rank_takes_no_time_and_of_many_the_whole() -> None:
    assert gather_s(1e9, 1.0, bytes_per_s=1e9) == 0.0
    assert gather_s(1e9, 1000.0, bytes_per_s=1e9) == pytest.approx(0.999)


def test_a_ring_that_leaves_the_domain_uses_its_members_shares_of_the_network() -> None:
    def bandwidth(ranks: float) -> Any:
        return link_bytes_per_s(ranks, 8.0, inside=450e9, across=50e9, lanes=8.0)

    assert (bandwidth(8.0), bandwidth(16.0)) == (450e9, 400e9)


def test_an_all_to_all_that_leaves_its_pod_waits_for_the_way_out() -> None:
    def seconds(ranks: float, pod: float, oversubscription: float) -> Any:
        return all_to_all_s(
            8e9,
            ranks,
            8.0,
            inside=400e9,
            across=50e9,
            pod=pod,
            oversubscription=oversubscription,
        )

    assert seconds(64.0, 64.0, 4.0) == seconds(64.0, 8.0, 1.0)
    assert seconds(64.0, 32.0, 4.0) == pytest.approx(32 / 64 * 8e9 * 4.0 / 50e9)
    assert seconds(64.0, 8.0, 2.0) == pytest.approx(2.0 * seconds(64.0, 8.0, 1.0))


def test_rings_feel_oversubscription_by_how_much_of_their_pod_sends_outside() -> None:
    def slowdown(stride: float, span: float, pod: float, oversubscription: float) -> Any:
        return way_out_slowdown(
            stride, span, domain=8.0, pod=pod, oversubscription=oversubscription
        )

    # Within the pod; a pod of one node; of four nodes, of which one sends outside; and a ring each
    # of whose hops leaves the pod.
    assert slowdown(8.0, 64.0, 64.0, 4.0) == 1.0
    assert slowdown(1.0, 64.0, 8.0, 4.0) == 4.0
    assert slowdown(1.0, 64.0, 32.0, 4.0) == 1.0
    assert slowdown(1.0, 64.0, 32.0, 8.0) == 2.0
    assert slowdown(32.0, 128.0, 32.0, 3.0) == 3.0


@given(
    st.sampled_from([1.0, 8.0, 16.0]),
    st.sampled_from([1.0, 2.0, 4.0]),
    st.floats(1.0, 8.0),
    st.floats(1.0, 8.0),
    st.sampled_from([8.0, 16.0, 32.0]),
)
def test_more_oversubscription_is_never_faster(
    tensor: float, stages: float, before: float, more: float, pod: float
) -> None:
    layout = replace(LAYOUT, tp=tensor, pp=stages)
    some = replace(H100, oversubscription=before, gpus_per_pod=pod)
    worse = replace(some, oversubscription=before * more)
    total_s = predict(layout=layout, machine=some).total_s
    assert predict(layout=layout, machine=worse).total_s >= total_s * (1 - 1e-9)


def test_an_all_to_all_across_domains_waits_for_the_network() -> None:
    near = all_to_all_s(8e9, 8.0, 8.0, inside=400e9, across=50e9)
    far = all_to_all_s(8e9, 64.0, 8.0, inside=400e9, across=50e9)
    assert near == pytest.approx(7 / 8 * 8e9 / 400e9)
    assert far == pytest.approx(56 / 64 * 8e9 / 50e9)


@given(st.floats(1e-6, 10.0), st.floats(1e-6, 10.0))
def test_two_things_at_once_take_at_least_the_longer_and_at_most_both(a: float, b: float) -> None:
    assert max(a, b) * (1 - 1e-9) <= longer(a, b) <= (a + b) * (1 + 1e-9)


@given(st.integers(1, 10_000), st.integers(1, 512))
def test_rounding_up_holds_everything_and_no_unit_too_many(amount: int, size: int) -> None:
    units = roundup_quotient(float(amount), float(size))
    assert units * size >= amount > (units - 1) * size


def test_a_large_product_reaches_the_rate_and_a_thin_one_the_memory() -> None:
    def seconds(m: float) -> Any:
        return matmul_s(m, 8192.0, 8192.0, flops_per_s=700e12, hbm_bytes_per_s=3e12, half_size=0.0)

    assert seconds(16384.0) == pytest.approx(2 * 16384 * 8192 * 8192 / 700e12, rel=0.01)
    assert seconds(1.0) == pytest.approx(2 * 8192 * 8192 / 3e12, rel=0.01)
