"""Muon, beside torch's own, and on several ranks."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from planner.plan import make_plan
from preflight.small_run_layouts import with_parts
from smolplan.errors import NamedExit
from smolplan.rundir import write_text
from smolplan.spec import dump_spec, load_preset
from tests.support import make_spec
from tests.trainer.ranks import on_ranks
from tests.trainer.test_resume import make_run, train
from tests.trainer.test_resume_layouts import laid_out
from trainer.manifest import Manifest
from trainer.mesh import Mesh
from trainer.model.experts import Experts
from trainer.model.transformer import CausalLM
from trainer.muon import AT_ONCE, orthogonal
from trainer.optim import build_optimizer, moments
from trainer.parallel import World
from trainer.shards import load, rng_state, tensors_of, write_shard

EXPERTS: dict[str, Any] = {
    "model": {"experts": {"routed": 6, "per_token": 2, "ffn_hidden": 20, "shared": 1}}
}
TENSOR, SPREAD = {"tensor_parallel": 2}, {"expert_parallel": 2}
OPTIM = load_preset("tiny-cpu").optim.model_copy(update={"optimizer": "muon"})


@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (96, 32)])
def test_an_update_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(drawn.bfloat16()[None])[0].float())
    assert values.min() > 0.5 and values.max() < 1.3


def test_matrices_move_as_torchs_muon_moves_them_and_the_rest_as_adamw_does() -> None:
    generator = torch.Generator().manual_seed(2)
    model = nn.Module()
    model.matrix = nn.Parameter(torch.randn(48, 96, generator=generator))
    model.norm = nn.Parameter(torch.ones(48))
    twins = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    matrix = torch.optim.Muon(
        twins[:1],
        lr=OPTIM.learning_rate,
        weight_decay=OPTIM.weight_decay,
        momentum=OPTIM.muon_momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    rest = torch.optim.AdamW(
        twins[1:],
        lr=OPTIM.learning_rate,
        betas=(OPTIM.beta1, OPTIM.beta2),
        eps=OPTIM.eps,
        weight_decay=0.0,
        fused=True,
    )
    ours = build_optimizer(model, OPTIM)
    for _ in range(3):
        for mine, twin in zip(model.parameters(), twins, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            twin.grad = mine.grad.clone()
        ours.step()
        matrix.step()
        rest.step()
    assert torch.equal(model.norm, twins[1])
    torch.testing.assert_close(model.matrix, twins[0], rtol=1e-6, atol=1e-7)


def test_an_experts_matrix_moves_by_itself_and_holds_one_moment() -> None:
    generator = torch.Generator().manual_seed(3)
    model = Experts(AT_ONCE + 3, 24, 16, gated=False)
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        parameter.grad[1] *= 1e-4  # its size says nothing to the others
    before = [parameter.detach().clone() for parameter in model.parameters()]
    gradients = [parameter.grad for parameter in model.parameters()]
    optimizer = build_optimizer(model, OPTIM)
    optimizer.step()
    rate, momentum = OPTIM.learning_rate, OPTIM.muon_momentum
    for stack, old, gradient in zip(model.parameters(), before, gradients, strict=True):
        assert list(moments(optimizer, stack)) == ["momentum"] and gradient is not None
        averaged = torch.zeros_like(gradient).lerp(gradient, 1 - momentum)
        for own, was, new in zip(stack, old, gradient.lerp(averaged, momentum), strict=True):
            update = 0.2 * 24**0.5 * orthogonal(new.bfloat16()[None])[0].float()
            expected = was * (1 - rate * OPTIM.weight_decay) - rate * update
            torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_shared_out_over_two_ranks_every_bit_is_as_on_one() -> None:
    layouts = [{}, TENSOR, EXPERTS, EXPERTS | TENSOR, EXPERTS | SPREAD]
    on_ranks(2, "muon_on_ranks", *map(json.dumps, layouts))


@pytest.mark.slow
def test_experts_whose_parts_or_copies_four_ranks_hold_move_as_on_one() -> None:
    """With FSDP alone one of them holds no expert, and others not as many as their neighbours;
    spread over two, FSDP cuts matrices, of which there is an odd number."""
    copied, groups = {"zero_stage": 2, "shard_group": 1}, {"shard_group": 2}
    layouts = [SPREAD, SPREAD | TENSOR, SPREAD | copied, TENSOR | copied, groups]
    odd = {"model": {"experts": EXPERTS["model"]["experts"] | {"routed": 5}}}
    specs = [odd, *(EXPERTS | layout for layout in layouts)]
    on_ranks(4, "muon_on_ranks", *map(json.dumps, specs))


@pytest.mark.slow
def test_a_checkpoint_of_spread_experts_goes_on_in_a_pipeline_within_rounding(
    tmp_path: Path, data_cache: Path
) -> None:
    spec = with_parts(
        make_spec(data_cache, steps=8),
        model={"experts": {"routed": 4, "per_token": 2, "ffn_hidden": 16}},
        optim={"optimizer": "muon"},
    )
    run = make_run(tmp_path / "run", laid_out(spec, {"data_parallel": 2, **SPREAD}))
    assert train(run, 1, 2) == 0
    before = run.read_metrics()
    shutil.rmtree(run.checkpoint(8))
    write_text(run.spec, dump_spec(laid_out(spec, {"pipeline_parallel": 2})))
    assert train(run, 2, 2) == 0
    after = run.read_metrics()
    assert [line["attempt"] for line in after] == [1] * 4 + [2] * 4
    for old, new in zip(before, after, strict=True):
        assert new["batch_checksum"] == old["batch_checksum"]
        assert new["loss"] == pytest.approx(old["loss"], rel=1e-4)


def test_a_checkpoint_with_adamws_moments_of_experts_is_refused_by_name(
    tmp_path: Path,
) -> None:
    model = Experts(2, 8, 4, gated=True)
    adamw = build_optimizer(model, OPTIM.model_copy(update={"optimizer": "adamw"}))
    tensors = tensors_of(model, adamw)
    alone = World(0, 1, torch.device("cpu"), cast(Mesh, None))
    files = write_shard(tmp_path, tensors, tensors, rng_state(alone.device), alone)
    manifest = Manifest(4, 16, 512, "spec", "data", 1, 1, 0.1, files)
    load(tmp_path, manifest, model, adamw, alone)
    with pytest.raises(NamedExit, match="checkpoint 4 holds no moments of Muon"):
        load(tmp_path, manifest, model, build_optimizer(model, OPTIM), alone)


def test_the_plan_counts_one_moment_of_the_layers_matrices_experts_among_them() -> None:
    experts = {"routed": 4, "per_token": 2, "ffn_hidden": 16, "shared": 1}
    spec = with_parts(
        make_spec(Path("/unused"), ranks=1),
        model={"experts": experts},
        optim={"optimizer": "muon"},
    )
    model = CausalLM(spec.model, spec.data.seq_len)
    optimizer = build_optimizer(model, spec.optim)
    held = [moment for p in model.parameters() for moment in moments(optimizer, p).values()]
    held_bytes, plan = sum(moment.nbytes for moment in held), make_plan(spec)
    assert plan.checkpoint_bytes == 4 * plan.params + held_bytes
    assert plan.state_bytes_per_rank == 8 * plan.params + held_bytes
    (line,) = [line for line in plan.explanation if line.name == "optimiser state"]
    assert line.value == held_bytes and line.formula == "8 B a weight, of matrices 4 B"
