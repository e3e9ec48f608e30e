"""The learning rate, step by step."""

import math

from smolplan.spec import OptimSpec


def learning_rate(step: int, optim: OptimSpec, steps: int) -> float:
    """Rate of step `step` (from 0) of `steps`: linear from peak/warm-up to peak, constant, then
    down to the final fraction of it, which the step after the last would reach. WSD (arXiv
    2404.06395) goes down in its last decay_steps; cosine and linear behind the warm-up."""
    peak, decay = optim.learning_rate, optim.decay_length(steps)
    if step < optim.warmup_steps:
        return peak * (step + 1) / optim.warmup_steps
    if step < steps - decay:
        return peak
    left = (steps - step) / (decay + 1)
    floor = optim.final_lr_fraction
    return peak * (floor + (1 - floor) * _height(left, optim))


def _height(left: float, optim: OptimSpec) -> float:
    """From 1 down to 0, `left` of the way still to go."""
    if optim.schedule == "cosine":
        return (1 - math.cos(math.pi * left)) / 2
    if optim.decay_shape == "1-sqrt":  # Hägele et al. 2024, arXiv 2405.18392
        return 1 - math.sqrt(1 - left)
    return left
