"""torchtitan's optimiser, its schedule and its activation checkpointing (the sections of the same
names, and build_lr_schedulers of torchtitan/components/lr_scheduler.py at v0.2.2)."""

from typing import Any

from smolplan.importers.draft import Draft
from smolplan.importers.schedule import Decay, put_decay
from smolplan.importers.source import count, count_or_zero, number, positive, text

DEFAULT = "torchtitan's default"
FLOAT8 = ("quantize.linear.float8", "float8")
"""The converter to fp8, and its section, by its names of late 2025 and before."""


def _recompute(value: Any) -> str:
    mode = text(value)
    if mode not in ("none", "selective", "full", "memory_budget"):
        raise ValueError("it is none, selective, full or memory_budget")
    return "selective" if mode == "memory_budget" else mode


def _precision(value: Any) -> str:
    if value not in ("bfloat16", "float32"):
        raise ValueError("it is bfloat16 or float32")
    return "bf16" if value == "bfloat16" else "fp32"


def _adam(value: Any) -> str:
    if text(value).lower() not in ("adamw", "adam"):
        raise ValueError("the trainer has AdamW")
    return text(value)


def take_optim(draft: Draft) -> None:
    source = draft.source
    mode = "activation_checkpoint.mode"
    draft.take("parallel.recompute", _recompute, mode, default="selective", why=DEFAULT)
    if source.get(mode) == "memory_budget":
        draft.leave(mode, "memory_budget", "a run spec says none, selective or full")
    if source.find("optimizer.name"):
        source.read("optimizer.name", _adam)
        draft.leave_if_there("optimizer.name", "the trainer has AdamW", unless=("AdamW",))
    draft.take("optim.beta1", number, "optimizer.beta1", default=0.9, why=DEFAULT)
    draft.take("optim.beta2", number, "optimizer.beta2", default=0.95, why=DEFAULT)
    draft.take("optim.eps", positive, "optimizer.eps", default=1e-8, why=DEFAULT)
    draft.take("optim.weight_decay", number, "optimizer.weight_decay", default=0.1, why=DEFAULT)
    draft.take("optim.clip_norm", positive, "training.max_norm", default=1.0, why=DEFAULT)
    converters, others = _float8(draft), "training.mixed_precision_param"
    if converters and source.get(others) in (None, "bfloat16"):
        draft.put("optim.precision", "fp8", converters)
    else:
        draft.take("optim.precision", _precision, others, default="bf16", why=DEFAULT)
    draft.take("optim.learning_rate", positive, "optimizer.lr", default=8e-4, why=DEFAULT)
    _schedule(draft)


def _float8(draft: Draft) -> str | None:
    """The field that has linear layers multiply in fp8 with one scale a tensor, as the trainer does
    (trainer/fp8.py); where there is another one, that is said."""
    source, field = draft.source, "model.converters"
    recipe = source.find(*(f"{name}.recipe_name" for name in FLOAT8))
    named = source.get(field)
    scales = source.get(recipe) if recipe else "tensorwise"
    if named in ([name] for name in FLOAT8) and scales == "tensorwise":
        return field
    why = "the trainer's fp8 has one scale a tensor: taken without it"
    draft.leave_if_there(field, why, unless=([],))
    if recipe:
        draft.leave(recipe, scales, why)
    return None


def _schedule(draft: Draft) -> None:
    source = draft.source
    steps = draft.take_steps("training.steps", default=10_000, why=DEFAULT)
    total_field = source.find("lr_scheduler.total_steps")
    total = source.read(total_field, count) if total_field else steps
    warmup_field = source.find("lr_scheduler.warmup_steps", "training.warmup_steps")
    warmup = min(source.read(warmup_field, count_or_zero) if warmup_field else 200, total, steps)
    if warmup_field:
        warmup = draft.put("optim.warmup_steps", warmup, warmup_field)
    else:
        warmup = draft.assume("optim.warmup_steps", warmup, DEFAULT)
    ratio_field = "lr_scheduler.decay_ratio"
    if source.find(ratio_field):
        share = source.read(ratio_field, number)
        if not 0 <= share <= 1:
            raise source.error(ratio_field, "a share lies between 0 and 1")
        length, length_source = min(round(total * share), total - warmup), ratio_field
    else:
        length, length_source = total - warmup, "lr_scheduler (decays from the warm-up to the end)"
    style, floor_field = (
        "lr_scheduler.decay_type",
        source.find("lr_scheduler.min_lr_factor", "lr_scheduler.lr_min"),
    )
    shape = source.read(style, text) if source.find(style) else "linear"
    floor = source.read(floor_field, number) if floor_field else 0.0
    decay = Decay(total - length, length, shape, floor, length_source, style, floor_field or "")
    put_decay(draft, steps, decay)
