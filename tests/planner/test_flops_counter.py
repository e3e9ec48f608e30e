"""FLOPs against torch's FlopCounterMode, which counts what a model multiplies as it runs.

Attention is run by plain matrix products (torch's MATH backend, transformers' eager one), which
compute all S × S scores, masked or not: so the counter is held against our count of full attention.
Our causal count differs from it in the scores alone, by (S + 1)/(2·S), which is what a kernel saves
that skips the masked half.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from planner.architecture import Architecture, GatedDeltaNet, Mamba2, architecture_of
from planner.flops import (
    attention_flops_per_token,
    backward_flops_per_token,
    delta_rule_flops_per_token,
    flops_per_token,
    forward_components,
    hardware_flops_per_token,
    ssd_flops_per_token,
)
from planner.hf_config import FAMILIES, architecture_of_config
from smolplan.spec import ModelSpec
from tests.planner.test_hf_config import small
from trainer.model.transformer import CausalLM, initialise

BATCH, SEQ_LEN = 2, 64
SCANS = ["bamba", "granitemoehybrid", "mamba2", "nemotron_h"]


def executed(run: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """FLOPs of a forward and of its backward, without the outer product by which transformers
    makes its rotary table."""
    with FlopCounterMode(display=False) as forward:
        out = run()
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()  # type: ignore[no-untyped-call]
    rotary = sum(
        sum(counts.values())
        for name, counts in forward.get_flop_counts().items()
        if name.endswith("rotary_emb")
    )
    return forward.get_total_flops() - rotary, backward.get_total_flops()


EXPERTS = {"routed": 8, "per_token": 3, "ffn_hidden": 24}
LATENT = {"kv_rank": 24, "q_rank": 20, "nope_head_dim": 12, "rope_head_dim": 8}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"kv_heads": 1},
        {"kv_heads": 2, "head_dim": 48, "tied_embeddings": False},
        {"qk_norm": "per_head", "qkv_bias": True, "output_bias": True, "ffn_bias": True},
        {"gated_ffn": False, "attention_gate": True, "layer_pattern": "aAA"},
        {"latent_attention": {**LATENT, "value_head_dim": 16}},
        {"experts": {**EXPERTS, "shared": 1, "shared_gate": True, "first_dense_layers": 1}},
    ],
    ids=str,
)
def test_the_bundled_trainers_model_executes_what_is_counted(change: dict[str, Any]) -> None:
    shape = {"layers": 3, "hidden": 64, "heads": 4, "kv_heads": 4, "ffn_hidden": 160}
    spec = ModelSpec.model_validate({**shape, "vocab_size": 320, **change})
    model = CausalLM(spec, SEQ_LEN)
    tokens = torch.randint(spec.vocab_size, (BATCH, SEQ_LEN))
    with sdpa_kernel(SDPBackend.MATH):
        forward, backward = executed(lambda: model(tokens))
    counted = sum(forward_components(spec, SEQ_LEN, causal=False).values())
    assert forward == BATCH * SEQ_LEN * counted
    assert backward == BATCH * SEQ_LEN * backward_flops_per_token(spec, SEQ_LEN, causal=False)
    total = BATCH * SEQ_LEN * flops_per_token(spec, SEQ_LEN, causal=False)
    assert forward + backward == total


def test_its_recurrent_layers_execute_what_is_counted() -> None:
    mamba = {"heads": 4, "head_dim": 24, "state_size": 20, "groups": 2, "chunk_size": 16}
    net = {"key_heads": 2, "value_heads": 4, "key_head_dim": 12, "value_head_dim": 20}
    spec = ModelSpec.model_validate(
        {
            **{"layers": 4, "hidden": 64, "heads": 4, "kv_heads": 4, "ffn_hidden": 160},
            **{"vocab_size": 320, "layer_pattern": "MLlA", "mamba": mamba},
            "delta_net": {**net, "chunk_size": 16},
        }
    )
    model, arch = CausalLM(spec, SEQ_LEN), architecture_of(spec)
    initialise(model, 0.02, seed=0)
    tokens = torch.randint(spec.vocab_size, (BATCH, SEQ_LEN))
    with sdpa_kernel(SDPBackend.MATH):
        forward, _ = executed(lambda: model(tokens))
    counted = sum(forward_components(spec, SEQ_LEN, causal=False).values())
    # Convolutions are sums here, and two triangular systems are solved: the counter sees neither.
    assert arch.mamba is not None and arch.delta_net is not None
    channels = arch.mamba.conv_channels + 2 * arch.delta_net.conv_channels
    solved = 2 * 2 * 16 * 4 * (12 + 20)
    assert forward / (BATCH * SEQ_LEN) == counted - 2.0 * 4 * channels - solved


def built(config: dict[str, Any]) -> torch.nn.Module:
    from_config: Callable[..., torch.nn.Module] = getattr(
        transformers.AutoModelForCausalLM, "from" + "_config"
    )
    own = transformers.AutoConfig.for_model(**config)
    return from_config(own, attn_implementation="eager", experts_implementation="eager").float()


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {*SCANS, "qwen3_next"}))
def test_transformers_executes_what_is_counted(family: str) -> None:
    config = small(family, sliding_window=SEQ_LEN)
    shape, _ = architecture_of_config(config, where="test")
    shape = replace(shape, mtp_layers=0)  # the classes' forward pass runs none
    model = built(config)
    tokens = torch.randint(shape.vocab_size, (BATCH, SEQ_LEN))
    forward, backward = executed(lambda: model(tokens, use_cache=False).logits)
    counted = sum(forward_components(shape, SEQ_LEN, causal=False).values())
    assert forward / (BATCH * SEQ_LEN) == pytest.approx(counted, rel=1e-12)
    assert backward / (BATCH * SEQ_LEN) == pytest.approx(2 * counted, rel=1e-12)


def test_the_delta_rule_of_transformers_executes_what_is_counted() -> None:
    config = small("qwen3_next")
    shape, _ = architecture_of_config(config, where="test")
    model, net = built(config), shape.delta_net
    assert net is not None
    tokens = torch.randint(shape.vocab_size, (BATCH, SEQ_LEN))
    forward, _ = executed(lambda: model(tokens, use_cache=False).logits)
    counted = sum(forward_components(shape, SEQ_LEN, causal=False).values())
    # It solves two triangular systems, which the counter does not see, where we count products
    # with the inverse; and it convolves kernel - 1 further positions, and drops them.
    solved = 2 * SEQ_LEN * net.value_heads * (net.key_head_dim + net.value_head_dim)
    padding = 2 * net.conv_channels * net.conv_kernel * (net.conv_kernel - 1) / SEQ_LEN
    assert forward / (BATCH * SEQ_LEN) == counted + net.layers * (padding - solved)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_causal_count_is_the_full_one_without_the_masked_scores(family: str) -> None:
    shape, _ = architecture_of_config(small(family, sliding_window=10**6), where="test")
    full = forward_components(shape, 64, causal=False)
    causal = forward_components(shape, 64, causal=True)
    share = {"attention scores": 65 / 128}
    for name in set(full) - {"Mamba-2 scan", "delta rule", "multi-token prediction"}:
        assert causal[name] == pytest.approx(full[name] * share.get(name, 1.0))


@pytest.mark.parametrize("family", SCANS)
def test_the_state_space_layers_of_transformers_execute_what_is_counted(family: str) -> None:
    chunk = SEQ_LEN // 2
    config = small(family, chunk_size=chunk, mamba_chunk_size=chunk)
    shape, _ = architecture_of_config(config, where="test")
    model, mamba = built(config), shape.mamba
    assert mamba is not None
    tokens = torch.randint(shape.vocab_size, (BATCH, SEQ_LEN))
    forward, _ = executed(lambda: model(tokens, use_cache=False).logits)
    # It multiplies C and B once a head, not once a group; passes the states on by a product over
    # all pairs of chunks; and convolves kernel - 1 further positions, and drops them.
    apart = replace(mamba, groups=mamba.heads)
    scan = ssd_flops_per_token(mamba, SEQ_LEN, causal=False)
    scan_apart = ssd_flops_per_token(apart, SEQ_LEN, causal=False)
    passing = 2 * 3**2 * mamba.inner * mamba.state_size / SEQ_LEN
    padding = 2 * mamba.conv_channels * mamba.conv_kernel * (mamba.conv_kernel - 1) / SEQ_LEN
    counted = sum(forward_components(shape, SEQ_LEN, causal=False).values())
    extra = mamba.layers * (scan_apart - scan + passing + padding)
    assert forward / (BATCH * SEQ_LEN) == pytest.approx(counted + extra, rel=1e-12)


def chunked_ssd(x: torch.Tensor, b: torch.Tensor, c: torch.Tensor, chunk: int) -> torch.Tensor:
    """The matrix products of a state-space layer, chunk by chunk, decays left out. x: (batch,
    seq, groups, heads of a group, head dim); b and c: (batch, seq, groups, state)."""
    x, b, c = (t.reshape(t.shape[0], -1, chunk, *t.shape[2:]) for t in (x, b, c))
    scores = torch.einsum("zlqgn,zlkgn->zlgqk", c, b).tril()
    within = torch.einsum("zlgqk,zlkghp->zlqghp", scores, x)
    states = torch.einsum("zlkgn,zlkghp->zlghnp", b, x)
    before = states.cumsum(1) - states
    return (within + torch.einsum("zlqgn,zlghnp->zlqghp", c, before)).flatten(1, 2)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("chunk", [8, 32])
def test_a_chunked_state_space_layer_executes_what_is_counted(groups: int, chunk: int) -> None:
    mamba = Mamba2(1, heads=4, head_dim=12, state_size=20, groups=groups, chunk_size=chunk)
    x = torch.randn(BATCH, SEQ_LEN, groups, 4 // groups, 12, requires_grad=True)
    b, c = (torch.randn(BATCH, SEQ_LEN, groups, 20, requires_grad=True) for _ in range(2))
    forward, backward = executed(lambda: chunked_ssd(x, b, c, chunk))
    counted = ssd_flops_per_token(mamba, SEQ_LEN, causal=False)
    assert forward == BATCH * SEQ_LEN * counted
    assert backward == 2 * forward
    plain = torch.einsum("zqgn,zkgn->zgqk", c, b).tril()
    whole = torch.einsum("zgqk,zkghp->zqghp", plain, x)
    assert torch.allclose(chunked_ssd(x, b, c, chunk), whole, atol=1e-3)


def test_a_sequence_shorter_than_a_chunk_is_one_chunk() -> None:
    mamba = Mamba2(1, heads=4, head_dim=12, state_size=20, chunk_size=256)
    net = GatedDeltaNet(1, key_heads=2, value_heads=4, key_head_dim=8, value_head_dim=12)
    scan = [ssd_flops_per_token(mamba, n, causal=True) for n in (8, 64, 256, 512)]
    rule = [delta_rule_flops_per_token(net, n, causal=True) for n in (8, 32, 64, 512)]
    for shortest, shorter, chunk, longer in (scan, rule):
        assert shortest < shorter < chunk == longer


def test_recomputation_is_the_hardwares_and_not_the_models() -> None:
    spec = ModelSpec(layers=3, hidden=64, heads=4, kv_heads=2, ffn_hidden=160, vocab_size=320)
    model = CausalLM(spec, SEQ_LEN)
    tokens = torch.randint(spec.vocab_size, (BATCH, SEQ_LEN))

    def checkpointed(block: torch.nn.Module) -> Callable[..., Any]:
        plain = block.forward
        return lambda *args: checkpoint(plain, *args, use_reentrant=False)

    for block in model.model.layers:
        block.forward = checkpointed(block)
    # Early stopping would leave out the last projection of each block, which nothing needs again.
    with sdpa_kernel(SDPBackend.MATH), set_checkpoint_early_stop(False):
        forward, backward = executed(lambda: model(tokens))
    hardware = hardware_flops_per_token(spec, SEQ_LEN, recompute="full", causal=False)
    assert forward + backward == pytest.approx(BATCH * SEQ_LEN * hardware)


@pytest.mark.parametrize("family", ["llama", "deepseek_v3", "qwen3_next", "bamba"])
def test_recomputing_more_executes_more_up_to_a_second_forward_pass(family: str) -> None:
    shape, _ = architecture_of_config(small(family), where="test")
    none, selective, full = (
        hardware_flops_per_token(shape, 64, recompute=recompute)
        for recompute in ("none", "selective", "full")
    )
    assert none == flops_per_token(shape, 64)
    scores = attention_flops_per_token(shape, 64, causal=True)
    scores += attention_flops_per_token(shape.mtp_module, 64, causal=True)
    assert selective == pytest.approx(none + scores)
    forward = forward_components(shape, 64)
    assert full == pytest.approx(none + sum(forward.values()) - forward["output head"])


def test_a_fused_kernels_backward_computes_the_scores_again() -> None:
    shape = Architecture(3, 64, 4, 2, 16, 160, 320, True)
    plain = hardware_flops_per_token(shape, 64, recompute="none")
    fused = hardware_flops_per_token(shape, 64, recompute="none", fused_attention=True)
    # Five products of the backward pass in place of four.
    assert fused - plain == attention_flops_per_token(shape, 64, causal=True) / 2
