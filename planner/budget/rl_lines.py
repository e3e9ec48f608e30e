"""The line of reinforcement learning, with both ways of generating that it was counted from."""

from dataclasses import dataclass, replace

from planner.budget.lines import (
    SECTIONS,
    BudgetLine,
    model_of,
    params_of,
    per_token_flops,
    rate_of,
)
from planner.budget.spec import BudgetSpec
from planner.budget.work import Rl
from planner.catalog import Gpu
from planner.inference import cache_shape
from planner.posttrain import FORWARD, TRAINING, LogNormalLengths
from planner.rl import RlAnswer, RlPlan, concurrent_sequences, rl
from smolplan.errors import UserError


@dataclass(frozen=True)
class RlLine:
    """What an RL line was counted from: both ways of generating, on the same GPUs."""

    name: str
    answer: RlAnswer
    chosen: str
    rollout_share: float
    assumed: str


def rl_line(index: int, part: Rl, spec: BudgetSpec, gpu: Gpu) -> tuple[BudgetLine, RlLine]:
    """RL needs an architecture, for its cache. Raises UserError where not one sequence fits."""
    where = f"rl[{index}]"
    model = model_of(part, spec, where)
    if model is None:
        raise UserError(
            "the cache of keys and values needs an architecture",
            where=f"{where}.model",
            remedy="Give model: smollm3-3b or another preset, here or in main.",
        )
    rate = rate_of(part, spec, gpu, where)
    params = params_of(part, spec, where)
    per_token = per_token_flops(part, spec, rate.formula, where)
    train = rate.flops_per_s
    if train is None:
        assert rate.tokens_per_s
        train = rate.tokens_per_s * per_token
    plan = RlPlan(
        params=params,
        forward_flops=per_token * FORWARD / TRAINING,
        cache=cache_shape(model),
        gpu=gpu,
        gpus=part.gpus,
        rollout_share=part.split.rollout if part.split else 0.5,
        gpus_per_engine=part.gpus_per_engine,
        steps=part.steps,
        prompts=part.prompts,
        samples=part.samples,
        prompt_tokens=float(part.prompt_tokens),
        lengths=LogNormalLengths(
            float(part.lengths.mean), part.lengths.sigma, float(part.lengths.longest)
        ),
        train_flops_per_s=train,
        decode_efficiency=part.decode_efficiency,
        reference=part.reference,
    )
    if concurrent_sequences(plan) < 1:
        raise UserError(
            f"beside {2 * params / 1e9:,.0f} GB of weights not one sequence of these lengths fits "
            f"in {part.gpus_per_engine} × {gpu.name}",
            where=f"{where}.gpus_per_engine",
            remedy="Give more of them, or shorter lengths.",
        )
    answer = rl(plan) if part.split else balanced(plan)
    chosen = answer.synchronous if part.generation == "synchronous" else answer.asynchronous
    assumed = "decode_efficiency 0.5 is assumed: measure your inference engine's"
    times = f"{part.runs:,} × " if part.runs > 1 else ""
    line = BudgetLine(
        SECTIONS["rl"],
        part.name,
        chosen.gpu_hours * part.runs,
        f"{times}{part.steps:,} steps × {chosen.step_s:,.4g} s × {part.gpus:,} GPUs, "
        f"{part.generation}",
        part.source or "planner/rl.py: decoding bound by memory bandwidth",
    )
    share = part.split.rollout if part.split else answer.best_rollout_share
    told = "decode_efficiency" in part.model_fields_set
    return line, RlLine(part.name, answer, part.generation, share, "" if told else assumed)


def balanced(plan: RlPlan) -> RlAnswer:
    """The answer with the GPUs split so that neither part waits. How many sequences decode together
    depends on the split a little, so it is found in a few rounds."""
    answer = rl(plan)
    for _ in range(20):
        plan = replace(plan, rollout_share=answer.best_rollout_share)
        answer = rl(plan)
    return answer
