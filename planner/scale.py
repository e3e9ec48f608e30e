"""A run scaled down to a proxy of it, for ablations: model, learning rate, batch, length and
machines, each by a rule that is named beside what it changed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from planner.flops import forward_components
from planner.legality import FULLEST
from planner.params import active_parameter_count, parameter_count
from planner.plan import make_plan
from planner.scale_shape import scaled_shape
from smolplan.errors import UserError
from smolplan.spec import ModelSpec, RunSpec
from smolplan.spec.fields import SpecPart
from smolplan.units import count_of, format_count

LEARNING_RATE_EXPONENT = -0.1250
BATCH_EXPONENT = 0.3271
"""Of compute, in the best learning rate and batch of tokens: DeepSeek LLM (arXiv 2401.02954,
equation 1). Their factors are left out: a proxy goes by what its own run was given."""

LEAST_STEPS = 10
"""Fewer are no run to learn from: warm-up, decay and checkpoints have no steps of their own."""

Path = tuple[str, ...]
"""Names of a field and of the parts that it lies in: ("optim", "steps")."""

MOST_CHECKPOINTS = 100
"""Of a proxy: its steps are short, so that a long run's share of them would be little but saving.
Our own choice."""


@dataclass(frozen=True)
class Rule:
    told: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.told} ({self.source})" if self.source else self.told


_LAW = "DeepSeek LLM, arXiv 2401.02954, equation 1"
_MACHINES = Rule("the fewest GPUs that hold it")
_SHARE = Rule("the same share of the steps")

RULES: dict[str, Rule] = {
    "name": Rule("the run's and the size"),
    "model.layers": Rule(
        "hidden / layers about as before", "Kaplan et al. 2020, arXiv 2001.08361, section 3.1"
    ),
    "model.hidden": Rule("parameters nearest the target"),
    "model.heads": Rule("heads / kv_heads as before"),
    "model.kv_heads": Rule("in proportion to hidden / head_dim"),
    "model.head_dim": Rule("kept, or halved for a nearer count"),
    "model.init_std": Rule("∝ 1/√hidden", "Tensor Programs V, arXiv 2203.03466, table 3"),
    "model.experts.first_dense_layers": Rule("in proportion to layers"),
    "model": Rule("in proportion to hidden"),
    "optim.learning_rate": Rule(f"∝ compute^{LEARNING_RATE_EXPONENT}", _LAW),
    "optim.global_batch_size": Rule(f"∝ compute^{BATCH_EXPONENT}, whole micro-batches", _LAW),
    "optim.batch_warmup": Rule("left out: the proxy's batch is small from the first step on"),
    "optim.steps": Rule("tokens over the global batch"),
    "optim.tokens": Rule("whole steps"),
    "optim.warmup_steps": Rule(
        "the same share of the steps, or 2 / (1 - beta2)", "Ma and Yarats 2019, arXiv 1910.04209"
    ),
    "optim": _SHARE,
    "data": _SHARE,
    "checkpoint": Rule(f"the same share of the steps, {MOST_CHECKPOINTS} checkpoints at most"),
    "parallel.micro_batch_size": Rule("halved until it fits the GPU and the batch"),
    "parallel.recompute": Rule("full where the GPU holds it only so"),
    "parallel": _MACHINES,
    "cluster": _MACHINES,
}
"""By field, or by the part that it lies in where no rule of its own is named."""


@dataclass(frozen=True)
class Change:
    path: Path
    old: Any
    new: Any

    @property
    def rule(self) -> Rule:
        names = (".".join(self.path[:end]) for end in range(len(self.path), 0, -1))
        return next(RULES[name] for name in names if name in RULES)


@dataclass(frozen=True)
class Scaled:
    """A proxy, and how it came about."""

    spec: RunSpec
    target: float
    """Parameters that were asked for."""
    params: int
    changes: tuple[Change, ...]
    """Every field that differs, in the order of the spec."""
    compute_share: float
    """Of the run's FLOPs without those of embedding and head."""


def scale(spec: RunSpec, target: float, tokens: float | None = None) -> Scaled:
    """The proxy of about `target` parameters, on `tokens`, or on as many a parameter as the run
    (active ones, of experts). Raises UserError for a target out of the model's range, for too few
    tokens, and where no nodes of the run's hold it."""
    model = scaled_shape(spec.model, target)
    shrink = active_parameter_count(model) / active_parameter_count(spec.model)
    wanted = spec.tokens * shrink if tokens is None else tokens
    share = _compute(model, spec.data.seq_len) * wanted
    share /= _compute(spec.model, spec.data.seq_len) * spec.tokens
    batch = max(1, round(spec.optim.global_batch_size * share**BATCH_EXPONENT))
    fields = spec.model_dump() | {
        "name": f"{spec.name[:90]}-{format_count(target)}".replace(",", ""),
        "model": model.model_dump(),
    }
    scaled = _placed(spec, fields, batch, wanted, share)
    return Scaled(scaled, target, parameter_count(model), _changes(spec, scaled), share)


def _compute(model: ModelSpec, seq_len: int) -> float:
    """FLOPs of a token but for embedding and head, as the law counts them (section 3.2 there)."""
    parts = forward_components(model, seq_len)
    return sum(flops for name, flops in parts.items() if name != "output head")


def _placed(
    spec: RunSpec, fields: dict[str, Any], batch: int, tokens: float, share: float
) -> RunSpec:
    """On the fewest GPUs that hold it, all in data parallel, with the largest micro-batch up to the
    run's; activations are computed again only where else none holds it."""
    for nodes, gpus, recompute, micro in _places(spec):
        each = nodes * gpus * micro
        if micro > 1 and each > batch:
            continue
        whole = max(1, round(batch / each)) * each
        placed = fields | {
            "parallel": {
                "data_parallel": nodes * gpus,
                "micro_batch_size": micro,
                "recompute": recompute,
            },
            "cluster": spec.cluster.model_dump() | {"nodes": nodes, "gpus_per_node": gpus},
        }
        scaled = RunSpec(**placed | _course(spec, whole, tokens, share))
        if _fits(scaled):
            return scaled
    raise UserError(
        f"{count_of(spec.cluster.nodes, 'node')} cannot hold the proxy by data parallel alone",
        where="--to",
        remedy="Name fewer parameters, or let smolplan plan lay out the run itself.",
    )


def _places(spec: RunSpec) -> Iterator[tuple[int, int, str, int]]:
    """Nodes, GPUs of one, what is recomputed, and micro-batch size, in the order of trial."""
    nodes, per_node = spec.cluster.nodes, spec.cluster.gpus_per_node
    machines = [(1, 1), *((2**n, per_node) for n in range(nodes.bit_length()))]
    micros = [spec.parallel.micro_batch_size]
    while micros[-1] > 1:
        micros.append(micros[-1] // 2)
    for place in machines:
        for recompute in dict.fromkeys([spec.parallel.recompute, "full"]):
            for micro in micros:
                yield *place, recompute, micro


def _fits(spec: RunSpec) -> bool:
    plan = make_plan(spec)
    if plan.gpu_memory_bytes is None:
        return True
    return plan.memory_per_rank_bytes <= FULLEST * plan.gpu_memory_bytes


def _course(spec: RunSpec, batch: int, tokens: float, compute_share: float) -> dict[str, Any]:
    """Optimiser, stages and checkpoints: as the run's, over fewer steps."""
    steps = round(tokens / (batch * spec.data.seq_len))
    if steps < LEAST_STEPS:
        raise UserError(
            f"{format_count(tokens)} tokens are {count_of(steps, 'step')} of "
            f"{count_of(batch, 'sequence')}",
            where="--tokens",
            remedy=f"Give {format_count(LEAST_STEPS * batch * spec.data.seq_len)} or more.",
        )

    def of(number: int) -> int:
        return max(1, number * steps // spec.steps) if number else 0

    optim, checkpoint = spec.optim, spec.checkpoint
    rate = optim.learning_rate * compute_share**LEARNING_RATE_EXPONENT
    warmup = _warmup_steps(spec, of(optim.warmup_steps), steps)
    every = max(of(checkpoint.every_steps), math.ceil(steps / MOST_CHECKPOINTS))
    kept = checkpoint.keep_every_steps
    return {
        "optim": optim.model_dump()
        | {
            "steps": None if optim.steps is None else steps,
            "tokens": None if optim.tokens is None else steps * batch * spec.data.seq_len,
            "global_batch_size": batch,
            "batch_warmup": (),
            "learning_rate": float(f"{rate:.3g}"),
            "warmup_steps": warmup,
            "decay_steps": min(of(optim.decay_steps), steps - warmup),
        },
        "checkpoint": checkpoint.model_dump()
        | {
            "every_steps": every,
            # A whole number of checkpoints apart, as else it would be one of few.
            "keep_every_steps": None if kept is None else every * max(1, round(of(kept) / every)),
            "milestones": tuple(dict.fromkeys(of(step) for step in checkpoint.milestones)),
        },
        "data": spec.data.model_dump() | {"stages": _stages(spec, steps)},
    }


def _warmup_steps(spec: RunSpec, share: int, steps: int) -> int:
    """The run's share, but no fewer than Adam's second moment takes to settle (Ma and Yarats 2019,
    arXiv 1910.04209), nor more than the run's own or a tenth of the proxy."""
    settled = math.ceil(2 / (1 - spec.optim.beta2) - 1e-9)
    longest = min(spec.optim.warmup_steps, steps // 10)
    return min(max(share, settled), max(share, longest))


def _stages(spec: RunSpec, steps: int) -> list[dict[str, Any]]:
    """Each from the same share of the run on, told by its step."""
    starts = [1 + (start - 1) * steps // spec.steps for start in spec.stage_starts]
    if len(set(starts)) < len(starts):
        raise UserError(
            f"{steps:,} steps are too few for the run's {len(starts)} data.stages to begin at "
            "steps of their own",
            where="--tokens",
            remedy="Give more.",
        )
    return [
        stage.model_dump() | {"start_step": start, "start_tokens": None}
        for stage, start in zip(spec.data.stages, starts, strict=True)
    ]


def _changes(old: RunSpec, new: RunSpec) -> tuple[Change, ...]:
    before, after = _leaves(old), _leaves(new)
    return tuple(
        Change(path, before.get(path), after.get(path))
        for path in dict.fromkeys([*after, *before])
        if before.get(path) != after.get(path)
    )


def _leaves(part: SpecPart, path: Path = ()) -> dict[Path, Any]:
    """Every field that is no part itself, its defaults included."""
    found: dict[Path, Any] = {}
    for name in type(part).model_fields:
        value, below = getattr(part, name), (*path, name)
        found |= _leaves(value, below) if isinstance(value, SpecPart) else {below: value}
    return found
