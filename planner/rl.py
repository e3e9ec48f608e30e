"""GPU-hours of reinforcement learning with verifiable rewards: sampling, and learning from it.

A step samples `prompts × samples` responses and trains on them. Sampling is bound by memory
bandwidth (planner/inference.py): every token of every sequence reads the weights, shared by the
sequences that decode together, and that sequence's cache.

    synchronous   all GPUs sample, wait for the longest response of all, then all train on policy
    asynchronous  some GPUs sample without a pause, the others train; weights lag a few steps

A synchronous batch shrinks while it waits: the last responses read all weights for a token each.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from planner.catalog import Gpu
from planner.inference import USABLE_MEMORY, CacheShape, kv_bytes_per_sequence, weight_bytes
from planner.posttrain import FORWARD, TRAINING, LogNormalLengths


@dataclass(frozen=True)
class RlPlan:
    params: float
    forward_flops: float
    """Of one token: 2 for each parameter that it uses, or what the architecture counts to."""
    cache: CacheShape
    gpu: Gpu
    gpus: int
    rollout_share: float
    """Of the GPUs, where sampling and training are apart (asynchronous)."""
    gpus_per_engine: int
    """GPUs that share one copy of the weights to sample (tensor parallel)."""
    steps: int
    prompts: int
    samples: int
    prompt_tokens: float
    lengths: LogNormalLengths
    train_flops_per_s: float
    """Of one GPU: MFU × its base."""
    decode_efficiency: float
    """Share of the bandwidth bound that an inference engine reaches."""
    reference: bool
    """Whether a frozen reference is run for a KL term."""
    epochs: float = 1.0
    """Times that each sample is trained on."""

    @property
    def sequences(self) -> int:
        return self.prompts * self.samples


@dataclass(frozen=True)
class Mode:
    """One way of running the steps. Seconds are of one step."""

    name: str
    sample_s: float
    train_s: float
    step_s: float
    gpu_hours: float
    rollout_utilisation: float
    """Share of the sampling GPUs' time, while they sample, in which their places are taken; times
    the share of a step in which they have anything to sample where the GPUs are apart."""
    training_utilisation: float
    """Share of a step in which the training GPUs train."""
    tokens_per_s_per_gpu: float
    """Sampled, by one sampling GPU, while it samples."""


@dataclass(frozen=True)
class RlAnswer:
    synchronous: Mode
    asynchronous: Mode
    best_rollout_share: float
    """At which neither part waits for the other."""
    concurrent_per_engine: int
    longest: float
    """Tokens of the longest response of a step, expected."""
    mean_length: float
    share_cut: float

    @property
    def speedup(self) -> float:
        return self.synchronous.gpu_hours / self.asynchronous.gpu_hours


def train_flops_per_token(plan: RlPlan) -> float:
    """Per token of prompt and response: forward and backward for each epoch, one forward for the
    log-probabilities of the policy that sampled, and one of the reference for a KL term."""
    passes = TRAINING * plan.epochs + FORWARD + (FORWARD if plan.reference else 0.0)
    return passes / FORWARD * plan.forward_flops


def concurrent_sequences(plan: RlPlan) -> int:
    """Sequences that one engine decodes together: as many mean caches as fit beside the weights."""
    held = plan.prompt_tokens + _mean_response_held(plan)
    room = USABLE_MEMORY * plan.gpu.hbm_bytes * plan.gpus_per_engine
    room -= weight_bytes(plan.params, "bf16")
    return max(0, int(room // (_copies(plan) * kv_bytes_per_sequence(plan.cache, held))))


def _mean_response_held(plan: RlPlan) -> float:
    """Tokens of response that a decoding sequence holds, seen at a random moment: E[L²] / 2E[L],
    since long responses are met more often."""
    return plan.lengths.moment(2) / (2 * plan.lengths.cut_mean)


def rl(plan: RlPlan) -> RlAnswer:
    """Both modes on the same GPUs. The plan's numbers must fit: at least one sequence an engine."""
    places = concurrent_sequences(plan)
    train_one = plan.sequences * (plan.prompt_tokens + plan.lengths.cut_mean)
    train_gpu_s = train_one * train_flops_per_token(plan) / plan.train_flops_per_s

    sync_sample_s, sync_taken = _synchronous_sample(plan, places, plan.gpus)
    sync_train_s = train_gpu_s / plan.gpus
    sync_step_s = sync_sample_s + sync_train_s
    synchronous = Mode(
        "synchronous",
        sync_sample_s,
        sync_train_s,
        sync_step_s,
        plan.gpus * sync_step_s * plan.steps / 3600,
        sync_taken,
        sync_train_s / sync_step_s,
        plan.sequences * plan.lengths.cut_mean / sync_sample_s / plan.gpus,
    )

    sample_gpu_s = _steady_gpu_s(plan, places)
    rollout, trainers = plan.gpus * plan.rollout_share, plan.gpus * (1 - plan.rollout_share)
    sample_s, train_s = sample_gpu_s / rollout, train_gpu_s / trainers
    step_s = max(sample_s, train_s)
    asynchronous = Mode(
        "asynchronous",
        sample_s,
        train_s,
        step_s,
        plan.gpus * step_s * plan.steps / 3600,
        sample_s / step_s,
        train_s / step_s,
        plan.sequences * plan.lengths.cut_mean / sample_gpu_s,
    )
    return RlAnswer(
        synchronous=synchronous,
        asynchronous=asynchronous,
        best_rollout_share=sample_gpu_s / (sample_gpu_s + train_gpu_s),
        concurrent_per_engine=places,
        longest=plan.lengths.longest_of(plan.sequences),
        mean_length=plan.lengths.cut_mean,
        share_cut=plan.lengths.share_cut,
    )


def _cache_s(plan: RlPlan, sequences: float) -> float:
    """Time to read the caches of so many whole responses: Σ over their tokens of the cache then."""
    held = kv_bytes_per_sequence(plan.cache, plan.prompt_tokens + _mean_response_held(plan))
    return sequences * plan.lengths.cut_mean * _copies(plan) * held / _bandwidth(plan)


def _copies(plan: RlPlan) -> float:
    return plan.cache.copies(plan.gpus_per_engine)


def _weights_s(plan: RlPlan) -> float:
    """Time to read the weights once: all experts, as a large batch needs them."""
    return weight_bytes(plan.params, "bf16") / _bandwidth(plan)


def _bandwidth(plan: RlPlan) -> float:
    """Bytes per second of one engine, as it reaches them."""
    return plan.gpu.hbm_bytes_per_s * plan.gpus_per_engine * plan.decode_efficiency


def _compute_s(plan: RlPlan, sequences: float) -> float:
    """Least time of the multiplications of so many sequences, at the GPU's matrix rate. A prompt is
    read once for all its samples."""
    tokens = sequences * (plan.lengths.cut_mean + plan.prompt_tokens / plan.samples)
    rate = plan.gpu.achievable_bf16_flops or plan.gpu.peak_bf16_flops
    return tokens * plan.forward_flops / (rate * plan.gpus_per_engine)


def _synchronous_sample(plan: RlPlan, places: int, gpus: int) -> tuple[float, float]:
    """Seconds until the longest response of the step is there, and the share of places taken on
    average. An engine with more sequences than places keeps all places taken until none waits, and
    then waits for the longest of the last ones, as every engine waits for the slowest: the one
    that drew the most tokens to read."""
    engines = gpus / plan.gpus_per_engine
    mine = plan.sequences / engines
    together = min(mine, places)
    waiting = mine - together
    full_steps = waiting * plan.lengths.cut_mean / together
    steps = full_steps + plan.lengths.longest_of(together * engines)
    memory_s = steps * _weights_s(plan) + _cache_s(plan, mine)
    step_s_per_token = _weights_s(plan) / together if waiting > 0 else 0.0
    memory_s += _slowest_above_mean(engines) * _spread_s(plan, mine, step_s_per_token)
    tokens = mine * plan.lengths.cut_mean
    return max(memory_s, _compute_s(plan, mine)), tokens / (steps * together)


def _spread_s(plan: RlPlan, sequences: float, step_s_per_token: float) -> float:
    """Standard deviation of the time that so many responses take an engine: of length L each reads
    its cache, a·L + b·L², and takes its part of the steps."""
    lengths, fixed = plan.lengths, kv_bytes_per_sequence(plan.cache, plan.prompt_tokens)
    growth = kv_bytes_per_sequence(plan.cache, plan.prompt_tokens + lengths.cut_mean) - fixed
    read_s_per_byte = _copies(plan) / _bandwidth(plan)
    a = step_s_per_token + fixed * read_s_per_byte
    b = growth / lengths.cut_mean / 2 * read_s_per_byte
    first, second, third, fourth = (lengths.moment(power) for power in (1, 2, 3, 4))
    variance = a**2 * (second - first**2) + b**2 * (fourth - second**2)
    variance += 2 * a * b * (third - first * second)
    return math.sqrt(max(0.0, variance) * sequences)


def _slowest_above_mean(engines: float) -> float:
    """Expected largest of so many standard normal variables (Blom 1958: −Φ⁻¹ of
    (5/8) / (n + 1/4))."""
    return -NormalDist().inv_cdf(0.625 / (engines + 0.25)) if engines > 1 else 0.0


def _steady_gpu_s(plan: RlPlan, places: int) -> float:
    """GPU-seconds of sampling one step's responses where all places are always taken."""
    rollout_engines = max(1.0, plan.gpus * plan.rollout_share / plan.gpus_per_engine)
    together = min(places, plan.sequences / rollout_engines)
    tokens = plan.sequences * plan.lengths.cut_mean
    memory_s = tokens / together * _weights_s(plan) + _cache_s(plan, plan.sequences)
    return max(memory_s, _compute_s(plan, plan.sequences)) * plan.gpus_per_engine
