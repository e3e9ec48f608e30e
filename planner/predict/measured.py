"""What a row measured, in one definition, and rules that find rows which cannot be right.

No rule here looks at a prediction.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from planner.predict.workload import Workload
from planner.step_inputs import BF16

RECOMPUTED_OVER_MODEL = 4.0 / 3.0
"""Hardware FLOPs over model FLOPs where every layer is recomputed: four forwards for three."""


@dataclass(frozen=True)
class Measured:
    tokens_per_s_per_gpu: float
    origin: str
    """Which column it was taken from."""


def measured_of(w: Workload) -> Measured | None:
    """Tokens per second and GPU: from the step time, else from tokens/s, else from TFLOP/s, else
    from MFU. The latter two count full attention unless the notes say causal, and count
    recomputation where the notes say HARDWARE."""
    n = w.row.numbers
    if n.get("step_time_s"):
        rate = n["global_batch_tokens"] / (n["gpus"] * n["step_time_s"])
        return Measured(rate, "step_time_s")
    if n.get("tokens_per_s_per_gpu"):
        return Measured(n["tokens_per_s_per_gpu"], "tokens_per_s_per_gpu")
    per_token = published_flops_per_token(w)
    if n.get("tflops_per_gpu"):
        return Measured(n["tflops_per_gpu"] * 1e12 / per_token, "tflops_per_gpu")
    if n.get("mfu_pct"):
        rate = n["mfu_pct"] / 100.0 * w.machine["bf16_flops_per_s"] / per_token
        return Measured(rate, "mfu_pct")
    return None


def published_flops_per_token(w: Workload) -> float:
    """FLOPs of a token as the row's source counts them."""
    notes = w.row.text("notes")
    causal = bool(re.search(r"(?<!non-)causal", notes, re.I)) and "non-causal" not in notes
    per_token = w.flops_per_token if causal else w.full_attention_flops_per_token
    if re.search("HARDWARE", notes) and w.layout["full_recompute"]:
        per_token *= RECOMPUTED_OVER_MODEL
    return per_token


DISOWNED = re.compile(r"known regression", re.I)
DISAGREES = 1.05
"""Step time and tokens/s of one row further apart than this factor contradict each other."""
DEFINITIONS = 1.6
"""Counts of a token's FLOPs differ by up to this between sources: recomputation makes 4/3,
attention or head left out or counted in full the rest. Beyond it TFLOP/s and tokens/s of one row
contradict each other."""
BACKWARD_SCALING = 1.2
"""With more replicas of one layout sharing the same batch, a step cannot take longer; by this
factor it is no noise."""
HALF_THE_LAYERS = 0.9
"""Stages of half the layers or less take about half the time for a micro-batch; one that takes
more than this share of the whole was disturbed."""
ILL_SHARE = 0.5
"""Where more than this share of a source's runs on one number of GPUs is found out, the cluster
was ill at that size, and none of them is taken."""
ILL_FROM = 20
"""Runs on one number of GPUs from which that is judged."""
MANY_SLOTS = 8
"""From so many micro-batches a step on, what is done once a step weighs little in each."""
SIBLINGS = 1.5
"""A pipeline slot of more sequences takes longer than one of fewer, but not more than in
proportion; beyond this factor one of the two runs was disturbed."""


def contradictions(workloads: Sequence[Workload], measured: Sequence[Measured]) -> dict[int, str]:
    """Rows whose measurement cannot be right, by index, with the rule that says so: by the row
    itself, or by runs of the same source that differ in nothing but replicas or micro-batch."""
    found = {}
    for index, (w, m) in enumerate(zip(workloads, measured, strict=True)):
        reason = _self_contradiction(w, m)
        if reason:
            found[index] = reason
    families = defaultdict(list)
    for index, w in enumerate(workloads):
        if index not in found:
            families[_family(w)].append(index)
    for members in families.values():
        runs = [_run(i, workloads[i], measured[i]) for i in members]
        for run in runs:
            reason = next((r for other in runs if (r := _outdone(run, other))), None)
            if reason:
                found[run.index] = reason
    sizes = defaultdict(list)
    for index, w in enumerate(workloads):
        sizes[w.row.text("source"), w.layout["gpus"]].append(index)
    for members in sizes.values():
        share = sum(index in found for index in members) / len(members)
        if len(members) >= ILL_FROM and share > ILL_SHARE:
            for index in members:
                found.setdefault(index, "most runs on as many GPUs are contradictory")
    return found


def _self_contradiction(w: Workload, m: Measured) -> str | None:
    n = w.row.numbers
    if DISOWNED.search(w.row.text("notes")):
        return "its source calls it a regression"
    given = n.get("tokens_per_s_per_gpu")
    rate = m.tokens_per_s_per_gpu
    if given and not 1 / DISAGREES < rate / given < DISAGREES:
        return "step time and tokens/s disagree"
    flops = rate * published_flops_per_token(w)
    tflops, mfu = n.get("tflops_per_gpu"), n.get("mfu_pct")
    if tflops and not 1 / DEFINITIONS < tflops * 1e12 / flops < DEFINITIONS:
        return "TFLOP/s and tokens/s disagree"
    # Small shares are printed with too few digits to compare.
    dense = w.machine["bf16_flops_per_s"]
    share = (
        mfu / 100.0 * dense if mfu and mfu > 1.0 and w.machine["number_format"] == BF16 else None
    )
    if share and not 1 / DEFINITIONS < share / flops < DEFINITIONS:
        return "MFU and tokens/s disagree"
    if rate * w.flops_per_token > w.machine["matmul_flops_per_s"]:
        return "faster than the GPU's peak"
    return None


@dataclass(frozen=True)
class _Run:
    index: int
    gpus: float
    stages: float
    micro_batch: float
    step_s: float
    slots: float
    """Micro-batches and bubble: what a step is divided into."""

    @property
    def slot_s(self) -> float:
        return self.step_s / self.slots


def _run(index: int, w: Workload, m: Measured) -> _Run:
    layout, shape = w.layout, w.shape
    step_s = shape["tokens_per_step"] / (layout["gpus"] * m.tokens_per_s_per_gpu)
    replicas = layout["gpus"] / (layout["tp"] * layout["pp"] * layout["cp"])
    count = shape["tokens_per_step"] / (shape["seq_len"] * layout["micro_batch"] * replicas)
    slots = count + (layout["pp"] - 1.0) / max(layout["vp"], 1.0)
    return _Run(index, layout["gpus"], layout["pp"], layout["micro_batch"], step_s, slots)


def _family(w: Workload) -> tuple[str | float, ...]:
    """Runs of one family differ in nothing but replicas, stages, micro-batch and ZeRO stage; not in
    what their notes say beside numbers."""
    texts = [w.row.text(c) for c in ("source", "model", "gpu", "precision", "recompute")]
    version = re.search(r"(?i)(NeMo|date) [\d.-]+", w.row.text("notes"))
    layout = [w.layout[name] for name in ("tp", "vp", "cp", "ep", "sharded_weights")]
    batch = [w.shape["tokens_per_step"], w.shape["seq_len"]]
    told = re.sub(r"[\d.]+", "", w.row.text("dp_or_zero") + w.row.text("notes"))
    return (w.stack.name, told, *texts, version[0] if version else "", *batch, *layout)


def _outdone(run: _Run, other: _Run) -> str | None:
    """Why `run` cannot be right if `other` is."""
    growth = run.micro_batch / other.micro_batch
    if run.stages == other.stages:
        more = run.gpus > other.gpus and growth == 1.0
        if more and run.step_s > BACKWARD_SCALING * other.step_s:
            return "a longer step than with fewer replicas"
        again = run.gpus == other.gpus and growth == 1.0
        if again and run.step_s > BACKWARD_SCALING * other.step_s:
            return "far slower than the same run done again"
        alike = run.gpus == other.gpus or run.slots >= MANY_SLOTS
        if alike and run.slot_s > SIBLINGS * max(growth, 1.0) * other.slot_s:
            return "far slower than its siblings per micro-batch"
    halved = run.stages >= 2.0 * other.stages > 2.0 and growth == 1.0
    if halved and run.slots >= MANY_SLOTS and run.slot_s > HALF_THE_LAYERS * other.slot_s:
        return "half the layers a stage, yet no faster per micro-batch"
    return None
