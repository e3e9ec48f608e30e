"""How software stacks hold what they hold: rows of planner/catalog/memory.yaml, and what is taken
of a stack that none of them names."""

import re
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from planner.memory.layout import FP32_STATE, MIXED_FP32_GRADIENTS_STATE, StateBytes


@dataclass(frozen=True)
class Conventions:
    """What differs between stacks. The defaults are the generic ones."""

    name: str = "generic"
    matches: str = ""
    """A pattern that a run's "model | source | notes" holds."""
    state: StateBytes = field(default=MIXED_FP32_GRADIENTS_STATE)
    element_bytes: int = 2
    """Of an activation."""
    hidden_tensors: float = 8.0
    """Tensors of the hidden width that a layer keeps. Input and output of two norms make 4, which
    Megatron-LM's peaks show; nanotron's show 12; 8 lies between (an assumption)."""
    gated_tensors: float = 3.0
    """Of the feed-forward's width, with a gate: gate, up and product, as both stacks' peaks show; 4
    where SiLU and product are separate kernels. Without a gate 2."""
    score_bytes: float = 0.0
    """Kept per attention score; a fused kernel keeps none."""
    mask_bytes: float = 0.0
    """Of a mask that each layer with attention keeps, per pair of tokens, not per head: every
    tensor-parallel rank has it whole."""
    whole_keys: bool = False
    """Whether keys and values are kept once a query head, rather than once a head of their own."""
    gathered_keys: bool = False
    """Whether those of all context-parallel ranks are kept, rather than a rank's own."""
    dropout: bool = False
    """A mask of one byte an element behind attention and feed-forward."""
    gathered_tensors: float = 0.0
    """Tensors of the hidden width that a layer keeps whole on each tensor-parallel rank, though
    sequence parallelism splits them: inputs of products that are not gathered again backward."""
    sequence_parallel: bool = True
    """Whether tensor parallel splits tensors of the hidden width by sequence."""
    logit_bytes: float | None = None
    """Kept per logit; None: itself in the compute type, and in fp32 its log-probability, that one's
    gradient and its own, as PyTorch's cross_entropy holds them."""
    loss_tokens: int | None = None
    """Of a micro-batch, tokens whose logits are held at a time; None: all."""
    sharded_master: bool = False
    """Whether the weights are a master copy, which stage 2 of ZeRO shards too; what is computed
    with is a cast copy, gathered whole from stage 0 to 2."""
    whole_gradients: bool = False
    """Whether gradients of several micro-batches are added up whole on each rank, whatever ZeRO
    shards."""
    plain_recurrence: bool = False
    """Whether recurrences are rows of torch's operations, which keep what each token of a chunk
    leaves to each other, rather than one kernel."""
    splits_recurrence: bool = True
    """Whether tensor parallel splits the matrices of recurrent layers, and MLA's down to the
    latents."""
    weight_workspace_bytes: float = 0.0
    """Per weight of one layer and the head: where a gradient is put before it is added up."""
    backward_tensors: float = 0.0
    """Of the feed-forward's width, gradients beside what is kept while one layer goes backward."""
    stages: Literal["even", "by compute", "tables as layers"] = "even"
    """How a pipeline's stages share the layers: equally; by floating-point operations, the head
    among them; equally with the embedding and the head each counted as a layer."""
    gathers_stage: bool = True
    """Whether FSDP within a pipeline keeps a stage's weights gathered and gradients whole, rather
    than gather and reduce anew for each micro-batch (as torchtitan has it)."""
    reserved_over_allocated: float = 1.04
    """What the allocator holds over what is in use: median of 43 runs, 1.09 at most (Megatron-LM on
    B200: MooreThreads/SimuMax, docs/b200/b200_release_v1.2_summary.json)."""
    copies_bytes: float = 0.0
    """Per weight of a rank, whole: copies and buffers beside the state."""
    context_bytes: float = 0.0
    """What stands beside the tensors: libraries' buffers and, where a figure is the device's, the
    driver's context and kernels."""
    figure: Literal["allocated", "reserved", "device"] = "reserved"
    """What its published peaks are: the allocator's in use, the allocator's from the device, or all
    that the device has given away."""
    figure_stage: Literal["fullest", "first"] = "fullest"
    """Which of a pipeline's stages they are of."""
    source: str = ""


GENERIC = Conventions()

BUNDLED_TRAINER = Conventions(
    name="bundled trainer",
    state=FP32_STATE,
    hidden_tensors=4.0,
    gathered_tensors=2.0,
    gated_tensors=4.0,
    gathered_keys=True,
    logit_bytes=8.0,
    loss_tokens=2048,
    weight_workspace_bytes=6.0,  # in the compute type, and as it is reduced
    backward_tensors=2.5,
    sharded_master=True,
    whole_gradients=True,
    plain_recurrence=True,
    splits_recurrence=False,
    source="trainer/, counted tensor by tensor",
)
"""Of what planner/memory/trainer.py does not count moment by moment."""
BUNDLED_TRAINER_ON_CPU = replace(
    BUNDLED_TRAINER, hidden_tensors=10.0, mask_bytes=2.0, whole_keys=True
)
"""There a norm is a row of operations, two of which keep fp32 copies, and attention keeps whole
masks (trainer_shape.py)."""


@cache
def conventions() -> tuple[Conventions, ...]:
    """All rows, in the order in which they are tried; the last one matches everything."""
    from planner.predict.catalog import read_catalogue

    file = read_catalogue("memory.yaml")
    return tuple(_of_row(row, file["fitted"].get(row["name"], {})) for row in file["stacks"])


def _of_row(row: dict[str, Any], fitted: dict[str, float]) -> Conventions:
    known = dict(row)
    if "state" in known:
        known["state"] = StateBytes(**known["state"])
    known |= {name: value for name, value in fitted.items() if name != "rows"}
    return Conventions(**known)


def find_conventions(text: str) -> Conventions:
    """The first row whose pattern a run's model, source and notes hold."""
    return next(row for row in conventions() if re.search(row.matches, text))
