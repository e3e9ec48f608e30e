"""Learning rate, warm-up, decay and the optimiser's constants."""

from collections.abc import Iterator

from preflight.context import Context
from preflight.expected import Planned, usual_learning_rate
from preflight.oddity import Oddity, judge
from preflight.registry import check
from preflight.report import Finding

LOWEST, HIGHEST = 1 / 10, 6.0
"""Times the usual learning rate; published runs lie between 0.18 and 2.95 (preflight/expected.py).
Below are continued trainings, such as SmolLM3's long-context stages at 2e-5."""


@check(
    "config.schedule",
    severity="advisory",
    remedy="Usual for warm-up, stable, decay: warm-up of 1 % of the steps or 2,000, decay over "
    "the last 10 to 20 %.",
    tier="quick",
    passive=True,
    once=True,
)
def schedule(context: Context) -> Finding:
    """Warm-up, decay and peak learning rate are within what is usual."""
    optim, steps, usual = context.spec.optim, context.spec.steps, usual_learning_rate(context)
    return judge(
        [*schedule_oddities(context), *optimiser_oddities(context)],
        f"{optim.warmup_steps:,} up, {optim.decay_length(steps):,} down to step {steps:,}",
        source="table",
        measured={
            "warmup_ratio": optim.warmup_steps / steps,
            "decay_ratio": optim.decay_length(steps) / steps,
            "learning_rate": optim.learning_rate,
        },
        needed={
            "warmup_ratio_max": 0.2,
            "learning_rate_max": HIGHEST * usual,
            "learning_rate_min": LOWEST * usual,
        },
    )


def schedule_oddities(run: Planned) -> Iterator[Oddity]:
    optim, steps = run.spec.optim, run.spec.steps
    # 2 / (1 − β₂) steps of warm-up are what Adam's second moment takes to settle (Ma and Yarats
    # 2019, arXiv 1910.04209); a very short run may spend a twentieth on it.
    settled = min(2 / (1 - optim.beta2), 0.05 * steps)
    usual = f"{max(1, min(2000, steps // 100)):,}"
    warmup = ("optim.warmup_steps", f"{optim.warmup_steps:,}")
    if optim.warmup_steps == 0:
        yield Oddity(
            *warmup,
            "the first steps are taken at the full rate, with moments of nothing",
            f"Set optim.warmup_steps to about {usual}.",
        )
    elif optim.warmup_steps > 0.2 * steps:
        yield Oddity(
            *warmup,
            f"warm-up takes {optim.warmup_steps / steps:.0%} of the {steps:,} steps",
            f"Set optim.warmup_steps to about {usual}.",
        )
    elif optim.warmup_steps < settled:
        yield Oddity(
            *warmup,
            f"Adam's second moment takes {settled:,.0f} steps to settle at beta2 {optim.beta2:g}",
            f"Set optim.warmup_steps to {settled:,.0f} or more.",
        )
    decay = ("optim.decay_steps", f"{optim.decay_steps:,}")
    if optim.schedule != "wsd":
        return
    if optim.decay_steps == 0:
        yield Oddity(
            *decay,
            "the learning rate never decays, and the last of the loss is left lying",
            f"Set optim.decay_steps to a tenth of the steps, {max(1, steps // 10):,}.",
        )
    elif optim.decay_steps < 0.01 * steps:
        yield Oddity(
            *decay,
            f"the rate falls within {optim.decay_steps / steps:.2%} of the run; 10 to 20 % are "
            "usual (arXiv 2404.06395)",
            f"Set optim.decay_steps to a tenth of the steps, {max(1, steps // 10):,}.",
        )


def optimiser_oddities(run: Planned) -> Iterator[Oddity]:
    optim, usual = run.spec.optim, usual_learning_rate(run)
    ratio = optim.learning_rate / usual
    if not LOWEST <= ratio <= HIGHEST:
        follows = "the loss will spike or diverge" if ratio > 1 else "most of the compute is wasted"
        yield Oddity(
            "optim.learning_rate",
            f"{optim.learning_rate:g}",
            f"{ratio:.2g} times what runs of {run.plan.flops_per_token * run.spec.tokens:.2g} "
            f"FLOPs take (arXiv 2401.02954): {follows}, unless training is continued",
            f"Set optim.learning_rate to about {usual:.1e}.",
        )
    if optim.weight_decay > 0.5:
        yield Oddity(
            "optim.weight_decay",
            f"{optim.weight_decay:g}",
            "weights are pulled to nothing faster than they learn",
            "Set optim.weight_decay to 0.1, as nearly all published runs.",
        )
    if optim.clip_norm > 10:
        yield Oddity(
            "optim.clip_norm",
            f"{optim.clip_norm:g}",
            "gradients of one bad batch go through unclipped",
            "Set optim.clip_norm to 1.",
        )
    if not 0.9 <= optim.beta2 <= 0.9995:
        yield Oddity(
            "optim.beta2",
            f"{optim.beta2:g}",
            f"the second moment looks back over {1 / (1 - optim.beta2):,.0f} steps",
            "Set optim.beta2 to 0.95.",
        )
    if optim.beta1 > 0.98 or optim.beta1 < 0.8:
        yield Oddity(
            "optim.beta1",
            f"{optim.beta1:g}",
            f"the momentum looks back over {1 / (1 - optim.beta1):,.0f} steps",
            "Set optim.beta1 to 0.9.",
        )
    if optim.eps > 1e-5:
        yield Oddity(
            "optim.eps",
            f"{optim.eps:g}",
            "above the size of most gradients' moments: Adam becomes plain momentum",
            "Set optim.eps to 1e-8.",
        )
