"""Parameters of a rank, and the training state that they need: weights, gradients, optimiser."""

from typing import TYPE_CHECKING, Any

from planner.architecture import Architecture, architecture_of
from planner.explain import Line
from planner.kernels import Values, either, roundup_quotient
from planner.memory.conventions import GENERIC, Conventions
from planner.memory.layout import FP32_STATE, Layout, StateBytes
from planner.params import (
    latent_matrix_parameters,
    layer_matrix_parameters,
    layer_vector_parameters,
    matrix_counts,
    norm_parameters,
)

if TYPE_CHECKING:
    from smolplan.spec import ModelSpec

ZERO = "ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054"
FSDP2 = "FSDP2: one layer in use, the next on its way, and the tables"


def least(a: Values, b: Values) -> Values:
    """The smaller of two, for numbers and arrays alike."""
    return either(a < b, a, b)


def stage_layers(
    arch: Architecture, layout: Layout, conventions: Conventions = GENERIC, *, last_stage: Any
) -> Values:
    """Layers of a pipeline's first or last stage. By compute (nanotron's build_model): a stage
    takes layers until its share of all costs is exceeded. Tables as layers (BigScience's
    type:transformer|embedding): embedding and head each take a layer's place."""
    p, layers = layout.pipeline_parallel, arch.layers
    if conventions.stages == "even":
        return roundup_quotient(layers, p)
    if conventions.stages == "tables as layers":
        return either(p == 1, layers, roundup_quotient(layers + 2, p) - 1)
    layer = layer_matrix_parameters(arch)
    whole = layers * layer + arch.vocab_size * arch.hidden
    first = least(layers, whole / p // layer + 1)
    before_last = least(layers, whole * (p - 1) / p // layer + 1)
    return either(p == 1, layers, either(last_stage, layers - before_last, first))


def layer_routed_parameters(arch: Architecture, layout: Layout) -> Values:
    """Of one layer with experts, what of them a rank holds."""
    routed = matrix_counts(arch, active=False).get("routed experts", 0)
    split = layout.tensor_parallel * layout.expert_parallel
    return roundup_quotient(routed // max(1, arch.moe_layers), split)


def expert_layers(arch: Architecture, layout: Layout, layers: Values, *, last_stage: Any) -> Values:
    """Of a stage's layers those with experts. The first stage's dense ones count in a pipeline of
    two; in a longer one the second stage has none, and is taken to be as full as the first."""
    if (moe := arch.moe) is None:
        return 0
    p = layout.pipeline_parallel
    dense = least(layers, moe.first_dense_layers) // moe.every
    with_dense = (p == 1) | ((p == 2) & (not last_stage))
    return least(arch.moe_layers, layers // moe.every - with_dense * dense)


def rank_routed_parameters(
    model: "ModelSpec | Architecture",
    layout: Layout,
    conventions: Conventions = GENERIC,
    *,
    last_stage: bool = False,
) -> Values:
    """Of a rank's parameters those of routed experts, which expert parallel splits."""
    arch = architecture_of(model)
    layers = stage_layers(arch, layout, conventions, last_stage=last_stage)
    held = expert_layers(arch, layout, layers, last_stage=last_stage)
    return held * layer_routed_parameters(arch, layout)


def layer_matrices(
    arch: Architecture, layout: Layout, conventions: Conventions = GENERIC
) -> Values:
    """Of one layer's matrices, without routed experts, those that tensor parallel leaves a rank."""
    counts = matrix_counts(arch, active=False)
    split = layer_matrix_parameters(arch) - counts.get("routed experts", 0) // arch.layers
    whole = 0
    if not conventions.splits_recurrence:
        recurrent = counts.get("Mamba-2", 0) + counts.get("gated DeltaNet", 0)
        whole = (recurrent + latent_matrix_parameters(arch)) // arch.layers
    return roundup_quotient(split - whole, layout.tensor_parallel) + whole


def layer_parameters(
    arch: Architecture, layout: Layout, conventions: Conventions = GENERIC
) -> Values:
    """The same with vectors, which are whole on each rank."""
    vectors = sum(layer_vector_parameters(arch).values())
    return layer_matrices(arch, layout, conventions) + vectors


def table_parameters(arch: Architecture, layout: Layout) -> Values:
    """Of embedding and head, as many as a stage has: a pipeline's first stage holds the embedding,
    its last the head, which is a copy where it is tied. Positions and the norms outside layers are
    counted on either."""
    table = roundup_quotient(arch.vocab_size * arch.hidden, layout.tensor_parallel)
    tables = either(layout.pipeline_parallel == 1, 1 if arch.tied_embeddings else 2, 1)
    norms = (1 + arch.embedding_norm) * norm_parameters(arch)
    return table * tables + arch.learned_positions * arch.hidden + norms


def rank_parameters(
    model: "ModelSpec | Architecture",
    layout: Layout,
    conventions: Conventions = GENERIC,
    *,
    last_stage: bool = False,
) -> Values:
    """Parameters of a rank of a pipeline's first or last stage, before ZeRO shards them."""
    arch = architecture_of(model)
    layers = stage_layers(arch, layout, conventions, last_stage=last_stage)
    routed = rank_routed_parameters(arch, layout, conventions, last_stage=last_stage)
    layer = layer_parameters(arch, layout, conventions)
    return layers * layer + routed + table_parameters(arch, layout)


def rank_matrix_parameters(
    arch: Architecture,
    layout: Layout,
    conventions: Conventions = GENERIC,
    *,
    last_stage: bool = False,
) -> Values:
    """Those of them that are the layers' matrices, experts' among them."""
    layers = stage_layers(arch, layout, conventions, last_stage=last_stage)
    routed = rank_routed_parameters(arch, layout, conventions, last_stage=last_stage)
    return layers * layer_matrices(arch, layout, conventions) + routed


def state_parts(
    arch: Architecture,
    layout: Layout,
    state: StateBytes,
    conventions: Conventions = GENERIC,
    *,
    last_stage: bool = False,
) -> dict[str, Values]:
    """Bytes of the training state. Stage 1 of ZeRO shards the optimiser's over the data- and
    context-parallel ranks, or a group of them, 2 the gradients too, 3 the weights too. What is
    gathered or not yet reduced stands apart, and is never more than what sharding takes away."""
    params = rank_parameters(arch, layout, conventions, last_stage=last_stage)
    routed = rank_routed_parameters(arch, layout, conventions, last_stage=last_stage)
    whole_stage = (layout.pipeline_parallel > 1) * conventions.gathers_stage
    layer = layer_parameters(arch, layout, conventions) + layer_routed_parameters(arch, layout)
    sharded = (params - routed) / layout.shards + routed / layout.expert_shards
    missing = params - sharded

    def held(per_param: int, from_stage: int) -> Values:
        return per_param * either(layout.zero_stage >= from_stage, sharded, params)

    saved: Values = 0
    if state.optimizer_of_matrices is not None:
        whole = rank_matrix_parameters(arch, layout, conventions, last_stage=last_stage)
        of_ranks = (whole - routed) / layout.shards + routed / layout.expert_shards
        matrices = either(layout.zero_stage >= 1, of_ranks, whole)
        saved = (state.optimizer - state.optimizer_of_matrices) * matrices
    tables = table_parameters(arch, layout)
    gathered = conventions.element_bytes * either(whole_stage, params, 2 * layer + tables)
    copy = conventions.sharded_master * conventions.element_bytes * params
    adds_up = conventions.whole_gradients * (layout.gradient_accumulation > 1)
    unreduced = either(whole_stage | adds_up, params, layer)
    reducing = state.gradients * least(unreduced, missing)
    return {
        "weights": held(state.weights, 2 if conventions.sharded_master else 3),
        "gradients": held(state.gradients, 2),
        "optimiser state": held(state.optimizer, 1) - saved,
        "gathered weights": either(
            layout.zero_stage >= 3, least(gathered, state.weights * missing), copy
        ),
        "unreduced gradients": either(layout.zero_stage >= 2, reducing, 0),
    }


def state_formulas(
    layout: Layout,
    state: StateBytes,
    parts: dict[str, Values],
    conventions: Conventions = GENERIC,
) -> dict[str, str]:
    """How each part of the state comes about."""
    formulas = {}
    for name, per_param, from_stage in (
        ("weights", state.weights, 2 if conventions.sharded_master else 3),
        ("gradients", state.gradients, 2),
        ("optimiser state", state.optimizer, 1),
    ):
        split = float(layout.shards) if layout.zero_stage >= from_stage else 1.0
        formulas[name] = f"{per_param} B × {parts[name] * split / per_param:,.0f}"
        if name == "optimiser state" and state.optimizer_of_matrices is not None:
            formulas[name] = f"{per_param} B a weight, of matrices {state.optimizer_of_matrices} B"
        formulas[name] += f" / {split:.0f} ranks" if split > 1 else ""
    formulas["gathered weights"] = "in the compute type, beside the shards"
    formulas["unreduced gradients"] = f"{state.gradients} B a weight, whole until reduced"
    return formulas


def state_lines(
    model: "ModelSpec | Architecture", layout: Layout, state: StateBytes = FP32_STATE
) -> list[Line]:
    """Weights, gradients and optimiser state as sharded, without what is gathered in passing."""
    parts = state_parts(architecture_of(model), layout, state)
    formulas = state_formulas(layout, state, parts)
    names = ("weights", "gradients", "optimiser state")
    return [Line(name, float(parts[name]), "B", formulas[name], ZERO) for name in names]
