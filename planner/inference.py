"""Serving the finished model: bytes of KV cache and weights, and how fast it decodes at most.

Decoding reads all weights and every sequence's cache for each token, so that memory bandwidth
bounds it: a step takes at least (weights + Σ cache) / bandwidth, and it makes one token a sequence.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from planner.architecture import Architecture, architecture_of
from planner.catalog import Gpu

if TYPE_CHECKING:
    from smolplan.spec import ModelSpec

WeightFormat = Literal["bf16", "fp8", "int4"]

BYTES_PER_WEIGHT: dict[WeightFormat, float] = {"bf16": 2.0, "fp8": 1.0, "int4": 0.5 + 2 / 128}
"""int4: with an fp16 scale for every 128 weights, as AWQ and GPTQ files mostly have; embeddings and
norms, which those leave in 16 bits, are counted as if quantised."""

USABLE_MEMORY = 0.9
"""Share of a GPU's memory for weights and cache; the rest is for activations and the framework.
An assumption; vLLM's gpu_memory_utilization has had this default."""


@dataclass(frozen=True)
class CacheShape:
    """What one token leaves in the cache, in elements per layer."""

    layers: int
    elements_per_layer: int
    windowed_layers: int = 0
    window: int | None = None
    """Tokens that a windowed layer keeps at most."""
    state_elements: int = 0
    """Of a sequence, whatever its length: what its recurrent layers carry on."""
    kv_heads: int | None = None
    """Among which GPUs of one engine can divide it; more GPUs hold copies. None: sequences are
    spread over them instead, as engines do with latent attention."""

    def copies(self, gpus: int) -> float:
        """How often tensor parallelism over so many GPUs holds it."""
        return 1.0 if self.kv_heads is None else max(1.0, gpus / self.kv_heads)


def gqa_cache(
    layers: int,
    kv_heads: int,
    head_dim: int,
    *,
    windowed_layers: int = 0,
    window: int | None = None,
) -> CacheShape:
    """Keys and values of each key-value head: 2·kv_heads·head_dim. Multi-head attention has as many
    key-value heads as heads, multi-query attention one."""
    elements = 2 * kv_heads * head_dim
    return CacheShape(layers, elements, windowed_layers, window, kv_heads=kv_heads)


def mla_cache(layers: int, kv_lora_rank: int, rope_head_dim: int) -> CacheShape:
    """Multi-head latent attention: one compressed vector for keys and values, and one rotary key
    shared by the heads (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""
    return CacheShape(layers, kv_lora_rank + rope_head_dim)


def cache_shape(model: "ModelSpec | Architecture") -> CacheShape:
    """The cache of a model as the planner knows it: its attention layers', and its states."""
    arch = architecture_of(model)
    if (mla := arch.mla) is not None:
        return mla_cache(arch.attention_layers, mla.kv_lora_rank, mla.qk_rope_head_dim)
    cache = gqa_cache(
        arch.attention_layers,
        arch.kv_heads,
        arch.head_dim,
        windowed_layers=arch.windowed_layers if arch.window else 0,
        window=arch.window,
    )
    return replace(cache, state_elements=_state_elements(arch))


def _state_elements(arch: Architecture) -> int:
    """Of all recurrent layers: each head's state, and the inputs that the convolution still needs.
    Mamba-2: head_dim × state size a head; gated DeltaNet: key × value dimension a value head."""
    elements = 0
    if (mamba := arch.mamba) is not None:
        state = mamba.inner * mamba.state_size
        elements += mamba.layers * (state + mamba.conv_channels * (mamba.conv_kernel - 1))
    if (net := arch.delta_net) is not None:
        state = net.value_heads * net.key_head_dim * net.value_head_dim
        elements += net.layers * (state + net.conv_channels * (net.conv_kernel - 1))
    return elements


def kv_bytes_per_token(cache: CacheShape, element_bytes: float = 2.0) -> float:
    """Bytes that one more token adds while no window is full: layers × elements × bytes."""
    return cache.layers * cache.elements_per_layer * element_bytes


def kv_bytes_per_sequence(cache: CacheShape, tokens: float, element_bytes: float = 2.0) -> float:
    """Bytes of a sequence's cache; windowed layers stop growing at their window, states never
    grow."""
    full = (cache.layers - cache.windowed_layers) * tokens
    windowed = cache.windowed_layers * min(tokens, cache.window or tokens)
    growing = (full + windowed) * cache.elements_per_layer
    return (growing + cache.state_elements) * element_bytes


def weight_bytes(params: float, weights: WeightFormat) -> float:
    return params * BYTES_PER_WEIGHT[weights]


@dataclass(frozen=True)
class Serving:
    """One model on `gpus` GPUs that split weights and cache (tensor parallel): the cache by its
    key-value heads, of which GPUs beyond their number hold copies."""

    gpu: Gpu
    gpus: int
    weights_bytes: float
    kv_bytes_per_sequence: float
    """At the sequence's full length."""
    concurrent_sequences: int
    """0 where not even one fits beside the weights."""
    tokens_per_s: float
    """Upper bound of all sequences together, by memory bandwidth."""
    tokens_per_s_per_sequence: float
    """The same, of one sequence."""
    tokens_per_s_alone: float
    """Upper bound of one sequence with nothing beside it."""


def decode_step_s(weights_bytes: float, kv_bytes: float, bytes_per_s: float) -> float:
    """Least time of one token of every sequence: all weights and all caches are read once."""
    return (weights_bytes + kv_bytes) / bytes_per_s


def serving(
    gpu: Gpu,
    params: float,
    cache: CacheShape,
    *,
    weights: WeightFormat,
    sequence_tokens: float,
    gpus: int = 1,
    kv_element_bytes: float = 2.0,
    active_params: float | None = None,
) -> Serving:
    """What fits, and how fast it decodes at most. `active_params`: of a mixture of experts, for the
    speed of one sequence alone; a large batch reads all experts."""
    held = weight_bytes(params, weights)
    kv_full = kv_bytes_per_sequence(cache, sequence_tokens, kv_element_bytes)
    room = USABLE_MEMORY * gpu.hbm_bytes * gpus - held
    copies = cache.copies(gpus)
    fits = max(0, int(room // (kv_full * copies)))
    bandwidth = gpu.hbm_bytes_per_s * gpus
    # A sequence is half-way through on average; windowed layers are full before that.
    kv_mean = copies * kv_bytes_per_sequence(cache, sequence_tokens / 2, kv_element_bytes)
    step = decode_step_s(held, fits * kv_mean, bandwidth)
    alone = decode_step_s(weight_bytes(active_params or params, weights), kv_mean, bandwidth)
    return Serving(
        gpu=gpu,
        gpus=gpus,
        weights_bytes=held,
        kv_bytes_per_sequence=kv_full,
        concurrent_sequences=fits,
        tokens_per_s=fits / step,
        tokens_per_s_per_sequence=1 / step if fits else 0.0,
        tokens_per_s_alone=1 / alone if fits else 0.0,
    )
