"""The passes of a step through a pipeline, by torch's own schedules."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)
from torch.distributed.pipelining.stage import _PipelineStageBase

from smolplan.spec import RunSpec
from trainer.balance import share_losses
from trainer.mesh import Mesh
from trainer.stages import Parts, Stage

Schedule = Schedule1F1B | ScheduleInterleaved1F1B | ScheduleInterleavedZeroBubble


class Pipeline:
    """The passes of a step through this rank's stages."""

    def __init__(self, parts: Parts, stages: Sequence[Stage], spec: RunSpec, mesh: Mesh) -> None:
        self._losses: list[Tensor] = []
        self._parallel, self._is_first = spec.parallel, stages[0].is_first
        self._parts, self._micro_batches = parts, 0
        self._schedule: Schedule
        group = mesh.weights["pipeline"].get_group()
        self._stages: list[_PipelineStageBase] = [
            PipelineStage(
                part,
                stage.number,
                stage.count,
                torch.device(mesh.weights.device_type),
                *_sent(stage, spec),
                group=group,
            )
            for part, stage in zip(parts, stages, strict=True)
        ]

    def backward(self, tokens: Tensor) -> Tensor:
        """Gradients of this rank's stages; the loss of each sequence in nats, 0 where it is known
        elsewhere. tokens: int64 (share, seq_len + 1)."""
        self._expect(len(tokens) // self._parallel.micro_batch_size)
        self._losses.clear()
        first, targets = tokens[:, :-1], tokens[:, 1:]
        self._schedule.step(
            *([first] if self._is_first else []),
            tokens=first,
            targets=targets,
            target=targets,
            return_outputs=False,
        )
        if not self._losses:
            return torch.zeros(len(tokens), device=tokens.device)
        return torch.cat(self._losses)  # every schedule takes micro-batches in their order

    def _expect(self, micro_batches: int) -> None:
        """A schedule is of so many micro-batches; a batch that grows makes it anew."""
        if micro_batches == self._micro_batches:
            return
        self._micro_batches = micro_batches
        share_losses(self._parts, micro_batches)
        told: dict[str, Any] = {
            "n_microbatches": micro_batches,
            "loss_fn": self._objective,
            "scale_grads": False,
        }
        match self._parallel.pipeline_schedule:
            case "1f1b":
                self._schedule = Schedule1F1B(self._stages[0], **told)
            case "interleaved":
                self._schedule = ScheduleInterleaved1F1B(self._stages, **told)
            case "zero-bubble":
                self._schedule = ScheduleInterleavedZeroBubble(self._stages, **told)

    def _objective(self, losses: Tensor, _: Tensor) -> Tensor:
        """Of a micro-batch, its part of the batch's. losses: as next_token_loss gives them."""
        self._losses.append(losses[0].detach())
        part: Tensor = losses[1].mean() / self._micro_batches
        return part


def _sent(stage: Stage, spec: RunSpec) -> tuple[Tensor, Tensor]:
    """What a stage takes and gives for a micro-batch, without contents: said beforehand, since
    torch would else have the ranks tell each other by pickle."""
    parallel, length = spec.parallel, spec.data.seq_len
    micro, own = parallel.micro_batch_size, length // parallel.context_parallel
    dtype = torch.float32 if spec.optim.precision == "fp32" else torch.bfloat16
    with torch.device("meta"):
        tokens = torch.empty(micro, length, dtype=torch.int64)
        shape = micro, own // parallel.tensor_parallel, spec.model.hidden
        hidden = torch.empty(shape, dtype=dtype, requires_grad=True)
        losses = torch.empty(2, micro, requires_grad=True)
    return tokens if stage.is_first else hidden, losses if stage.is_last else hidden
