"""What lm-eval answers, as evals/step-N.json has it."""

import hashlib
import json
import math
from typing import Any

GUESSED = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
"""Metrics of multiple choice: guessing scores the share of choices that are right."""


def scores(answers: dict[str, Any], loaded: dict[str, Any]) -> dict[str, Any]:
    """Of each task and group by name: its metrics with their standard errors and what guessing
    would score, None where that cannot be known; documents, version, and a hash of all that was
    asked and of the right answers."""
    chances = {name: _chance(task) for name, task in loaded["tasks"].items()}
    for name in reversed(list(loaded["groups"])):  # a group comes before those that it is of
        parts = {chances.get(child) for child in loaded["group_map"][name]}
        chances[name] = parts.pop() if len(parts) == 1 else None
    found = {}
    for name, result in answers["results"].items():
        metrics = _metrics(result, chances.get(name))
        if not metrics:  # a group that adds nothing up
            continue
        found[name] = {
            "metrics": metrics,
            "documents": result.get("sample_len"),
            "few_shot": answers["n-shot"].get(name),
            "version": answers["versions"].get(name),
        }
        if name in loaded["tasks"]:
            found[name]["sha256"] = _hash(loaded["tasks"][name])
    return found


def _metrics(result: dict[str, Any], chance: float | None) -> dict[str, Any]:
    """lm-eval's keys are `metric,filter` and `metric_stderr,filter`."""
    metrics = {}
    for key, value in result.items():
        metric, comma, kept_by = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        name = metric if kept_by == "none" else key
        metrics[name] = {
            "score": _finite(value),
            "standard_error": _finite(result.get(f"{metric}_stderr,{kept_by}")),
            "chance": chance if metric in GUESSED else None,
        }
    return metrics


def _finite(value: Any) -> float | None:
    """None for lm-eval's "N/A", and for what JSON has no number for."""
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None


def _chance(task: Any) -> float | None:
    """Mean over the documents that were asked of the share of choices that are right."""
    if getattr(task, "OUTPUT_TYPE", None) != "multiple_choice":
        return None
    documents = {instance.doc_id: instance.doc for instance in task.instances}
    shares = []
    for document in documents.values():
        right = task.doc_to_target(document)
        several = len(set(right)) if isinstance(right, list) else 1
        shares.append(several / len(task.doc_to_choice(document)))
    return sum(shares) / len(shares)


def _hash(task: Any) -> str:
    digest = hashlib.sha256()
    for instance in task.instances:
        asked = [instance.args, task.doc_to_target(instance.doc)]
        digest.update(json.dumps(asked, default=str).encode() + b"\n")
    return digest.hexdigest()
