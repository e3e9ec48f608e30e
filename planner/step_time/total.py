"""Time of one training step of a decoder on a described layout, machine and software stack."""

from dataclasses import dataclass

from planner.kernels import Values, longer
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


def step_time(shape: Shape, layout: Layout, machine: Machine, stack: Stack) -> StepTime:
    """One step: m slots of the slowest stage and the pipeline's bubble, the gradients' traffic that
    no slot hides, and the optimiser."""
    compute_s, late_s = layer_compute_s(shape, layout, machine, stack)
    tensor_s, context_s, expert_s = layer_traffic_s(shape, layout, machine, stack)
    # Backward moves as much again as forward; recomputing moves the forward's once more.
    traffic_passes = 2.0 + layout.full_recompute
    layer_s = compute_s + traffic_passes * (tensor_s + expert_s) + 3.0 * context_s
    queued_s = queue_s(layout, machine, stack)
    waited_s = longer(layer_s, queued_s) - layer_s
    # Forward, inputs' and weights' gradients are issued in a third of that time each (assumed).
    late_s = longer(late_s, queued_s / 3.0)

    # Embedding, head and loss launch and reduce about as often as two layers do (assumed).
    # Both gather or reduce-scatter activations once forward and once backward: four in all, like
    # one layer's forward.
    loss_s = longer(head_s(shape, layout, machine, stack) + tensor_s, 2.0 * queued_s)
    whole_layer_s = layer_s + waited_s
    slot_s = slowest_stage_s(shape, layout, stack, whole_layer_s, loss_s)
    stage_layers = shape.layers / layout.pp
    mean_slot_s = stage_layers * whole_layer_s + loss_s / layout.pp

    count = micro_batches(shape, layout)
    weights = rank_parameters(shape, layout)
    return StepTime(
        compute_s=count * (stage_layers * compute_s + loss_s / layout.pp),
        tensor_parallel_s=count * stage_layers * traffic_passes * tensor_s,
        context_parallel_s=count * stage_layers * 3.0 * context_s,
        expert_parallel_s=count * stage_layers * traffic_passes * expert_s,
        host_s=count * stage_layers * waited_s,
        pipeline_s=pipeline_waits_s(
            shape, layout, machine, stack, slot_s, mean_slot_s, stage_layers * late_s
        ),
        data_parallel_s=data_parallel_s(shape, layout, machine, stack, weights, slot_s),
        optimizer_s=optimizer_s(layout, machine, weights),
        other_s=stack.step_s + 0.0 * count,
    )
