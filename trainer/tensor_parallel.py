"""Tensor and sequence parallelism by torch's own styles, put on the model from outside.

Each rank of a tensor-parallel group holds a share of the heads, of the feed-forward's width and of
the vocabulary; between them (residual and norms) it holds a share of each sequence, as Megatron-LM
does (Korthikanti et al. 2022, arXiv 2205.05198). Attention and feed-forward gather the sequence
when they begin and scatter it when they end.
"""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from trainer.model.block import Block
from trainer.model.transformer import CausalLM

BY_SEQUENCE, BY_VOCABULARY, WHOLE = Shard(1), Shard(-1), Replicate()


def split_layers(model: CausalLM, mesh: DeviceMesh) -> None:
    """Share the model out over the ranks of a mesh of one dimension. Its heads of either kind,
    feed-forward width, vocabulary and sequence length must divide by them (RunSpec sees to it)."""
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
    model.tie()  # each of its places was given a share of its own


def _styles(block: Block) -> dict[str, ParallelStyle]:
    """How each module that a block has is shared out, by its name."""
    # Behind a norm comes what gathers the sequence, or, behind the norms behind, the residual,
    # which is a plain tensor.
    norm, norm_behind = SequenceParallel(), SequenceParallel(use_local_output=True)
    styles = {
        "input_layernorm": norm,
        # The tokens' places, the other argument, are whole on every rank.
        "self_attn": PrepareModuleInput(
            input_layouts=(BY_SEQUENCE, None), desired_input_layouts=(WHOLE, None)
        ),
        "self_attn.q_proj": ColwiseParallel(),
        "self_attn.k_proj": ColwiseParallel(),
        "self_attn.v_proj": ColwiseParallel(),
        # Of a weight a dimension of one head; a rank has some of the heads, (batch, seq, heads, …).
        "self_attn.q_norm": SequenceParallel(sequence_dim=2, use_local_output=True),
        "self_attn.k_norm": SequenceParallel(sequence_dim=2, use_local_output=True),
        "self_attn.o_proj": RowwiseParallel(output_layouts=BY_SEQUENCE),
        "post_attention_layernorm": norm_behind if block.norms_behind else norm,
        "pre_feedforward_layernorm": norm,
        "mlp": PrepareModuleInput(input_layouts=BY_SEQUENCE, desired_input_layouts=WHOLE),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(output_layouts=BY_SEQUENCE),
        "post_feedforward_layernorm": norm_behind,
    }
    there = {name for name, module in block.named_modules() if not isinstance(module, nn.Identity)}
    return {name: style for name, style in styles.items() if name in there}
