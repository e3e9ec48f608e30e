"""Tensor and sequence parallelism by torch's own styles, put on the model from outside.

Each rank of a tensor-parallel group holds a share of the heads, of the feed-forward's width and of
the vocabulary; between them (residual and norms) it holds a share of each sequence, as Megatron-LM
does (Korthikanti et al. 2022, arXiv 2205.05198). Attention and feed-forward gather the sequence
when they begin and scatter it when they end.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from trainer.between_ranks import local, mean_of_all, share_out, with_own_gradient
from trainer.expert_parallel import share_choice
from trainer.model.attention import Attention
from trainer.model.block import Block
from trainer.model.experts import MixtureOfExperts
from trainer.model.latent import LatentAttention
from trainer.model.router import Router, routers
from trainer.model.transformer import CausalLM

BY_SEQUENCE, BY_VOCABULARY, WHOLE = Shard(1), Shard(-1), Replicate()


def split_layers(model: CausalLM, mesh: DeviceMesh) -> None:
    """Share the model out over the ranks of a mesh of one dimension, but for its experts
    (trainer/expert_parallel.py). Its heads of either kind, feed-forward widths, vocabulary and
    sequence length must divide by them (RunSpec sees to it)."""
    plan = {
        "model.embed_tokens": RowwiseParallel(input_layouts=WHOLE, output_layouts=BY_SEQUENCE),
        "model.norm": SequenceParallel(),
        "lm_head": ColwiseParallel(output_layouts=BY_VOCABULARY, use_local_output=False),
    }
    for number, block in enumerate(model.model.layers):
        assert isinstance(block, Block)
        plan |= {f"model.layers.{number}.{name}": style for name, style in _styles(block).items()}
    parallelize_module(model, mesh, plan)
    # The head takes hidden states whole, also where it is given them piece by piece.
    parallelize_module(
        model.model.norm,
        mesh,
        PrepareModuleOutput(
            output_layouts=BY_SEQUENCE, desired_output_layouts=WHOLE, use_local_output=False
        ),
    )
    # A compiled block loses the gradient of what is still on its way when it is handed over.
    model.model.embed_tokens.register_forward_hook(lambda _, __, out: out.clone())
    model.tie()  # each of its places was given a share of its own
    for router in routers(model):
        share_choice(router, mesh, averaged=False)


def _styles(block: Block) -> dict[str, ParallelStyle]:
    """How each module that a block has is shared out, by its name."""
    # Behind a norm comes what gathers the sequence, or, behind the norms behind, the residual,
    # which is a plain tensor.
    norm, norm_behind = SequenceParallel(), SequenceParallel(use_local_output=True)
    styles: dict[str, ParallelStyle] = {
        "input_layernorm": norm,
        "post_attention_layernorm": norm_behind if block.norms_behind else norm,
        "pre_feedforward_layernorm": norm,
        "post_feedforward_layernorm": norm_behind,
    }
    mixer = getattr(block, block.mixer)
    styles |= {f"{block.mixer}{name}": style for name, style in _mixer(mixer).items()}
    if block.has_ffn:
        of_mlp = _mixture(block.mlp) if isinstance(block.mlp, MixtureOfExperts) else _feed_forward()
        styles |= {f"mlp{name}": style for name, style in of_mlp.items()}
    there = {name for name, module in block.named_modules() if not isinstance(module, nn.Identity)}
    return {name: style for name, style in styles.items() if name in there}


def _mixer(mixer: nn.Module) -> dict[str, ParallelStyle]:
    match mixer:
        case Attention():
            return _attention(mixer)
        case LatentAttention():
            return _latent_attention(mixer)
    return _recurrence(mixer)


def _attention(attention: Attention) -> dict[str, ParallelStyle]:
    # Of a weight a dimension of one head; a rank has some of the heads, (batch, seq, heads, …).
    of_head = SequenceParallel(sequence_dim=2, use_local_output=True)
    return {
        # The tokens' places, the other argument, are whole on every rank.
        "": PrepareModuleInput(
            input_layouts=(BY_SEQUENCE, None), desired_input_layouts=(WHOLE, None)
        ),
        ".q_proj": ColwiseParallel(),
        ".k_proj": ColwiseParallel(),
        ".v_proj": ColwiseParallel(),
        ".q_norm": of_head if attention.norm_per_head else NormOfAllHeads(),
        ".k_norm": of_head if attention.norm_per_head else NormOfAllHeads(),
        ".o_proj": RowwiseParallel(output_layouts=BY_SEQUENCE),
    }


def _latent_attention(attention: LatentAttention) -> dict[str, ParallelStyle]:
    """What a token's heads share is made of this rank's tokens, and gathered: it is narrower than
    what it is made of."""
    attention.for_all_heads = _for_all_heads
    own, gathers = SequenceParallel(), ColwiseParallel(input_layouts=BY_SEQUENCE)
    return {
        ".q_proj": gathers,
        ".q_a_proj": own,
        ".q_a_layernorm": own,
        ".q_b_proj": gathers,
        ".kv_a_proj_with_mqa": own,
        ".kv_a_layernorm": own,
        ".kv_b_proj": gathers,
        ".o_proj": RowwiseParallel(output_layouts=BY_SEQUENCE),
    }


def _for_all_heads(part: Tensor) -> Tensor:
    assert isinstance(part, DTensor)
    return with_own_gradient(part.redistribute(placements=[WHOLE]))


def _recurrence(mixer: nn.Module) -> dict[str, ParallelStyle]:
    """Every rank has all of it, and computes its own tokens, but for the recurrence itself
    (trainer/recurrent_parallel.py)."""
    own = SequenceParallel(use_local_output=True)
    modules = {f".{name}": own for name, _ in mixer.named_children() if name != "conv1d"}
    return {"": HeldWhole(), ".conv1d": HeldWhole(), **modules}


def _feed_forward() -> dict[str, ParallelStyle]:
    return {
        "": PrepareModuleInput(input_layouts=BY_SEQUENCE, desired_input_layouts=WHOLE),
        ".gate_proj": ColwiseParallel(),
        ".up_proj": ColwiseParallel(),
        ".down_proj": RowwiseParallel(output_layouts=BY_SEQUENCE),
    }


def _mixture(mixture: MixtureOfExperts) -> dict[str, ParallelStyle]:
    shared = _feed_forward() if mixture.shared else {}
    return {
        "": PrepareModuleInput(
            input_layouts=BY_SEQUENCE, desired_input_layouts=BY_SEQUENCE, use_local_output=True
        ),
        ".gate": ChoosesForOwnTokens(),
        **{f".shared_expert{name}": style for name, style in shared.items()},
        ".shared_expert_gate": SequenceParallel(use_local_output=True),
    }


class ChoosesForOwnTokens(ParallelStyle):
    """A router: every rank has all of it, and its gradient by its own tokens, which are summed."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, Router)
        share_out(module, device_mesh, lambda _: [WHOLE])

        def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            own = None if bias is None else with_own_gradient(bias)
            return F.linear(x, with_own_gradient(weight), own)

        module.linear = linear
        return module


class HeldWhole(ParallelStyle):
    """Every rank has all of a module's own parameters, and sees itself to what it does by them."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        share_out(module, device_mesh, lambda _: [WHOLE])
        return module


class NormOfAllHeads(ParallelStyle):
    """An RMSNorm over all heads, of which each rank has some."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, nn.RMSNorm) and module.eps is not None
        share_out(module, device_mesh, lambda _: [Shard(0)])
        eps = module.eps

        def forward(x: Tensor) -> Tensor:
            heads = x.float()
            of_heads = heads.square().mean(-1, keepdim=True)
            square = mean_of_all(of_heads, device_mesh, summed=True)
            return (heads * torch.rsqrt(square + eps)).to(x.dtype) * local(module.weight)

        module.forward = forward  # type: ignore[method-assign]
        return module
