"""Megatron's optimiser and schedule (megatron/core/optimizer_param_scheduler.py, and
get_optimizer_param_scheduler of megatron/training/training.py)."""

from smolplan.importers.draft import Draft
from smolplan.importers.schedule import Decay, put_decay
from smolplan.importers.source import count, count_or_zero, number, positive, text

DEFAULT = "Megatron's default"
FP8 = {"--fp8-format": "hybrid", "--fp8-recipe": "tensorwise"}
"""e4m3, gradients e5m2, one scale a tensor, of what the tensor then holds; Megatron's default,
delayed, takes it of steps before."""


def take_optim(draft: Draft) -> None:
    source = draft.source
    if source.find("--optimizer") and source.read("--optimizer", text) != "adam":
        raise source.error("--optimizer", "the trainer has AdamW, which Megatron calls adam")
    draft.take("optim.beta1", number, "--adam-beta1", default=0.9, why=DEFAULT)
    draft.take("optim.beta2", number, "--adam-beta2", default=0.999, why=DEFAULT)
    draft.take("optim.eps", positive, "--adam-eps", default=1e-8, why=DEFAULT)
    draft.take("optim.weight_decay", number, "--weight-decay", default=0.01, why=DEFAULT)
    draft.take("optim.clip_norm", positive, "--clip-grad", default=1.0, why=DEFAULT)
    draft.take("optim.learning_rate", positive, "--lr")
    if _multiplies_in_fp8(draft):
        source.get("--bf16")  # what all else is computed in
        draft.put("optim.precision", "fp8", *FP8)
    elif source.get("--bf16"):
        draft.put("optim.precision", "bf16", "--bf16")
    elif source.get("--fp16"):
        draft.leave("--fp16", True, "taken as bf16, which is as large and as fast")
        draft.put("optim.precision", "bf16", "--fp16")
    else:
        draft.assume("optim.precision", "fp32", DEFAULT)
    _schedule(draft)


def _multiplies_in_fp8(draft: Draft) -> bool:
    """Whether it does so as the trainer (trainer/fp8.py); where it does otherwise, that is said."""
    source = draft.source
    if all(source.get(name) == value for name, value in FP8.items()):
        return True
    for name in FP8:
        draft.leave_if_there(name, "the trainer's fp8 is hybrid and tensorwise: taken without it")
    return False


def _schedule(draft: Draft) -> None:
    """Megatron counts a schedule in iterations or in samples; samples are divided by the batch."""
    source, batch = draft.source, draft.value("optim.global_batch_size", 1)
    by_samples = source.find("--train-samples")
    unit, per_step = ("samples", batch) if by_samples else ("iters", 1)
    if by_samples and "optim.tokens" not in draft.options.overrides:
        steps = source.read(by_samples, count) // batch
        if steps == 0:
            raise source.error(by_samples, f"less than one batch of {batch}")
        steps = draft.put("optim.steps", steps, by_samples, "1/--global-batch-size")
    else:
        steps = draft.take_steps(by_samples or "--train-iters")

    def in_steps(option: str) -> int | None:
        name = f"--{option}-{unit}"
        return source.read(name, count_or_zero) // per_step if source.find(name) else None

    end = in_steps("lr-decay")
    end = steps if end is None else end
    fraction = "--lr-warmup-fraction"
    if source.find(fraction):
        warmup = draft.put("optim.warmup_steps", int(source.read(fraction, _share) * end), fraction)
    else:
        told = in_steps("lr-warmup")
        name = f"--lr-warmup-{unit}"
        warmup = (
            draft.assume("optim.warmup_steps", 0, DEFAULT)
            if told is None
            else draft.put("optim.warmup_steps", told, name)
        )
    style = source.read("--lr-decay-style", text) if source.find("--lr-decay-style") else "linear"
    if style == "constant":
        draft.put("optim.decay_steps", 0, "--lr-decay-style")
        draft.leave_if_there("--min-lr", "the learning rate is constant")
        return
    shape, shape_source = style, "--lr-decay-style"
    start, length_source = warmup, source.find(f"--lr-decay-{unit}") or shape_source
    if style == "WSD":
        length_source, shape_source = f"--lr-wsd-decay-{unit}", "--lr-wsd-decay-style"
        last = in_steps("lr-wsd-decay")
        if last is None:
            raise source.missing(length_source, "optim.decay_steps")
        start = max(warmup, end - last)
        shape = source.read(shape_source, text) if source.find(shape_source) else "exponential"
    floor = source.read("--min-lr", number) if source.find("--min-lr") else 0.0
    decay = Decay(start, max(0, end - start), shape, floor, length_source, shape_source, "--min-lr")
    put_decay(draft, steps, decay)


def _share(value: object) -> float:
    share = number(value)
    if not 0 <= share <= 1:
        raise ValueError("a share lies between 0 and 1")
    return share
