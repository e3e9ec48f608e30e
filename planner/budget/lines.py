"""Lines of a budget: GPU-hours with their formula, from what the file says of each."""

from collections.abc import Iterator
from dataclasses import dataclass

from planner.architecture import Architecture
from planner.budget.spec import BudgetSpec
from planner.budget.work import Evaluation, Item, Preference, Sft, Sized, Speed
from planner.catalog import Gpu
from planner.explain import scientific
from planner.flops import FLOPS_PER_PARAM_6ND, flops_per_token
from planner.named import named_model
from planner.params import active_parameter_count, parameter_count
from planner.posttrain import Work, preference, supervised
from planner.question import Base, Formula, base_flops
from smolplan.errors import UserError
from smolplan.spec import ModelSpec
from smolplan.units import count_of, format_count, format_duration

SECTIONS = {
    "main": "main run",
    "ablations": "ablations",
    "data_mixture": "data mixture",
    "annealing": "annealing",
    "debugging": "debugging and resets",
    "evaluation": "evaluation",
    "long_context": "long context",
    "mid_training": "mid-training",
    "sft": "fine-tuning",
    "preference": "preference",
    "rl": "reinforcement learning",
}
"""Field of the file → how it is called."""

OWN_PLAN = "your plan"
"""The source of a line that names none."""


@dataclass(frozen=True)
class BudgetLine:
    section: str
    name: str
    gpu_hours: float
    formula: str
    source: str
    beside_total: bool = False


def format_hours(gpu_hours: float) -> str:
    """161,280; to three digits below a hundred and where nobody counts any more."""
    return f"{gpu_hours:,.0f}" if 100 <= gpu_hours < 1e10 else scientific(gpu_hours)


def model_of(part: Sized, spec: BudgetSpec, where: str) -> ModelSpec | Architecture | None:
    """The architecture that a part names; without one, the main run's, unless it gives params."""
    name = part.model or (None if part.params is not None else spec.main.model)
    return None if name is None else named_model(name, where=f"{where}.model").shape


def params_of(part: Sized, spec: BudgetSpec, where: str) -> float:
    """All parameters of a part. Raises UserError where neither it nor the main run tells."""
    return _size_of(part, spec, where)[0]


def active_params_of(part: Sized, spec: BudgetSpec, where: str) -> float:
    """Those that a token uses, which 6ND counts: of a mixture of experts the active ones. Raises
    UserError where neither the part nor the main run tells."""
    return _size_of(part, spec, where)[1]


def _size_of(part: Sized, spec: BudgetSpec, where: str) -> tuple[float, float]:
    """All parameters, and the active ones."""
    if part.params is not None:
        return float(part.params), float(part.active_params or part.params)
    model = model_of(part, spec, where)
    if model is not None:
        return float(parameter_count(model)), float(active_parameter_count(model))
    if spec.main.params is not None:
        return _size_of(spec.main, spec, where)
    raise UserError(
        "nothing tells how large the model is",
        where=f"{where}.params",
        remedy="Give params or model here, or in main.",
    )


@dataclass(frozen=True)
class Rate:
    """FLOP/s of one GPU, or tokens/s, and how it is told."""

    flops_per_s: float | None
    tokens_per_s: float | None
    formula: Formula
    text: str


def rate_of(part: Speed, spec: BudgetSpec, gpu: Gpu, where: str) -> Rate:
    """A part's own speed, or else the budget's."""
    tokens_per_s = part.tokens_per_s_per_gpu
    mfu = part.mfu if part.mfu is not None else spec.speed.mfu
    formula: Formula = part.flops_formula or spec.speed.flops_formula or "6nd"
    if tokens_per_s is not None:
        return Rate(None, tokens_per_s, formula, f"{tokens_per_s:,.0f} tokens/s/GPU")
    default: Base = "peak" if gpu.achievable_bf16_flops is None else "achievable"
    base: Base = part.mfu_base or spec.speed.mfu_base or default
    if mfu is None:
        raise UserError(
            "nothing tells how fast it trains",
            where=f"{where}.mfu",
            remedy="Give mfu or tokens_per_s_per_gpu, here or in speed.",
        )
    flops = base_flops(gpu, base)
    named = "6ND" if formula == "6nd" else "exact"
    text = f"{100 * mfu:.3g}% of {base} {flops / 1e12:,.4g} TFLOP/s, {named}"
    return Rate(mfu * flops, None, formula, text)


def per_token_flops(part: Sized, spec: BudgetSpec, formula: Formula, where: str) -> float:
    """FLOPs of training one token, by 6ND or exactly."""
    if formula == "6nd":
        return FLOPS_PER_PARAM_6ND * active_params_of(part, spec, where)
    model = model_of(part, spec, where)
    if model is None:
        raise UserError(
            "exact FLOPs need an architecture",
            where=f"{where}.flops_formula",
            remedy="Give model: smollm3-3b or another preset, or use 6nd.",
        )
    return flops_per_token(model, part.seq_len)


def token_hours(
    part: Sized, spec: BudgetSpec, gpu: Gpu, tokens: float, passes: float, where: str
) -> tuple[float, str]:
    """GPU-hours of `tokens`, each of `passes` times the FLOPs of training one, and the formula."""
    rate = rate_of(part, spec, gpu, where)
    if rate.tokens_per_s is not None:
        seconds = tokens * passes / rate.tokens_per_s
        return seconds / 3600, rate.text
    assert rate.flops_per_s
    per_token = per_token_flops(part, spec, rate.formula, where)
    return tokens * passes * per_token / rate.flops_per_s / 3600, (
        f"{scientific(per_token, 4)} FLOP a token at {rate.text}"
    )


def item_line(
    key: str, index: int, item: Item, spec: BudgetSpec, gpu: Gpu, main: float
) -> BudgetLine:
    """One line of work. `main` is the main run's GPU-hours, for those told as a share of it."""
    where = "main" if key == "main" else f"{key}[{index}]"
    times = f"{item.count:,} × " if item.count > 1 else ""
    if item.tokens is not None:
        hours, how = token_hours(item, spec, gpu, item.tokens, 1.0, where)
        formula = f"{times}{format_count(item.tokens)} tokens × {how}"
    elif item.duration is not None:
        assert item.gpus is not None
        hours = item.gpus * item.duration / 3600
        formula = f"{times}{count_of(item.gpus, 'GPU')} × {format_duration(item.duration)}"
    elif item.gpu_hours is not None:
        hours, formula = (
            item.gpu_hours,
            f"{times}{format_hours(item.gpu_hours)} GPU-hours, as given",
        )
    else:
        assert item.share_of_main is not None
        hours, formula = (
            main * item.share_of_main,
            f"{times}{item.share_of_main:.1%} of the main run",
        )
    return BudgetLine(
        section=SECTIONS[key],
        name=item.name or SECTIONS[key],
        gpu_hours=hours * item.count,
        formula=formula,
        source=item.source or OWN_PLAN,
        beside_total=item.beside_total,
    )


def evaluation_lines(index: int, part: Evaluation, spec: BudgetSpec) -> Iterator[BudgetLine]:
    source = part.source or OWN_PLAN

    def line(name: str, hours: float, formula: str) -> BudgetLine:
        return BudgetLine(SECTIONS["evaluation"], name, hours, formula, source, part.beside_total)

    if part.gpu_hours is not None:
        yield line(part.name, part.gpu_hours, f"{format_hours(part.gpu_hours)} GPU-hours, as given")
        return
    assert part.suite_gpu_hours is not None
    checkpoints = part.checkpoints
    if checkpoints is None:
        tokens = spec.main.tokens or (spec.storage.trained_tokens if spec.storage else None)
        if tokens is None:
            raise UserError(
                "without main.tokens every_tokens tells no number of checkpoints",
                where=f"evaluation[{index}].every_tokens",
                remedy="Give checkpoints in its place.",
            )
        assert part.every_tokens is not None
        checkpoints = tokens // part.every_tokens
    yield line(
        part.name,
        checkpoints * part.suite_gpu_hours,
        f"{count_of(checkpoints, 'checkpoint')} × {part.suite_gpu_hours:g} GPU-hours",
    )
    if part.long_context_checkpoints:
        yield line(
            f"{part.name}: long context",
            part.long_context_checkpoints * part.long_context_gpu_hours,
            f"{count_of(part.long_context_checkpoints, 'checkpoint')} × "
            f"{part.long_context_gpu_hours:g} GPU-hours",
        )


def posttrain_line(
    key: str, index: int, part: Sft | Preference, spec: BudgetSpec, gpu: Gpu
) -> BudgetLine:
    where = f"{key}[{index}]"
    work = _work(part)
    passes = work.flops_per_param_token / FLOPS_PER_PARAM_6ND
    hours, how = token_hours(part, spec, gpu, work.tokens, passes, where)
    times = f"{part.runs:,} × " if part.runs > 1 else ""
    return BudgetLine(
        SECTIONS[key],
        part.name,
        hours * part.runs,
        f"{times}{work.formula}; {how}",
        part.source or OWN_PLAN,
    )


def _work(part: Sft | Preference) -> Work:
    if isinstance(part, Sft):
        return supervised(part.tokens, part.epochs, part.packing)
    return preference(
        part.pairs, part.tokens_per_sequence, part.epochs, reference_once=part.reference_once
    )
