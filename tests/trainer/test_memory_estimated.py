"""What the trainer keeps where its peak is estimated only (experts, recurrent layers, MLA), by real
tensors, beside the planner's estimate."""

from typing import Any

import pytest
import torch
from torch import Tensor

from planner.architecture import architecture_of
from planner.memory import (
    BUNDLED_TRAINER_ON_CPU,
    FP32_STATE,
    MUON_STATE,
    StateBytes,
    layout_of,
    stage_parts,
)
from planner.memory.recurrence import delta_net_bytes, mamba_bytes
from preflight.small_run_layouts import with_parts
from smolplan.spec import ModelSpec, RunSpec
from tests.trainer.test_memory_pipelines import Peak
from tests.trainer.test_memory_tracked import a_spec, held_only, ranks_of_nothing
from trainer.model.block import Block
from trainer.model.transformer import CausalLM, initialise
from trainer.optim import build_optimizer
from trainer.parallel import distribute, shard_of


def mamba(heads: int, width: int, state: int, groups: int, chunk: int) -> dict[str, Any]:
    sizes = {"heads": heads, "head_dim": width, "state_size": state, "groups": groups}
    return {"layer_pattern": "M", "mamba": {**sizes, "chunk_size": chunk}}


def delta_net(keys: int, values: int, key: int, value: int, chunk: int) -> dict[str, Any]:
    heads = {"key_heads": keys, "value_heads": values}
    widths = {"key_head_dim": key, "value_head_dim": value}
    return {"layer_pattern": "L", "delta_net": {**heads, **widths, "chunk_size": chunk}}


EXPERTS = {"experts": {"routed": 8, "per_token": 2, "ffn_hidden": 256, "shared": 1}}
MAMBA, DELTA_NET = mamba(16, 32, 32, 2, 64), delta_net(4, 8, 32, 32, 64)
LATENT = {"q_rank": 128, "kv_rank": 128, "nope_head_dim": 32, "rope_head_dim": 16}
# Of one width, as a CPU's kernel wants them: it would keep all scores else, which a GPU's does not.
LATENT |= {"value_head_dim": 48}


def peak_bytes(spec: RunSpec) -> int:
    """Of a step on one rank, whose every tensor is tracked, counted once."""
    with ranks_of_nothing(spec) as mesh, held_only():
        with torch.device("meta"):
            model = CausalLM(spec.model, spec.data.seq_len)
        distribute(model, spec, mesh)
        model.model.alike_for_any_batch = True  # whole masks, as the estimate has it
        model.materialise(torch.device("cpu"))
        initialise(model, spec.model.init_std, spec.seed, shard_of)
        optimizer, tracker = build_optimizer(model, spec.optim), Peak()
        tracker.track_external(model, optimizer)
        shape = spec.parallel.micro_batch_size, spec.data.seq_len + 1
        tokens = torch.randint(1, spec.model.vocab_size, shape)
        with tracker:
            losses = model(tokens[:, :-1], 0, tokens[:, 1:])
            losses[1].mean().backward()
        (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    return int(snapshot["Total"])


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        (EXPERTS, {}),
        (MAMBA | {"layer_pattern": "MA"}, {}),
        (DELTA_NET, {}),
        (DELTA_NET | {"layer_pattern": "LA"}, {"recompute": "full"}),
        ({"latent_attention": LATENT, "kv_heads": 8}, {}),
    ],
    ids=[
        *("experts", "Mamba-2 and attention", "gated DeltaNet"),
        *("gated DeltaNet and attention, recomputed", "MLA"),
    ],
)
def test_a_rank_holds_no_more_than_is_estimated(
    model: dict[str, Any], asked: dict[str, Any]
) -> None:
    spec = small_spec(model, asked)
    over = estimated_bytes(spec, FP32_STATE) / peak_bytes(spec)
    assert 1.0 < over < (1.5 if "recompute" in asked else 1.25)


def test_muon_saves_a_moment_of_experts_too_as_is_estimated() -> None:
    adamw = small_spec(EXPERTS)
    muon = with_parts(adamw, optim={"optimizer": "muon"})
    saved = estimated_bytes(adamw, FP32_STATE) - estimated_bytes(muon, MUON_STATE)
    # A part of it is what would have been unusable beside it.
    assert saved == pytest.approx(peak_bytes(adamw) - peak_bytes(muon), rel=0.05)


def small_spec(model: dict[str, Any], asked: dict[str, Any] | None = None) -> RunSpec:
    small = {"layers": 2, "hidden": 256, "ffn_hidden": 768, "vocab_size": 2048, **(asked or {})}
    spec = a_spec(**{"ranks": 1, "seq_len": 256, "micro_batch": 4} | small)
    return with_parts(spec, model=model)


def estimated_bytes(spec: RunSpec, state: StateBytes) -> float:
    estimate = stage_parts(
        spec.model,
        layout_of(spec),
        spec.data.seq_len,
        state=state,
        conventions=BUNDLED_TRAINER_ON_CPU,
    )
    return float(sum(estimate.values()))


def kept_bytes(spec: ModelSpec, length: int) -> float:
    """A token's, by the mixer of a model's first layer in bf16, weights and input left out."""
    model = CausalLM(spec, length)
    initialise(model, 0.02, seed=1)
    model = model.bfloat16()
    block = model.model.layers[0]
    assert isinstance(block, Block)
    tokens = torch.randint(1, spec.vocab_size, (1, length))
    places = model.model.places(tokens, 0)
    x = torch.randn(1, length, spec.hidden, dtype=torch.bfloat16, requires_grad=True)
    assert places.document is not None
    there = [*model.parameters(), x, places.document]
    others = {tensor.untyped_storage().data_ptr() for tensor in there}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mixed = getattr(block, block.mixer)(x, places)
    own = [t.untyped_storage().nbytes() for at, t in kept.items() if at not in others]
    assert mixed.shape == x.shape
    return sum(own) / length


@pytest.mark.parametrize(
    "layers",
    [
        *(MAMBA, mamba(8, 64, 128, 1, 128), mamba(32, 16, 16, 4, 32)),
        *(DELTA_NET, delta_net(2, 8, 64, 32, 32), delta_net(8, 8, 16, 64, 128)),
    ],
)
def test_what_recurrent_layers_keep_is_counted(layers: dict[str, Any]) -> None:
    shape = {"layers": 1, "hidden": 256, "heads": 8, "kv_heads": 8, "ffn_hidden": 512}
    spec = ModelSpec.model_validate({**shape, "vocab_size": 64, **layers})
    arch = architecture_of(spec)
    if arch.mamba is not None:
        counted = mamba_bytes(arch.mamba, 2, plain=True)
    else:
        assert arch.delta_net is not None
        counted = delta_net_bytes(arch.delta_net, 2, plain=True)
    assert 1.0 <= sum(counted) / kept_bytes(spec, 512) < 1.1
