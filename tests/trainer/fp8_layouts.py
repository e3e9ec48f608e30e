"""On every rank (ranks.py): exit 0 if a model in fp8 trains on these ranks, as the layouts say
that the arguments are, as JSON, nearly to the losses that it has on one."""

import json
import os
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from preflight.small_run_layouts import with_parts
from smolplan.spec import RunSpec
from tests.support import make_spec
from tests.trainer.bf16_copies import Bf16Copies
from tests.trainer.one_rank import OneRank
from trainer.balance import balance
from trainer.fp8 import multiply_in_fp8
from trainer.mesh import mesh_of
from trainer.model.block import Block
from trainer.model.transformer import CausalLM, initialise
from trainer.optim import build_optimizer
from trainer.parallel import World, join
from trainer.passes import Passes

STEPS, BATCH, SEPARATOR = 8, 4, 3
APART = 6e-3
"""Largest relative difference of a step's loss; 1.4e-3 is seen."""


def a_spec(layout: dict[str, Any]) -> RunSpec:
    ranks = replicas = int(os.environ["WORLD_SIZE"])
    for other in ("tensor_parallel", "context_parallel", "pipeline_parallel"):
        replicas //= layout.get(other, 1)
    parallel = {name: value for name, value in layout.items() if name != "model"}
    return with_parts(
        make_spec(Path("/unused"), ranks=1, rate=1e-2),
        model=layout.get("model", {}),
        optim={"precision": "fp8", "global_batch_size": BATCH},
        parallel={"micro_batch_size": 1, **parallel, "data_parallel": replicas},
        cluster={"gpus_per_node": ranks},
    )


def batch(spec: RunSpec, step: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(step)
    starts, strides = (torch.randint(1, 9, (BATCH, 1), generator=draw) for _ in range(2))
    return SEPARATOR + 1 + (starts + strides * torch.arange(spec.data.seq_len + 1)) % 37


def on_one(spec: RunSpec) -> list[float]:
    """By plain torch, micro-batch by micro-batch, with bf16 copies of fp32 weights."""
    held = CausalLM(spec.model, spec.data.seq_len)
    initialise(held, spec.model.init_std, spec.seed)
    copies = Bf16Copies(held, spec)
    model = copies.model
    multiply_in_fp8([b for b in model.model.layers if isinstance(b, Block)], spec, "cpu")
    optimizer, told = build_optimizer(held, spec.optim), []
    for step in range(STEPS):
        copies.take_weights()
        tokens, losses = batch(spec, step), []
        for one in tokens.split(1):
            loss, objective = model(one[:, :-1], SEPARATOR, one[:, 1:])
            (objective.mean() / BATCH).backward()
            losses.append(loss.item())
            copies.hand_over_gradients()
        nn.utils.clip_grad_norm_(held.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        balance(model, spec.model, OneRank())
        told.append(fmean(losses))
    return told


def laid_out(spec: RunSpec, world: World) -> list[float]:
    passes, told = Passes(spec, world, SEPARATOR), []
    passes.initialise()
    assert any(type(module).__name__ == "Float8Linear" for module in passes.model.modules())
    optimizer = build_optimizer(passes.model, spec.optim)
    share = BATCH // world.data_size
    for step in range(STEPS):
        own = passes.backward(batch(spec, step)[world.data_rank * share :][:share])
        told += world.sum([fmean(own) * world.part_of_loss])
        passes.clip(1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        balance(passes.model, spec.model, world)
    return told


def main() -> int:
    layouts = [json.loads(layout) for layout in sys.argv[1:]]
    world = join(a_spec(layouts[0]))
    torch.use_deterministic_algorithms(True)
    wrong = 0
    for layout in layouts:
        spec = a_spec(layout)
        assert not spec.unsupported_by_trainer(), spec.unsupported_by_trainer()
        placed = World(world.rank, world.size, world.device, mesh_of(spec, world.size, "cpu"))
        expected = world.gather(on_one(spec) if world.rank == 0 else [])[0]
        found = laid_out(spec, placed)
        apart = max(abs(a - b) / b for a, b in zip(found, expected, strict=True))
        wrong += apart > APART or found[-1] > 0.8 * found[0]
        if world.rank == 0:
            sys.stdout.write(f"{layout}: {apart:.1e}, {found[0]:.3f} to {found[-1]:.3f} nats\n")
    world.barrier()
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
