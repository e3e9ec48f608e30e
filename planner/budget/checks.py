"""What experience says to a budget. A check adds nothing to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.budget.lines import SECTIONS, BudgetLine, format_hours
from planner.budget.spec import Limits
from planner.catalog import Gpu
from planner.catalog.nodes import NodeType
from planner.storage import Storage
from smolplan.units import format_bytes

SMOLLM3_MAIN_GPU_HOURS = 276_480
SMOLLM3_AROUND_GPU_HOURS = 161_280
"""Ablations, reset and debugging. Hugging Face, The Smol Training Playbook (2025), cost table."""

SMOLLM3_EVALUATION_GPU_HOURS = 10_000
"""Slightly under that. The same chapter."""

MORRISON_DEVELOPMENT = 159 / 312
"""Emissions of developing the OLMo models over those of their final runs. Morrison et al. 2025,
arXiv 2503.05804, section 4.1."""

EXPERIMENTS = ("ablations", "data_mixture", "annealing", "debugging")


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    text: str
    source: str = ""


def checks_of(
    lines: Sequence[BudgetLine],
    *,
    limits: Limits,
    dollars_high: float | None,
    storage: Storage | None,
    node: NodeType | None,
    gpu: Gpu,
    node_size: int,
) -> Iterator[Check]:
    """`lines` begin with the main run."""
    main = lines[0].gpu_hours
    yield _experiments(lines, main)
    yield _evaluation(lines, main)
    total = sum(line.gpu_hours for line in lines if not line.beside_total)
    if limits.gpu_hours is not None:
        yield Check(
            "GPU-hours",
            total <= limits.gpu_hours,
            f"{format_hours(total)} planned, {format_hours(limits.gpu_hours)} there are",
        )
    if limits.dollars is not None and dollars_high is not None:
        yield Check(
            "dollars",
            dollars_high <= limits.dollars,
            f"up to ${dollars_high:,.0f} planned, ${limits.dollars:,.0f} there are",
        )
    if storage is not None and node is not None:
        yield Check(
            "node",
            node.gpu == gpu.name and node.gpus == node_size,
            f"{node.name} is {node.gpus} × {node.gpu}, planned are nodes of "
            f"{node_size:,} × {gpu.name}",
            node.source,
        )
        yield from _node_checks(storage, node)


def _experiments(lines: Sequence[BudgetLine], main: float) -> Check:
    """The share that the plan sets aside for what is not the run itself."""
    names = {SECTIONS[key] for key in EXPERIMENTS}
    hours = sum(x.gpu_hours for x in lines if x.section in names and not x.beside_total)
    needed = SMOLLM3_AROUND_GPU_HOURS / SMOLLM3_MAIN_GPU_HOURS
    # A thousandth of slack: a share written in percent must meet itself.
    ok = hours / main >= needed - 1e-3
    return Check(
        "ablations and debugging",
        ok,
        f"your plan sets aside {hours / main:.1%} of the main run ({format_hours(hours)} "
        f"GPU-hours); SmolLM3 needed {needed:.1%} ({SMOLLM3_AROUND_GPU_HOURS:,} beside "
        f"{SMOLLM3_MAIN_GPU_HOURS:,}), OLMo's development about {MORRISON_DEVELOPMENT:.0%}",
        "Smol Training Playbook (2025), cost table; Morrison et al. 2025, arXiv 2503.05804",
    )


def _evaluation(lines: Sequence[BudgetLine], main: float) -> Check:
    parts = [x for x in lines if x.section == SECTIONS["evaluation"]]
    # Lines beside the total may be parts of one another, so the largest stands for them.
    hours = sum(x.gpu_hours for x in parts if not x.beside_total)
    hours += max((x.gpu_hours for x in parts if x.beside_total), default=0.0)
    needed = SMOLLM3_EVALUATION_GPU_HOURS / SMOLLM3_MAIN_GPU_HOURS
    return Check(
        "evaluation",
        hours / main >= needed / 2,
        f"your plan evaluates for {hours / main:.1%} of the main run ({format_hours(hours)} "
        f"GPU-hours); SmolLM3, ablations included, for {needed:.1%}",
        "Smol Training Playbook (2025): slightly under 10,000; warned of below half of its share",
    )


def _node_checks(storage: Storage, node: NodeType) -> Iterator[Check]:
    if node.local_nvme_bytes is not None:
        needed = storage.token_bytes + storage.checkpoint_bytes
        yield Check(
            "local disk",
            needed <= node.local_nvme_bytes,
            f"data and one checkpoint take {format_bytes(needed)} of each node's "
            f"{format_bytes(node.local_nvme_bytes)} ({node.name})",
            node.source,
        )
    if node.fabric_bits_per_s is not None:
        there, needed = node.fabric_bits_per_s / 8, storage.write_bytes_per_s_per_node
        yield Check(
            "checkpoint writing",
            needed <= there,
            f"a node writes {format_bytes(needed)}/s to keep within the stall; its network carries "
            f"{format_bytes(there)}/s at most, shared with training",
            node.source,
        )
