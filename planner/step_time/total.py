"""Time of one training step of a decoder on a described layout, machine and software stack."""

from dataclasses import dataclass, replace

from planner.kernels import Values, held_up
from planner.step_inputs import Layout, Machine, Shape, Stack
from planner.step_time.data_parallel import data_parallel_s, optimizer_s, rank_parameters
from planner.step_time.layer import head_s, layer_compute_s
from planner.step_time.pipeline import micro_batches, pipeline_waits_s, slowest_stage_s
from planner.step_time.traffic import layer_traffic_s, queue_s


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step by cause; they add up."""

    compute_s: Values
    tensor_parallel_s: Values
    context_parallel_s: Values
    expert_parallel_s: Values
    host_s: Values
    """What the GPU waits for the host beyond its own work."""
    pipeline_s: Values
    """Bubble and sends between stages."""
    data_parallel_s: Values
    optimizer_s: Values
    other_s: Values

    @property
    def total_s(self) -> Values:
        return (
            self.compute_s
            + self.tensor_parallel_s
            + self.context_parallel_s
            + self.expert_parallel_s
            + self.host_s
            + self.pipeline_s
            + self.data_parallel_s
            + self.optimizer_s
            + self.other_s
        )


@dataclass(frozen=True)
class LayerTime:
    """Seconds that a mean layer takes for one micro-batch, forward and backward."""

    compute_s: Values
    late_s: Values
    """Of it all, what weights' gradients take, which no other stage waits for."""
    tensor_s: Values
    """Tensor-parallel traffic of one forward; context and expert parallel likewise."""
    context_s: Values
    expert_s: Values
    waited_s: Values
    """For the host, beyond the rest."""
    passes: Values
    """Of traffic: backward moves as much as forward, and recomputing moves the forward's again."""

    @property
    def total_s(self) -> Values:
        traffic_s = self.passes * (self.tensor_s + self.expert_s) + 3.0 * self.context_s
        return self.compute_s + traffic_s + self.waited_s


def layer_time(
    shape: Shape, layout: Layout, machine: Machine, stack: Stack, queued_s: Values
) -> LayerTime:
    compute_s, late_s = layer_compute_s(shape, layout, machine, stack)
    traffic = layer_traffic_s(shape, layout, machine, stack)
    passes = 2.0 + layout.full_recompute
    ready = LayerTime(compute_s, late_s, *traffic, waited_s=0.0, passes=passes)
    waited_s = held_up(ready.total_s, queued_s) - ready.total_s
    # A third of what is launched is for weights' gradients (assumed).
    return replace(ready, waited_s=waited_s, late_s=held_up(late_s, queued_s / 3.0))


def step_time(shape: Shape, layout: Layout, machine: Machine, stack: Stack) -> StepTime:
    """One step: m slots of the slowest stage and the pipeline's bubble, the gradients' traffic that
    no slot hides, and the optimiser. Layers that differ are taken as their mean, evenly mixed among
    the stages (assumed)."""
    queued_s = queue_s(layout, machine, stack)
    layer = layer_time(shape, layout, machine, stack, queued_s)
    # Embedding, head and loss launch and reduce about as often as two layers do (assumed).
    # Both gather or reduce-scatter activations once forward and once backward: four in all, like
    # one layer's forward.
    loss_s = head_s(shape, layout, machine, stack) + layer.tensor_s
    loss_s = held_up(loss_s, 2.0 * queued_s)
    slot_s = slowest_stage_s(shape, layout, stack, layer.total_s, loss_s)
    stage_layers = shape.layers / layout.pp
    mean_slot_s = stage_layers * layer.total_s + loss_s / layout.pp

    count = micro_batches(shape, layout)
    weights = rank_parameters(shape, layout)
    often = count * stage_layers
    return StepTime(
        compute_s=often * layer.compute_s + count * loss_s / layout.pp,
        tensor_parallel_s=often * layer.passes * layer.tensor_s,
        context_parallel_s=often * 3.0 * layer.context_s,
        expert_parallel_s=often * layer.passes * layer.expert_s,
        host_s=often * layer.waited_s,
        pipeline_s=pipeline_waits_s(
            shape, layout, machine, stack, slot_s, mean_slot_s, layer.late_s
        ),
        data_parallel_s=data_parallel_s(shape, layout, machine, stack, weights, slot_s),
        optimizer_s=optimizer_s(layout, machine, weights),
        other_s=stack.step_s + 0.0 * count,
    )
