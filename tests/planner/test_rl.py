import math
import random
from dataclasses import replace
from statistics import fmean

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


STRIDE = 32
"""Tokens that the brute-force simulations below take at a time: a hundredth of a response."""


class Engine:
    """One inference engine, token by token: each step reads the weights and all caches, or takes
    as long as its multiplications."""

    def __init__(self, plan: RlPlan) -> None:
        bandwidth = plan.gpu.hbm_bytes_per_s * plan.gpus_per_engine * plan.decode_efficiency
        self.weights_s = weight_bytes(plan.params, "bf16") / bandwidth
        self.cache_s = kv_bytes_per_token(plan.cache) / bandwidth
        rate = plan.gpu.achievable_bf16_flops
        assert rate is not None
        self.compute_s = plan.forward_flops / (rate * plan.gpus_per_engine)
        self.left: list[float] = []
        self.held: list[float] = []
        self.clock_s = 0.0

    def add(self, length: float, prompt: float) -> None:
        self.left.append(length)
        self.held.append(prompt)

    def advance(self) -> float:
        """A few tokens of every sequence; those at their end leave. Returns the tokens made."""
        count, tokens = len(self.left), min(STRIDE, max(1.0, min(self.left)))
        caches = self.cache_s * (sum(self.held) + count * tokens / 2)
        self.clock_s += tokens * max(self.weights_s + caches, count * self.compute_s)
        pairs = [
            (left - tokens, held + tokens)
            for left, held in zip(self.left, self.held, strict=True)
            if left > tokens
        ]
        self.left, self.held = [left for left, _ in pairs], [held for _, held in pairs]
        return count * tokens


def drawn(plan: RlPlan, source: random.Random) -> float:
    lengths = plan.lengths
    mu = math.log(lengths.mean) - lengths.sigma**2 / 2
    return min(source.lognormvariate(mu, lengths.sigma), lengths.longest)


def simulated_synchronous_s(plan: RlPlan, seed: int) -> float:
    """One step's sampling, until the slowest engine ends."""
    source, places = random.Random(seed), concurrent_sequences(plan)
    slowest = 0.0
    for _ in range(plan.gpus // plan.gpus_per_engine):
        engine = Engine(plan)
        waiting = plan.sequences * plan.gpus_per_engine // plan.gpus
        while waiting or engine.left:
            while waiting and len(engine.left) < places:
                engine.add(drawn(plan, source), plan.prompt_tokens)
                waiting -= 1
            engine.advance()
        slowest = max(slowest, engine.clock_s)
    return slowest


def simulated_asynchronous_rate(plan: RlPlan, seed: int) -> float:
    """Tokens per second of an engine whose places are always taken, once its beginning is over."""
    source, engine, made = random.Random(seed), Engine(plan), 0.0
    engines = plan.gpus * plan.rollout_share / plan.gpus_per_engine
    together = round(min(concurrent_sequences(plan), plan.sequences / engines))
    for half in range(2):
        began_s, made = engine.clock_s, 0.0
        for _ in range(5000):
            while len(engine.left) < together:
                engine.add(drawn(plan, source), plan.prompt_tokens)
            made += engine.advance()
        if half:
            return made / (engine.clock_s - began_s)
    raise AssertionError


@pytest.mark.parametrize(
    ("prompts", "gpus", "mean", "sigma"),
    [
        (64, 16, 4000, 0.0),  # all alike
        (64, 16, 4000, 0.8),  # places for all
        (512, 16, 4000, 0.8),  # several responses a place
        (64, 16, 8000, 1.2),  # a long tail, cut at 32,000
        (128, 64, 8000, 1.0),  # many engines, the slowest of which is waited for
    ],
)
def test_a_synchronous_step_takes_what_a_token_by_token_simulation_takes(
    prompts: int, gpus: int, mean: int, sigma: float
) -> None:
    """Within 10 %."""
    lengths = LogNormalLengths(mean, sigma, 32_000)
    plan = replace(PLAN, prompts=prompts, gpus=gpus, lengths=lengths, decode_efficiency=0.5)
    played = fmean(simulated_synchronous_s(plan, seed) for seed in range(3))
    assert math.isclose(rl(plan).synchronous.sample_s, played, rel_tol=0.10)


@pytest.mark.parametrize(("prompts", "sigma"), [(60, 0.8), (600, 0.8), (60, 1.2)])
def test_asynchronous_sampling_is_as_fast_as_a_token_by_token_simulation(
    prompts: int, sigma: float
) -> None:
    """Within 3 %."""
    lengths = LogNormalLengths(4000, sigma, 32_000)
    plan = replace(PLAN, prompts=prompts, lengths=lengths, decode_efficiency=0.5)
    played = fmean(simulated_asynchronous_rate(plan, seed) for seed in range(3))
    assert math.isclose(rl(plan).asynchronous.tokens_per_s_per_gpu, played, rel_tol=0.03)


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
