import heapq
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog import find_gpu
from planner.inference import cache_shape, kv_bytes_per_token, weight_bytes
from planner.params import parameter_count
from planner.posttrain import LogNormalLengths
from planner.rl import RlPlan, concurrent_sequences, rl, train_flops_per_token
from smolplan.spec import load_preset

MODEL = load_preset("smollm3-3b").model
PLAN = RlPlan(
    params=float(parameter_count(MODEL)),
    forward_flops=2.0 * parameter_count(MODEL),
    cache=cache_shape(MODEL),
    gpu=find_gpu("h100"),
    gpus=16,
    rollout_share=0.75,
    gpus_per_engine=1,
    steps=100,
    prompts=64,
    samples=16,
    prompt_tokens=300.0,
    lengths=LogNormalLengths(mean=4000, sigma=0.8, longest=32_000),
    train_flops_per_s=216e12,
    decode_efficiency=1.0,
    reference=True,
)


def simulated_sample_s(plan: RlPlan, places: int, seed: int) -> tuple[float, float]:
    """One synchronous step's sampling, event by event: each engine starts its next response as a
    place falls free. Returns seconds until the last engine ends and the share of places taken."""
    source = random.Random(seed)
    lengths = plan.lengths
    mu = math.log(lengths.mean) - lengths.sigma**2 / 2
    bandwidth = plan.gpu.hbm_bytes_per_s * plan.decode_efficiency
    per_token = kv_bytes_per_token(plan.cache)
    last_step, cache_s, tokens = 0.0, 0.0, 0.0
    each = plan.sequences // plan.gpus
    together = min(each, places)
    for _ in range(plan.gpus):
        free = [0.0] * together
        mine = 0.0
        for _ in range(each):
            length = min(source.lognormvariate(mu, lengths.sigma), lengths.longest)
            heapq.heappush(free, heapq.heappop(free) + length)
            mine += per_token * (plan.prompt_tokens * length + length**2 / 2) / bandwidth
            tokens += length
        last_step, cache_s = max(last_step, *free), cache_s + mine / plan.gpus
    weights_s = weight_bytes(plan.params, "bf16") / bandwidth
    return last_step * weights_s + cache_s, tokens / (last_step * together * plan.gpus)


@pytest.mark.parametrize("prompts", [64, 512])
def test_the_closed_form_of_a_synchronous_step_agrees_with_a_seeded_simulation(
    prompts: int,
) -> None:
    """Within 5 %: with places for all (64), and with several responses a place (512)."""
    plan = replace(PLAN, prompts=prompts)
    places = concurrent_sequences(plan)
    assert (plan.sequences / plan.gpus > places) == (prompts == 512)
    runs = [simulated_sample_s(plan, places, seed) for seed in range(20)]
    answer = rl(plan).synchronous
    assert math.isclose(answer.sample_s, sum(s for s, _ in runs) / 20, rel_tol=0.05)
    assert math.isclose(answer.rollout_utilisation, sum(u for _, u in runs) / 20, rel_tol=0.05)


def test_asynchronous_generation_pays_more_the_longer_the_tail() -> None:
    """In balance, with the same mean."""

    def speedup(sigma: float) -> float:
        lengths = LogNormalLengths(mean=4000, sigma=sigma, longest=64_000)
        plan = replace(PLAN, lengths=lengths)
        return rl(replace(plan, rollout_share=rl(plan).best_rollout_share)).speedup

    gains = [speedup(sigma) for sigma in (0.0, 0.5, 1.0)]
    assert gains == sorted(gains)
    assert gains[0] < 1.2
    assert gains[2] > 1.8


def test_in_balance_neither_part_waits_and_off_it_one_does() -> None:
    even = replace(PLAN, rollout_share=rl(PLAN).best_rollout_share)
    even = replace(even, rollout_share=rl(even).best_rollout_share)
    mode = rl(even).asynchronous
    assert mode.rollout_utilisation > 0.97
    assert mode.training_utilisation > 0.97
    few = rl(replace(PLAN, rollout_share=0.2)).asynchronous
    assert few.rollout_utilisation == 1.0
    assert few.training_utilisation < 0.5


def test_training_counts_the_policy_its_old_self_and_the_reference() -> None:
    assert train_flops_per_token(PLAN) == (6 + 2 + 2) * PLAN.params
    assert train_flops_per_token(replace(PLAN, reference=False)) == (6 + 2) * PLAN.params
    assert train_flops_per_token(replace(PLAN, epochs=2.0)) == (12 + 2 + 2) * PLAN.params


def test_twice_the_steps_take_twice_the_gpu_hours() -> None:
    once, twice = rl(PLAN), rl(replace(PLAN, steps=200))
    assert math.isclose(twice.synchronous.gpu_hours, 2 * once.synchronous.gpu_hours)
    assert math.isclose(twice.asynchronous.gpu_hours, 2 * once.asynchronous.gpu_hours)


@given(
    mean=st.integers(10, 20_000),
    sigma=st.floats(0, 1.5),
    prompts=st.integers(1, 500),
    gpus=st.integers(1, 64),
    share=st.floats(0.05, 0.95),
    slower=st.floats(0.1, 1.0),
)
def test_shares_of_time_are_shares_and_less_bandwidth_is_never_faster(
    mean: int, sigma: float, prompts: int, gpus: int, share: float, slower: float
) -> None:
    plan = replace(
        PLAN,
        lengths=LogNormalLengths(float(mean), sigma, 32_000.0),
        prompts=prompts,
        gpus=gpus,
        rollout_share=share,
    )
    answer, slow = rl(plan), rl(replace(plan, decode_efficiency=slower))
    for mode, slow_mode in [
        (answer.synchronous, slow.synchronous),
        (answer.asynchronous, slow.asynchronous),
    ]:
        assert 0 < mode.rollout_utilisation <= 1 + 1e-3
        assert 0 < mode.training_utilisation <= 1 + 1e-9
        assert mode.gpu_hours <= slow_mode.gpu_hours * (1 + 1e-9)
    assert 0 < answer.best_rollout_share < 1
