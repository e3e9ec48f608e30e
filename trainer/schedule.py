"""Warm-up, stable, decay."""


def learning_rate(step: int, *, peak: float, steps: int, warmup: int, decay: int) -> float:
    """Rate of step `step` (from 0) of `steps`: linear from peak/warmup to peak, constant, then
    linear towards 0, which the step after the last would reach (WSD, arXiv 2404.06395)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if step >= steps - decay:
        return peak * (steps - step) / (decay + 1)
    return peak
