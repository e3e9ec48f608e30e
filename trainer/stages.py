"""A pipeline's stages: layers cut off a model from outside.

A stage goes through the model's own forward pass. What another stage holds is put out of it: a
module there hands on what it is given. So parameters keep the names that they have in the whole
model, and a checkpoint does not show how many stages wrote it.
"""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from smolplan.spec.parallel import ParallelSpec
from trainer.model.transformer import CausalLM


@dataclass(frozen=True)
class Stage:
    number: int
    count: int
    layers: range

    @property
    def is_first(self) -> bool:
        return self.number == 0

    @property
    def is_last(self) -> bool:
        return self.number + 1 == self.count


def stages_of(parallel: ParallelSpec, layers: int, rank: int) -> list[Stage]:
    """Those of one rank of the pipeline: one, or with virtual stages every pipeline_parallel-th."""
    count = parallel.pipeline_parallel * parallel.virtual_pipeline
    return [
        Stage(number, count, parallel.layers_of_stage(number, layers))
        for number in range(rank, count, parallel.pipeline_parallel)
    ]


class Elsewhere(nn.Module):
    """Stands where another stage computes."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x


class Arriving(nn.Module):
    """Stands in a later stage where the first has the embedding: gives what came from before. It
    keeps the embedding's weight where the head needs it."""

    def __init__(self, weight: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.arrived: Tensor | None = None

    def forward(self, _: Tensor) -> Tensor:
        arrived, self.arrived = self.arrived, None
        assert arrived is not None
        return arrived


def cut(model: CausalLM, stage: Stage, separator: int) -> None:
    """Leave of a model what a stage holds, and have it take what the one before it gives, beside
    whole micro-batches of `tokens` and `targets`."""
    decoder, forward = model.model, model.forward
    for number in range(len(decoder.layers)):
        if number not in stage.layers:
            decoder.layers[number] = Elsewhere()
    arriving = None
    if not stage.is_first:
        tied = model.tied and stage.is_last
        arriving = Arriving(decoder.embed_tokens.weight if tied else None)
        decoder.embed_tokens = arriving  # type: ignore[assignment]
    if not stage.is_last:
        decoder.norm = Elsewhere()
        model.lm_head = Elsewhere()  # type: ignore[assignment]
        model.tied = False

    def stage_forward(x: Tensor, tokens: Tensor, targets: Tensor) -> Tensor:
        if arriving is not None:
            arriving.arrived = x
        return forward(tokens, separator, targets if stage.is_last else None)

    model.forward = stage_forward  # type: ignore[method-assign, assignment]


class Parts(nn.ModuleList):
    """The stages that a rank holds, with the names that they have in the whole model for what a
    checkpoint keeps of them."""

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        for part in self:
            yield from part.named_parameters(*args, **kwargs)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Any:
        for part in self:
            yield from part.named_buffers(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {
            name: held for part in self for name, held in part.state_dict(*args, **kwargs).items()
        }


class TiedEnds:
    """An embedding that the first stage and the last both hold, and train alike: each has its own
    copy, and both the gradient of its two uses. All ranks make it together."""

    def __init__(self, model: nn.Module, mesh: DeviceMesh) -> None:
        """mesh: (pipeline, replicate, shard, tensor)."""
        pairs = mesh.mesh[[0, -1]].flatten(1).T.tolist()
        self._group, _ = dist.new_subgroups_by_enumeration(pairs)
        stage, last = mesh.get_local_rank("pipeline"), mesh["pipeline"].size() - 1
        self.second_copy = stage == last
        self.weight: nn.Parameter | None = None
        """None in the stages between."""
        if stage in (0, last):
            self.weight = dict(model.named_parameters())["model.embed_tokens.weight"]

    def sum_gradients(self) -> None:
        if self.weight is not None:
            assert isinstance(self.weight.grad, DTensor)
            dist.all_reduce(self.weight.grad.to_local(), group=self._group)
