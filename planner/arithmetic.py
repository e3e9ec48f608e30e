"""An answer, line by line: each number with its formula and source."""

from planner.answer import Answer
from planner.conventions import FORMULA_NAMES
from planner.explain import Line, scientific
from planner.flops import FLOPS_PER_PARAM_6ND
from planner.question import base_flops
from smolplan.units import DAY_S, count_of

PLAYBOOK = "Smol Training Playbook (2025), How many GPUs do we need?"
KAPLAN = "Kaplan et al. 2020, arXiv 2001.08361"


def lines_of(a: Answer) -> tuple[Line, ...]:
    """The arithmetic of an answer, in the order in which it is done."""
    q = a.question
    assert q.tokens and q.gpus and q.deadline_s
    base = base_flops(q.gpu, q.mfu_base)
    flops, per_token = scientific(a.flops, 4), scientific(a.flops_per_token, 4)
    rate = scientific(a.flops_per_s_per_gpu, 4)
    base_source = q.gpu.achievable_source if q.mfu_base == "achievable" else q.gpu.source
    if q.flops_formula == "6nd":
        counted, counted_source = (
            f"6 × {scientific(a.flops_per_token / FLOPS_PER_PARAM_6ND, 4)} parameters",
            "6ND: " + KAPLAN,
        )
    else:
        counted = f"3 × forward matrix multiplications, causal, {q.seq_len:,} tokens"
        counted_source = "exact: planner/flops.py"
    if q.tokens_per_s_per_gpu is not None:
        speed = f"{q.tokens_per_s_per_gpu:,.6g} tokens/s × {per_token}"
    elif a.unknown == "mfu":
        speed = f"{flops} / ({count_of(a.gpus, 'GPU')} × {q.deadline_s - q.lost_s:,.0f} s)"
    else:
        formula = FORMULA_NAMES[q.flops_formula]
        speed = f"{a.mfu:.4g} by {formula} of {q.mfu_base} {base / 1e12:,.4g} TFLOP/s"
    usable_s = q.deadline_s - q.lost_s
    lines = [
        Line("FLOPs per token", a.flops_per_token, "FLOP", counted, counted_source),
        Line(
            "FLOPs",
            a.flops,
            "FLOP",
            f"{per_token} × {scientific(q.tokens, 4)} tokens",
        ),
        Line(f"{q.gpu.name} {q.mfu_base}", base / 1e12, "TFLOP/s", "catalogue", base_source or ""),
        Line("per GPU", a.flops_per_s_per_gpu / 1e12, "TFLOP/s", speed),
        Line(
            "tokens/s per GPU",
            a.tokens_per_s_per_gpu,
            "",
            f"{rate} FLOP/s / {per_token} FLOP",
        ),
        Line(
            "time for stepping",
            usable_s,
            "s",
            f"{q.deadline_s:,.0f} s − {q.lost_s:,.0f} s lost to failures",
        ),
        Line(
            "GPUs, plain quotient" if a.unknown == "gpus" else "GPUs",
            a.gpus_quotient,
            "",
            f"{flops} / ({rate} × {usable_s:,.0f} s)",
            PLAYBOOK if a.unknown == "gpus" else "",
        ),
    ]
    if a.unknown == "gpus":
        lines.append(
            Line(
                "GPUs, whole nodes",
                a.gpus,
                "",
                f"{a.gpus // q.node_size:,} × {q.node_size}; nodes made of 2, 3, 5 and 7",
                "planner/nodes.py: 384 = 2^7 × 3 lays out, 376 = 2^3 × 47 does not",
            )
        )
    lines.append(
        Line(
            "stepping",
            a.stepping_s / DAY_S,
            "days",
            f"{flops} / ({a.gpus:,} × {rate}) / 86,400",
        )
    )
    if a.slack_s is not None:
        lines.append(
            Line(
                "slack for failures",
                a.slack_s / DAY_S,
                "days",
                f"{usable_s / DAY_S:,.4g} − {a.stepping_s / DAY_S:,.4g} days",
            )
        )
    hours = f"{a.gpus:,} × ({a.stepping_s:,.0f} s + {q.lost_s:,.0f} s) / 3,600"
    lines.append(Line("GPU-hours", a.gpu_hours, "h", hours))
    if a.cost is not None:
        lines.append(
            Line("cost, low", a.cost.low, "$", f"× ${a.cost.price_low:g} per hour", a.cost.source)
        )
        if a.cost.high != a.cost.low:
            lines.append(Line("cost, high", a.cost.high, "$", f"× ${a.cost.price_high:g} per hour"))
    return tuple(lines)
