"""What a report says, for machines. Pure."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from monitor.story import Story
from planner.catalog import Price


def facts_of(story: Story, plan: Mapping[str, Any], price: Price | None) -> dict[str, Any]:
    """Seconds, GPU-hours, US dollars."""
    goodput, hours = story.goodput, story.gpu_hours
    return {
        "run": story.run.id,
        "state": story.run.state,
        "reason": story.run.reason,
        "launched_at": story.run.created_at,
        "until": story.until,
        "step": story.observed.step,
        "steps": story.observed.steps,
        "forked_from": story.origin and story.origin.to_json(),
        "saved_step": story.saved_step,
        "wall_s": goodput.wall_s,
        "goodput": goodput.ratio,
        "seconds": goodput.seconds,
        "data_wait_s": goodput.data_wait_s,
        "useful_steps": goodput.useful_steps,
        "redone_steps": goodput.redone_steps,
        "attempts": len(story.attempts),
        "failures": [asdict(failure) for failure in story.failures],
        "hosts": [asdict(fault) for fault in story.host_faults],
        "stalls_s": list(story.stalls_s),
        "gpu_hours": hours,
        "gpu_hours_planned": planned_gpu_hours(story, plan),
        "dollars": None if price is None else [hours * price.low, hours * price.high],
        "intervals": [asdict(interval) for interval in story.intervals],
    }


def planned_gpu_hours(story: Story, plan: Mapping[str, Any]) -> float | None:
    """Of the steps that were done, by the plan's throughput, without failures; None where the plan
    names none."""
    speed = plan.get("tokens_per_s")
    if not isinstance(speed, int | float) or speed <= 0:
        return None
    step = story.observed.step
    tokens = story.spec.tokens_after(step) - story.spec.tokens_after(step - story.steps_done)
    return tokens / speed * story.spec.cluster.gpus / 3600
