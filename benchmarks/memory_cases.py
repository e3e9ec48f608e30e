"""Published runs whose peak memory can be predicted: what each of them trains, and how."""

import re
from dataclasses import dataclass, replace

from planner.architecture import Architecture
from planner.memory import Conventions, Layout, Recompute, find_conventions
from planner.params import layer_matrix_parameters, parameter_count
from planner.predict.architecture import DENSE_FROM, published_architecture
from planner.predict.architecture import architecture_of_row as known_architecture
from planner.predict.catalog import find_stack
from planner.predict.rows import Row
from planner.predict.workload import layout_of_row as stated_layout

NEEDED = ("seq_len", "global_batch_tokens", "gpus", "tp", "pp", "micro_batch")
SHAPE = ("hidden", "ffn", "vocab")
CUT_SHORT = re.compile(r"deepseekv[23]_(.*_)?l\d", re.I)
"""Models with fewer layers than published, the first of them without experts (SimuMax's
run_pretrain_deepseekv2.sh)."""
USUAL_HEADS = 64.0
"""Where a row prints none: of the two numbers that BigScience's chronicles give, 64 and 96."""


@dataclass(frozen=True)
class Case:
    """A row that can be predicted."""

    row: Row
    architecture: Architecture
    layout: Layout
    conventions: Conventions
    published_gib: float


def lacking(row: Row) -> str | None:
    """Why nothing is predicted for a row that publishes its memory; None if it can be."""
    needed, unknown = list(NEEDED), published_architecture(row) is None
    if unknown:
        needed += SHAPE
        if "layers" not in row.numbers and "params_b" not in row.numbers:
            needed.append("layers")
    if empty := [name for name in needed if name not in row.numbers]:
        return "no " + ", ".join(empty)
    if unknown and 0 < row.number("active_b", 0.0) < DENSE_FROM * row.number("params_b", 0.0):
        return "a mixture of experts of unknown shape"
    if "+" in row.text("gpu"):
        return "GPUs of several kinds"
    return None


def _completed(row: Row) -> Row:
    """Layers from the parameters, and as many heads as usual, where they are not printed."""
    if published_architecture(row) is not None:
        return row
    numbers = {"heads": USUAL_HEADS} | row.numbers
    if "layers" not in numbers:
        bare = {name: n for name, n in numbers.items() if name != "params_b"} | {"layers": 1.0}
        layer = layer_matrix_parameters(known_architecture(replace(row, numbers=bare)))
        rest = 1e9 * numbers["params_b"] - numbers["vocab"] * numbers["hidden"]
        numbers["layers"] = float(round(rest / layer))
    return replace(row, numbers=numbers)


def architecture_of_row(row: Row) -> Architecture:
    """As step times take it, but for what matters to bytes alone: a tied head where that comes
    closer to the parameters, and the first layers without experts of models that were cut short."""
    published, arch = published_architecture(row), known_architecture(_completed(row))
    if published is None:
        if "params_b" not in row.numbers:
            return arch
        params = 1e9 * row.numbers["params_b"]
        untied, tied = arch, replace(arch, tied_embeddings=True)
        return min(untied, tied, key=lambda one: abs(parameter_count(one) - params))
    if arch.moe is not None and CUT_SHORT.match(row.text("model")):
        return replace(arch, moe=replace(arch.moe, first_dense_layers=1))
    return arch


def layout_of_row(row: Row, layers: int) -> Layout:
    """As step times take it."""
    known = stated_layout(row, find_stack(row.origin), layers)
    data = max(1.0, known["gpus"] / (known["tp"] * known["pp"] * known["cp"]))
    sequences = max(1.0, row.numbers["global_batch_tokens"] / row.numbers["seq_len"] / data)
    recompute: Recompute = "selective" if known["attention_recompute"] else "none"
    return Layout(
        data_parallel=data,
        tensor_parallel=known["tp"],
        pipeline_parallel=known["pp"],
        virtual_pipeline=known["vp"],
        context_parallel=known["cp"],
        expert_parallel=known["ep"],
        zero_stage=3 if known["sharded_weights"] else int(known["sharded_optimizer"]),
        micro_batch_size=known["micro_batch"],
        gradient_accumulation=sequences / known["micro_batch"],
        recompute="full" if known["full_recompute"] else recompute,
    )


def case_of(row: Row) -> Case:
    """A row that lacks nothing."""
    arch = architecture_of_row(row)
    return Case(
        row,
        arch,
        layout_of_row(row, arch.layers),
        find_conventions(row.origin),
        row.numbers["mem_gib_per_gpu"],
    )
