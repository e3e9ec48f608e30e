"""Under torchrun, on every rank: exit 0 if layouts of a model on these ranks begin with the weights
of the model on one device, and train to its losses and gradient norms, ranks that hold the same
still holding the same at the end. The arguments are layouts, as JSON."""

import json
import os
import sys
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
from tests.trainer.one_rank import OneRank
from trainer.balance import balance
from trainer.mesh import mesh_of
from trainer.model.transformer import CausalLM, initialise
from trainer.optim import build_optimizer
from trainer.parallel import World, join
from trainer.passes import Passes
from trainer.replicas import Difference, difference, digests

STEPS, BATCH, SEPARATOR = 3, 8, 3
LOSS, OF_SEQUENCE, NORM = 1e-6, 5e-6, 5e-5
"""Largest relative differences in fp32 over the steps: of a batch's loss, of a sequence's, and
of the gradients' norm; 2e-7, 6e-7 and 2e-5 are seen."""


def a_spec(layout: dict[str, Any]) -> RunSpec:
    """Its third layer has no rotary embedding, and it has a z-loss and several documents in a
    sequence, each of which could go wrong in a layout of its own."""
    model = {"layers": 5, "z_loss": 1e-3, "no_rope_every": 3, **layout.pop("model", {})}
    launch = layout.pop("launch", {})
    parallel = {"micro_batch_size": 2, "uneven_stages": True, **layout}
    others = ("tensor_parallel", "context_parallel", "pipeline_parallel")
    ranks = replicas = int(os.environ["WORLD_SIZE"])
    for other in others:
        replicas //= parallel.get(other, 1)
    return with_parts(
        make_spec(Path("/unused"), ranks=1, rate=3e-3),
        model=model,
        optim={"global_batch_size": BATCH},
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


def on_one_device(spec: RunSpec) -> tuple[CausalLM, Curve]:
    """The model as it was at first, and what it trained to, by plain torch."""
    model, first = (CausalLM(spec.model, spec.data.seq_len) for _ in range(2))
    for one in (model, first):
        initialise(one, spec.model.init_std, spec.seed)
    optimizer, curve = build_optimizer(model, spec.optim), []
    for step in range(STEPS):
        tokens = batch(spec, step)
        loss, objective = model(tokens[:, :-1], SEPARATOR, tokens[:, 1:])
        objective.mean().backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), spec.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        balance(model, spec.model, OneRank())
        curve.append((loss.tolist(), norm.item()))
    return first, curve


def laid_out(spec: RunSpec, world: World, first: CausalLM) -> tuple[Curve, Difference | None]:
    """And what differs between ranks that are to hold the same."""
    passes = Passes(spec, world, SEPARATOR)
    passes.initialise()
    there = dict(first.named_parameters())
    for name, parameter in passes.model.named_parameters():
        held = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        assert torch.equal(held, there[name]), name
    optimizer, curve = build_optimizer(passes.model, spec.optim), []
    share = BATCH // world.data_size
    for step in range(STEPS):
        begin, losses = world.data_rank * share, [0.0] * BATCH
        own = passes.backward(batch(spec, step)[begin:][:share])
        losses[begin : begin + share] = [loss * world.part_of_sequence for loss in own]
        norm = passes.clip(spec.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        balance(passes.model, spec.model, world)
        curve.append((world.sum(losses), norm))
    told = digests(passes.model, optimizer, STEPS, 0, world.mesh)
    return curve, difference(world.gather(told))


def main() -> int:
    torch.manual_seed(1)
    layouts = [json.loads(layout) for layout in sys.argv[1:]]
    specs = [a_spec(dict(layout)) for layout in layouts]
    if any(spec.launch.compile for spec in specs):
        # What is traced and differentiated is the same; its kernels would take minutes to compile.
        torch.compile = partial(torch.compile, backend="aot_eager")
    world = join(specs[0])
    torch.use_deterministic_algorithms(True)
    known: dict[str, Any] = {}
    wrong = 0
    for layout, spec in zip(layouts, specs, strict=True):
        assert not spec.unsupported_by_trainer(), spec.unsupported_by_trainer()
        model = str(spec.model)
        if model not in known:
            known[model] = on_one_device(spec)
        first, expected = known[model]
        placed = World(world.rank, world.size, world.device, mesh_of(spec, world.size, "cpu"))
        curve, odd = laid_out(spec, placed, first)
        pairs = list(zip(curve, expected, strict=True))
        norm = max(abs(a - b) / b for (_, a), (_, b) in pairs)
        loss = max(abs(fmean(a) - fmean(b)) / fmean(b) for (a, _), (b, _) in pairs)
        of_sequence = max(
            abs(a - b) / b for (x, _), (y, _) in pairs for a, b in zip(x, y, strict=True)
        )
        falls = fmean(curve[-1][0]) < fmean(curve[0][0]) - 0.1
        good = (
            loss <= LOSS and of_sequence <= OF_SEQUENCE and norm <= NORM and odd is None and falls
        )
        wrong += not good
        if world.rank == 0:
            sys.stdout.write(
                f"{layout}: loss {loss:.1e}, of a sequence {of_sequence:.1e}, norm {norm:.1e}, "
                f"odd {odd}, falls {falls}\n"
            )
    world.barrier()
    return int(wrong > 0)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # As the trainer ends: gloo may abort where one rank is gone a moment before the other.
    os._exit(code)
