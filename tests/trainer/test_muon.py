"""Muon, beside torch's own, and on several ranks."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from preflight.small_run_layouts import with_parts
from smolplan.spec import load_preset
from tests.support import make_spec
from tests.trainer.test_parallel import on_ranks
from tests.trainer.test_resume import make_run, train
from trainer.muon import orthogonal
from trainer.optim import build_optimizer

OPTIM = load_preset("tiny-cpu").optim.model_copy(update={"optimizer": "muon"})


@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (96, 32)])
def test_an_update_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(drawn.bfloat16()).float())
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


@pytest.mark.slow
@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_shared_out_over_two_ranks_every_bit_is_as_on_one(tensor_parallel: int) -> None:
    on_ranks(2, "muon_on_ranks", str(tensor_parallel))


@pytest.mark.slow
def test_a_checkpoint_of_two_ranks_goes_on_with_one_within_rounding(
    tmp_path: Path, data_cache: Path
) -> None:
    spec = with_parts(make_spec(data_cache, steps=8), optim={"optimizer": "muon"})
    run = make_run(tmp_path / "run", spec)
    assert train(run, 1, 2) == 0
    before = run.read_metrics()
    shutil.rmtree(run.checkpoint(8))
    assert train(run, 2, 1) == 0
    for old, new in zip(before, run.read_metrics(), strict=True):
        assert new["batch_checksum"] == old["batch_checksum"]
        assert new["loss"] == pytest.approx(old["loss"], rel=1e-4)
