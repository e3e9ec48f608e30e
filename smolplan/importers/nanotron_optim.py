"""nanotron's optimiser and its schedule (OptimizerArgs and LRSchedulerArgs of config.py, and
lr_scheduler_builder of src/nanotron/helpers.py)."""

from typing import Any

from smolplan.importers.draft import Draft
from smolplan.importers.schedule import Decay, put_decay
from smolplan.importers.source import count_or_zero, number, positive, text, whole

DEFAULT = "nanotron's default"


def _zero_stage(value: Any) -> int:
    if value not in (0, 1, 2, 3):
        raise ValueError("a stage is 0, 1, 2 or 3")
    return whole(value)


def _precision(value: Any) -> str:
    if text(value) not in ("bfloat16", "bf16", "float32"):
        raise ValueError("the trainer computes in bfloat16 or float32")
    return "fp32" if value == "float32" else "bf16"


def take_optim(draft: Draft) -> None:
    source, factory = draft.source, "optimizer.optimizer_factory."
    name = source.find(factory + "name")
    if name and source.read(name, text).lower() != "adamw":
        raise source.error(name, "the trainer has AdamW", "Use adamW.")
    draft.take(
        "optim.beta1", number, factory + "adam_beta1", default=0.9, why="the run spec's default"
    )
    draft.take(
        "optim.beta2", number, factory + "adam_beta2", default=0.95, why="the run spec's default"
    )
    draft.take(
        "optim.eps", positive, factory + "adam_eps", default=1e-8, why="the run spec's default"
    )
    draft.take("optim.weight_decay", number, "optimizer.weight_decay")
    draft.leave_if_there(
        "optimizer.weight_decay_exclude_named_params",
        "the trainer decays no norms, the embedding by optim.embedding_decay alone, and all else",
    )
    if source.find("optimizer.clip_grad"):
        draft.take("optim.clip_norm", positive, "optimizer.clip_grad")
    else:
        draft.assume("optim.clip_norm", 1.0, "the file does not clip; a run spec always does")
    draft.take("parallel.zero_stage", _zero_stage, "optimizer.zero_stage")
    draft.leave_if_there(
        "optimizer.accumulate_grad_in_fp32", "sums are always fp32", unless=(True,)
    )
    draft.take("optim.precision", _precision, "model.dtype", default="bf16", why=DEFAULT)
    _schedule(draft)


def _schedule(draft: Draft) -> None:
    source, section = draft.source, "optimizer.learning_rate_scheduler."
    steps = draft.take_steps("tokens.train_steps")
    rate = draft.take("optim.learning_rate", positive, section + "learning_rate")
    warmup = draft.take(
        "optim.warmup_steps", count_or_zero, section + "lr_warmup_steps", default=0, why=DEFAULT
    )
    draft.leave_if_there(
        section + "lr_warmup_style", "a run spec warms up in a straight line", unless=("linear",)
    )
    start_name, length_name = section + "lr_decay_starting_step", section + "lr_decay_steps"
    start = source.read(start_name, count_or_zero) if source.find(start_name) else warmup
    if source.find(length_name):
        length = source.read(length_name, count_or_zero)
    else:
        length = max(0, steps - warmup)  # nanotron fills this in, whatever the start
    floor_name = section + "min_decay_lr"
    # Without a floor nanotron takes the peak for it, and the rate stays where it is.
    floor = source.read(floor_name, number) if source.find(floor_name) else rate
    if floor >= rate:
        if source.find(floor_name):
            draft.put("optim.decay_steps", 0, floor_name)
        else:
            draft.assume("optim.decay_steps", 0, "without min_decay_lr nanotron decays nothing")
        draft.leave_if_there(length_name, "min_decay_lr is the peak, so nothing decays")
        source.get(section + "lr_decay_style")
        return
    style = section + "lr_decay_style"
    shape = source.read(style, text) if source.find(style) else "linear"
    put_decay(draft, steps, Decay(start, length, shape, floor, length_name, style, floor_name))
