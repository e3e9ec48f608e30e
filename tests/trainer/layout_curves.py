"""On every rank (ranks.py): exit 0 if layouts of a model on these ranks begin with the weights of
the model on one device, make its first gradients of them, and train to its losses and gradient
norms, ranks that hold the same still holding the same at the end. The arguments are layouts, as
JSON, with `precision` where it is not fp32."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from preflight.small_run_layouts import with_parts
from smolplan.spec import RunSpec
from tests.support import make_spec
from tests.trainer.bf16_copies import Bf16Copies
from tests.trainer.one_rank import OneRank
from trainer.balance import balance
from trainer.mesh import mesh_of
from trainer.model.transformer import CausalLM, initialise
from trainer.optim import build_optimizer
from trainer.parallel import World, join
from trainer.passes import Passes
from trainer.replicas import Difference, difference, digests

STEPS, BATCH, SEPARATOR = 3, 8, 3


@dataclass(frozen=True)
class Apart:
    """Largest differences from one device that computes in the same type."""

    loss: float
    """Of a batch's, over itself."""
    of_sequence: float
    norm: float
    """Of the gradients', over itself."""
    gradient: float
    """Of the first gradients, how far the furthest weight's is from that in fp32, over how far it
    is on one device; in fp32, 0."""

    def within(self, limit: "Apart") -> bool:
        return all(value <= vars(limit)[name] for name, value in vars(self).items())


BF16 = 2**-8
"""What rounding to bf16 changes in a number, at most."""
LIMITS = {
    "fp32": Apart(loss=1e-6, of_sequence=5e-6, norm=5e-5, gradient=0.0),
    "bf16": Apart(loss=BF16 / 8, of_sequence=BF16 / 2, norm=10 * BF16, gradient=1.5),
}
"""In fp32 6e-8, 4e-7 and 2e-6 are seen; in bf16 6e-5, 4e-4, 8e-3 and 1.1. There one device
is as far from itself in fp32 (benchmarks.layouts): AdamW moves every weight by much the same at
first, also one whose gradient is little but rounding, and so losses and norms part."""


def a_spec(layout: dict[str, Any], ranks: int) -> RunSpec:
    """Its third layer has no rotary embedding, and it has a z-loss and several documents in a
    sequence, each of which could go wrong in a layout of its own."""
    model = {"layers": 5, "z_loss": 1e-3, "no_rope_every": 3, **layout.pop("model", {})}
    launch, precision = layout.pop("launch", {}), layout.pop("precision", "fp32")
    others = ("tensor_parallel", "context_parallel", "pipeline_parallel")
    replicas = ranks
    for other in others:
        replicas //= layout.get(other, 1)
    # At least two micro-batches, and as many as a pipeline has stages.
    micro = BATCH // replicas // max(2, layout.get("pipeline_parallel", 1))
    parallel = {"micro_batch_size": micro, "uneven_stages": True, **layout}
    return with_parts(
        make_spec(Path("/unused"), ranks=1, rate=3e-3),
        model=model,
        optim={"global_batch_size": BATCH, "precision": precision},
        parallel=parallel | {"data_parallel": replicas},
        cluster={"gpus_per_node": ranks},
        launch=launch,
    )


def batch(spec: RunSpec, step: int) -> Tensor:
    """int64 (BATCH, seq_len + 1), of a sequence that can be learnt."""
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, 397, (BATCH, 1), generator=generator)
    return (start + 7 * torch.arange(spec.data.seq_len + 1)) % 397


Curve = list[tuple[list[float], float]]
"""By step the loss of each sequence, and the gradients' norm."""


Firsts = Mapping[str, Tensor]
"""The first model's weights by name, with their gradients in fp32."""


def on_one_device(spec: RunSpec, first: Firsts) -> tuple[Curve, float]:
    """What the model trains to by plain torch, and how far its first gradients are from `first`."""
    held, furthest = first_model(spec), 0.0
    copies = Bf16Copies(held, spec) if spec.optim.precision == "bf16" else None
    model = held if copies is None else copies.model
    optimizer, curve = build_optimizer(held, spec.optim), []
    for step in range(STEPS):
        if copies is not None:
            copies.take_weights()
        loss = backward(model, batch(spec, step))
        if copies is not None:
            copies.hand_over_gradients()
        if step == 0:
            furthest = from_first(held, first)
        norm = nn.utils.clip_grad_norm_(held.parameters(), spec.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        balance(held, spec.model, OneRank())
        curve.append((loss, norm.item()))
    return curve, furthest


def first_gradients(spec: RunSpec) -> Firsts:
    model = first_model(spec)
    backward(model, batch(spec, 0))
    return dict(model.named_parameters())


def first_model(spec: RunSpec) -> CausalLM:
    model = CausalLM(spec.model, spec.data.seq_len)
    initialise(model, spec.model.init_std, spec.seed)
    return model


def backward(model: CausalLM, tokens: Tensor) -> list[float]:
    loss, objective = model(tokens[:, :-1], SEPARATOR, tokens[:, 1:])
    objective.mean().backward()
    told: list[float] = loss.tolist()
    return told


def laid_out(spec: RunSpec, world: World, first: Firsts) -> tuple[Curve, float, Difference | None]:
    """Also how far the first gradients are from those of `first`, and what differs between ranks
    that are to hold the same."""
    passes = Passes(spec, world, SEPARATOR)
    passes.initialise()
    for name, parameter in passes.model.named_parameters():
        assert torch.equal(whole(parameter), first[name]), name
    optimizer, curve, furthest = build_optimizer(passes.model, spec.optim), [], 0.0
    share = BATCH // world.data_size
    for step in range(STEPS):
        begin, losses = world.data_rank * share, [0.0] * BATCH
        own = passes.backward(batch(spec, step)[begin:][:share])
        losses[begin : begin + share] = [loss * world.part_of_sequence for loss in own]
        if step == 0:
            furthest = max(world.gather(from_first(passes.model, first)))
        norm = passes.clip(spec.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        balance(passes.model, spec.model, world)
        curve.append((world.sum(losses), norm))
    told = digests(passes.model, optimizer, STEPS, 0, world.mesh)
    return curve, furthest, difference(world.gather(told))


def from_first(model: nn.Module, first: Firsts) -> float:
    """How far the gradient of any weight is from that of `first`, over its norm."""
    found = [0.0]
    for name, parameter in model.named_parameters():
        expected = first[name].grad
        assert parameter.grad is not None and expected is not None, name
        found.append(((whole(parameter.grad) - expected).norm() / expected.norm()).item())
    return max(found)


def whole(held: Tensor) -> Tensor:
    return held.full_tensor() if isinstance(held, DTensor) else held


def between(curve: Curve, expected: Curve) -> tuple[float, float, float]:
    """Largest relative differences of a batch's loss, a sequence's, and the norm."""
    pairs = list(zip(curve, expected, strict=True))
    return (
        max(abs(fmean(a) - fmean(b)) / fmean(b) for (a, _), (b, _) in pairs),
        max(abs(a - b) / b for (x, _), (y, _) in pairs for a, b in zip(x, y, strict=True)),
        max(abs(a - b) / b for (_, a), (_, b) in pairs),
    )


def main() -> int:
    torch.manual_seed(1)
    layouts = [json.loads(layout) for layout in sys.argv[1:]]
    specs = [a_spec(dict(layout), int(os.environ["WORLD_SIZE"])) for layout in layouts]
    if any(spec.launch.compile for spec in specs):
        # What is traced and differentiated is the same; its kernels would take minutes to compile.
        torch.compile = partial(torch.compile, backend="aot_eager")
    world = join(specs[0])
    torch.use_deterministic_algorithms(True)
    firsts: dict[str, Firsts] = {}
    alone: dict[tuple[str, str], tuple[Curve, float]] = {}
    wrong = 0
    for layout, spec in zip(layouts, specs, strict=True):
        assert not spec.unsupported_by_trainer(), spec.unsupported_by_trainer()
        model, precision = str(spec.model), spec.optim.precision
        if model not in firsts:
            firsts[model] = first_gradients(spec)
        if (model, precision) not in alone:
            of_rank_0 = on_one_device(spec, firsts[model]) if world.rank == 0 else ([], 0.0)
            alone[model, precision] = world.gather(of_rank_0)[0]
        expected, on_one = alone[model, precision]
        placed = World(world.rank, world.size, world.device, mesh_of(spec, world.size, "cpu"))
        curve, furthest, odd = laid_out(spec, placed, firsts[model])
        apart = Apart(*between(curve, expected), furthest / on_one if precision == "bf16" else 0.0)
        falls = fmean(curve[-1][0]) < fmean(curve[0][0]) - 0.1
        good = apart.within(LIMITS[precision]) and odd is None and falls
        wrong += not good
        if world.rank == 0:
            told = ", ".join(f"{name} {value:.1e}" for name, value in vars(apart).items())
            sys.stdout.write(f"{layout}: {told}, odd {odd}, falls {falls}\n")
    world.barrier()
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
