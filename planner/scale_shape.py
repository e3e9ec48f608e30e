"""A model's shape at another size: narrower and shallower in proportion, else the same."""

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from planner.params import parameter_count
from smolplan.errors import UserError
from smolplan.spec import ModelSpec

ROUND = 64
"""Widths stay multiples of it where the model's own are, or of the largest power of two below that
divides those: tensor cores multiply in tiles (NVIDIA, Matrix Multiplication Background, 2023)."""

LEAST_HEAD_DIM = 32
"""The narrowest head that attention kernels are tuned for (FlashAttention-2 is built for 32 up)."""

# How a miss is weighed against others: these are our own. Shape matters little at equal size: over
# a fortyfold range of width / depth the loss changes by about 3 % (Kaplan et al. 2020, arXiv
# 2001.08361, figure 5), so that a doubling may be paid for 2 % of the parameters.
COUNT_MISS = 0.02
HALVED_HEAD = 0.5

STRETCHES = (0.0, -0.25, 0.25, -0.5, 0.5)
"""By so many powers of two the stream may be wider than its heads would have it…"""
FEW_HEADS = 16
"""…where so few heads of keys and values make the steps from one width to the next large."""


@dataclass(frozen=True)
class Shape:
    """A candidate."""

    model: ModelSpec
    params: int
    misfit: float


def scaled_shape(model: ModelSpec, target: float) -> ModelSpec:
    """The shape of about `target` parameters, all of them counted: heads of the same width (or half
    of it, or a quarter, where that comes much nearer), the same GQA ratio, numbers of experts,
    vocabulary and pattern of layers, inner widths in proportion to the residual stream's, and
    width / depth as near the model's as whole layers allow. Raises UserError for a target above the
    model, or below the smallest such shape."""
    whole = parameter_count(model)
    if target > whole:
        raise UserError(
            f"{target:,.0f} parameters are more than the {whole:,} of the model",
            where="--to",
            remedy="Name fewer.",
        )
    shapes = list(_shapes(model, target))
    least = min(shapes, key=lambda shape: shape.params)
    if target < 0.95 * least.params:
        table = model.vocab_size * least.model.hidden * (1 if model.tied_embeddings else 2)
        raise UserError(
            f"{target:,.0f} parameters are too few: the smallest shape of this make has "
            f"{least.params:,}, of which {table:,} are for the vocabulary",
            where="--to",
            remedy=f"Name {least.params:,} or more.",
        )
    return min(shapes, key=lambda shape: shape.misfit).model


def layer_period(model: ModelSpec) -> int:
    """Layers after which the pattern of their kinds repeats."""
    pattern = model.layer_pattern or "A"
    own = next(
        n for n in range(1, len(pattern) + 1) if pattern[:n] * (len(pattern) // n) == pattern
    )
    return math.lcm(own, model.experts.every if model.experts is not None else 1)


def _shapes(model: ModelSpec, target: float) -> Iterator[Shape]:
    """For each width the depth that comes nearest the target."""
    period = layer_period(model)
    least = min(model.layers, max(2, period, model.no_rope_every))
    depths = [n for n in range(period, model.layers + 1, period) if n >= least]
    depths = sorted({*depths, model.layers})
    aspect = model.hidden / model.layers
    stretches = STRETCHES if model.kv_heads <= FEW_HEADS else STRETCHES[:1]
    for halvings, stretch in product(range(3), stretches):
        head_dim = model.attention_head_dim
        if halvings and (head_dim >> halvings < LEAST_HEAD_DIM or head_dim % (2 << halvings)):
            continue
        for kv_heads in range(1, model.kv_heads + 1):
            narrow = _narrowed(model, kv_heads, halvings, stretch)
            nearest = bisect_left(
                depths, target, key=lambda n: parameter_count(_of_depth(narrow, n, model))
            )
            for layers in depths[max(0, nearest - 1) : nearest + 1]:
                shape = _of_depth(narrow, layers, model)
                params = parameter_count(shape)
                misfit = (
                    abs(math.log(params / target)) / COUNT_MISS
                    + abs(math.log2(shape.hidden / layers / aspect))
                    + HALVED_HEAD * halvings
                    + abs(stretch)
                )
                yield Shape(shape, params, misfit)
            if nearest == 0:  # wider ones are larger still
                break


def _narrowed(model: ModelSpec, kv_heads: int, halvings: int, stretch: float) -> ModelSpec:
    """With so many heads of keys and values, of a width halved so often, and the rest in
    proportion."""
    latent = model.latent_attention
    head_dim = model.attention_head_dim >> halvings
    heads = model.heads // model.kv_heads * kv_heads
    follows = stretch == 0 and model.hidden == model.heads * model.attention_head_dim
    share = heads / model.heads / 2 ** (halvings - stretch)
    hidden = heads * head_dim if follows else _rounded(model.hidden, min(1.0, share))
    narrow = hidden / model.hidden
    fields = model.model_dump() | {
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": None if follows or latent is not None else head_dim,
        "ffn_hidden": _rounded(model.ffn_hidden, narrow) if model.ffn_hidden else 0,
    }
    if latent is not None:
        fields["latent_attention"] = latent.model_dump() | {
            "kv_rank": _rounded(latent.kv_rank, narrow),
            "q_rank": None if latent.q_rank is None else _rounded(latent.q_rank, narrow),
            "nope_head_dim": latent.nope_head_dim >> halvings,
            "rope_head_dim": latent.rope_head_dim >> halvings,
            "value_head_dim": latent.value_head_dim >> halvings,
        }
    if (experts := model.experts) is not None:
        shared = experts.shared_ffn_hidden
        fields["experts"] = experts.model_dump() | {
            "ffn_hidden": _rounded(experts.ffn_hidden, narrow),
            "shared_ffn_hidden": None if shared is None else _rounded(shared, narrow),
        }
    if (mamba := model.mamba) is not None:
        # A group of heads shares B and C: fewer heads, then fewer groups of them.
        groups = max(n for n in range(1, mamba.groups + 1) if n <= max(1, mamba.groups * narrow))
        fields["mamba"] = mamba.model_dump() | {
            "groups": groups,
            "heads": groups * max(1, round(mamba.heads * narrow / groups)),
        }
    if (net := model.delta_net) is not None:
        key_heads = max(1, round(net.key_heads * narrow))
        fields["delta_net"] = net.model_dump() | {
            "key_heads": key_heads,
            "value_heads": key_heads * (net.value_heads // net.key_heads),
        }
    fields["init_std"] = float(f"{model.init_std / math.sqrt(narrow):.3g}")
    return ModelSpec(**fields)


def _of_depth(narrow: ModelSpec, layers: int, model: ModelSpec) -> ModelSpec:
    """With so many layers, the dense ones below experts in proportion."""
    fields = narrow.model_dump() | {"layers": layers}
    if (experts := narrow.experts) is not None and experts.first_dense_layers:
        dense = max(1, round(experts.first_dense_layers * layers / model.layers))
        fields["experts"] = experts.model_dump() | {"first_dense_layers": dense}
    return ModelSpec(**fields)


def _rounded(width: int, share: float) -> int:
    """That share of a width, as round as the width itself."""
    grain = math.gcd(width, ROUND)
    return grain * max(1, round(width * share / grain))
