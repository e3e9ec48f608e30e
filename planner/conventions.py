"""One throughput in the several conventions that call themselves MFU.

The sources mix them: SmolLM3 was sized with 30 % by 6ND over an achievable 720 TFLOP/s, and its
realised 30 % is by exact FLOPs with full attention over the peak of 990.
"""

from dataclasses import dataclass, replace

from planner.flops import FLOPS_PER_PARAM_6ND, flops_per_token, flops_per_token_6n
from planner.nodes import whole_gpus
from planner.params import non_embedding_count, parameter_count
from planner.question import Base, Formula, Question, base_flops, per_token_flops

FORMULA_NAMES: dict[Formula, str] = {"6nd": "6ND", "exact": "exact"}


@dataclass(frozen=True)
class ExactAccounting:
    """What a known architecture counts to."""

    params: int
    non_embedding_params: int
    flops_per_token: float
    """Causal attention: what smolplan's MFU counts."""
    flops_per_token_full_attention: float
    """As if nothing were masked: what nanotron and 6N + 12·L·h·s count."""
    flops_per_token_6n: float
    flops: float
    """FLOPs of all tokens, causal attention."""
    seq_len: int


@dataclass(frozen=True)
class Reading:
    """What the question's MFU would mean in one convention."""

    mfu_base: Base
    flops_formula: Formula
    tokens_per_s_per_gpu: float
    gpus_quotient: float
    gpus: int


def label(formula: str, base: Base, flops: float) -> str:
    """ "6ND over achievable 720 TFLOP/s": what has to stand beside every MFU."""
    return f"{formula} over {base} {flops / 1e12:,.4g} TFLOP/s"


def exact_accounting(q: Question) -> ExactAccounting | None:
    """None without an architecture."""
    if q.model is None or q.tokens is None:
        return None
    per_token = flops_per_token(q.model, q.seq_len)
    params = parameter_count(q.model)
    return ExactAccounting(
        params=params,
        non_embedding_params=non_embedding_count(q.model),
        flops_per_token=per_token,
        flops_per_token_full_attention=flops_per_token(q.model, q.seq_len, causal=False),
        flops_per_token_6n=flops_per_token_6n(q.model),
        flops=per_token * q.tokens,
        seq_len=q.seq_len,
    )


def mfu_views(q: Question, tokens_per_s_per_gpu: float) -> dict[str, float]:
    """The same throughput as an MFU in each convention that is known."""
    counts: dict[str, float] = {}
    if q.params is not None:
        counts["6ND"] = FLOPS_PER_PARAM_6ND * q.params
    if q.model is not None:
        counts["exact"] = flops_per_token(q.model, q.seq_len)
        counts["exact, full attention,"] = flops_per_token(q.model, q.seq_len, causal=False)
    bases: list[Base] = ["achievable", "peak"]
    return {
        label(formula, base, base_flops(q.gpu, base)): tokens_per_s_per_gpu
        * count
        / base_flops(q.gpu, base)
        for formula, count in counts.items()
        for base in bases
        if base == "peak" or q.gpu.achievable_bf16_flops is not None
    }


def readings(q: Question) -> list[Reading]:
    """GPUs for the question's MFU, had it been meant in each of the other conventions."""
    if q.mfu is None or q.tokens is None or q.deadline_s is None:
        return []
    formulas: list[Formula] = ["6nd", "exact"] if q.model is not None else ["6nd"]
    found = []
    for formula in formulas:
        per_token = per_token_flops(replace(q, flops_formula=formula))
        bases: list[Base] = ["achievable", "peak"]
        for base in bases:
            if per_token is None or (base == "achievable" and not q.gpu.achievable_bf16_flops):
                continue
            speed = q.mfu * base_flops(q.gpu, base) / per_token
            quotient = q.tokens / (speed * (q.deadline_s - q.lost_s))
            gpus = whole_gpus(quotient, q.node_size)
            found.append(Reading(base, formula, speed, quotient, gpus))
    return found
