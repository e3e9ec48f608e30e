"""A step's passes through what this rank holds of the model: all of its layers, or some stages."""

from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from smolplan.spec import RunSpec
from trainer.balance import share_losses
from trainer.clipping import shorten, total_norm
from trainer.model.transformer import CausalLM, initialise
from trainer.parallel import World, distribute, shard_of
from trainer.stages import Parts, Stage, TiedEnds, stages_of

if TYPE_CHECKING:
    from trainer.pipeline import Pipeline


class Passes:
    """Makes the model, laid out as the spec says. Its weights are still to be set."""

    def __init__(self, spec: RunSpec, world: World, separator: int) -> None:
        self._micro_batch_size, self._separator = spec.parallel.micro_batch_size, separator
        self._keeps_gathered = spec.parallel.zero_stage != 3
        self._init_std, self._seed = spec.model.init_std, spec.seed
        self._along = world.mesh.weights["pipeline"]
        self._pipeline: Pipeline | None = None
        self._ends: TiedEnds | None = None
        self.model: nn.Module
        """Its parameters are named as in the whole model."""
        if self._along.size() == 1:
            self._parts = [_made(spec, world, None, separator)]
            (self.model,) = self._parts
        else:
            rank = self._along.get_local_rank()
            stages = stages_of(spec.parallel, spec.model.layers, rank)
            self._parts = [_made(spec, world, stage, separator) for stage in stages]
            self.model = Parts(self._parts)
            self._pipeline = _pipeline(self.model, stages, spec, world)
            if spec.model.tied_embeddings:
                self._ends = TiedEnds(self.model, world.mesh.weights)

    def initialise(self) -> None:
        """Set the first weights, each drawn whole on every rank: of a large model a matter of
        minutes, and in vain where others are loaded."""
        for part in self._parts:
            initialise(part, self._init_std, self._seed, shard_of)

    def backward(self, tokens: Tensor) -> list[float]:
        """Gradients of this rank's share, micro-batch by micro-batch; in nats the loss of each
        sequence, or of its part of it, zeros where this rank does not know them. tokens: int64
        (share, seq_len + 1)."""
        if self._pipeline is not None:
            losses = self._pipeline.backward(tokens)
        else:
            losses = self._backward(tokens)
        if self._ends is not None:
            self._ends.sum_gradients()
        # Looked at once, at the end: each look makes the host wait for the device.
        told: list[float] = losses.tolist()
        return told

    def _backward(self, tokens: Tensor) -> Tensor:
        pieces = tokens.split(self._micro_batch_size)
        share_losses(self.model, len(pieces))
        told, fsdp = [], cast(FSDPModule, self.model)
        for number, piece in enumerate(pieces):
            # FSDP reduces gradients once, in the last backward pass, and until then keeps what it
            # gathered, if it keeps it at all.
            is_last = number == len(pieces) - 1
            fsdp.set_requires_gradient_sync(is_last)
            if self._keeps_gathered:
                fsdp.set_reshard_after_backward(is_last)
            losses = self.model(piece[:, :-1], self._separator, piece[:, 1:])
            (losses[1].mean() / len(pieces)).backward()
            told.append(losses[0].detach())
        return torch.cat(told)

    def clip(self, longest: float) -> float:
        """Shorten the gradients to a norm of `longest`; the norm that they had, over all ranks."""
        twice = self._ends.weight if self._ends is not None and self._ends.second_copy else None
        held = [(p, p.grad) for p in self.model.parameters() if p.grad is not None]
        norm = total_norm(gradient for weight, gradient in held if weight is not twice)
        if self._pipeline is not None:
            squares = norm.square()
            dist.all_reduce(squares, group=self._along.get_group())
            norm = squares.sqrt()
        shorten([gradient for _, gradient in held], norm, longest)
        return float(norm.item())


def _pipeline(parts: Parts, stages: list[Stage], spec: RunSpec, world: World) -> "Pipeline":
    # Torch's schedules bring its compiler with them, which takes a good part of a second.
    from trainer.pipeline import Pipeline

    return Pipeline(parts, stages, spec, world.mesh)


def _made(spec: RunSpec, world: World, stage: Stage | None, separator: int) -> CausalLM:
    with torch.device("meta"):  # no rank ever holds the whole model
        model = CausalLM(spec.model, spec.data.seq_len)
    distribute(model, spec, world.mesh, stage, separator)
    model.materialise(world.device)
    return model
