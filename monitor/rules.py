"""Prometheus' alert rules for one run, from the catalogue, with thresholds from its plan."""

from string import Template
from typing import Any

import yaml

from monitor.catalog import METRICS, MONITOR_RULES, Rule
from planner.plan import Plan
from smolplan.spec import RunSpec

HARDWARE, MONITOR = "smolplan-hardware", "smolplan-monitor"
"""Groups of rules that name no run: the same in the file of every run."""

RUNBOOK = "docs/alerts-reference.md"
"""Made by docs/make_alerts_reference.py."""


def thresholds(spec: RunSpec, plan: Plan, run: str) -> dict[str, str]:
    """What stands for `$name` in the catalogue's queries; what is not known of a run is left out.

    `run`: a regular expression for the label of that name, which Prometheus takes as a whole.
    """
    settings, every = spec.monitor, spec.checkpoint.every_steps
    # A step and its checkpoint, or a restart, may take so long before anything is wrong.
    slow_s = max(settings.startup_timeout_s, settings.checkpoint_timeout_s)
    found = {
        "run": run,
        "no_step_s": f"{slow_s + settings.hang_min_s:g}",
        "checkpoint_every_steps": str(every),
        "checkpoint_bytes": str(plan.checkpoint_bytes),
        "crash_loop_limit": str(settings.crash_loop_limit),
        "step_s": f'avg_over_time(smolplan_train_step_duration_seconds{{run=~"{run}"}}[1h])',
        "storage_window": "1h",
    }
    if plan.tokens_per_s is not None:
        step_s = plan.global_batch_tokens / plan.tokens_per_s
        window_s = max(3600, round(3 * every * step_s))
        found |= {
            "tokens_per_s": f"{plan.tokens_per_s:.0f}",
            "step_s": f"{step_s:.6g}",
            "storage_window": f"{window_s}s",
        }
    return found


def alert_rules(spec: RunSpec, plan: Plan, run: str) -> str:
    """The rule file, YAML; `run` as in `thresholds`."""
    known = thresholds(spec, plan, run)
    groups: dict[str, list[dict[str, Any]]] = {}
    watched = [(metric.name, rule) for metric in METRICS for rule in metric.rules]
    for name, rule in [*watched, *(("smolplan_monitor", rule) for rule in MONITOR_RULES)]:
        if all(one in known for one in Template(rule.query).get_identifiers()):
            groups.setdefault(_group(name, spec.name), []).append(_filled(rule, known))
    content = {"groups": [{"name": name, "rules": rules} for name, rules in groups.items()]}
    text: str = yaml.safe_dump(content, sort_keys=False, width=10_000, allow_unicode=True)
    return f"# By smolplan monitor rules, of the plan {plan.spec_hash[:12]} of {spec.name}.\n{text}"


def _group(metric: str, name: str) -> str:
    if metric.startswith(("DCGM_", "smolplan_gpu", "smolplan_host")):
        return HARDWARE
    return MONITOR if metric.startswith("smolplan_monitor") else f"smolplan-{name}"


def _filled(rule: Rule, known: dict[str, str]) -> dict[str, Any]:
    content: dict[str, Any] = {"alert": rule.alert, "expr": Template(rule.query).substitute(known)}
    if rule.for_s:
        content["for"] = f"{rule.for_s:g}s"
    if rule.severity is not None:
        content["labels"] = {"severity": rule.severity}
    content["annotations"] = {
        "summary": rule.summary,
        # Prometheus' own templates are {{ $labels.x }}: only our names are replaced.
        "description": Template(rule.action).safe_substitute(known),
        "runbook_url": f"{RUNBOOK}#{rule.alert.lower()}",
    }
    return content
