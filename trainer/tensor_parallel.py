"""Tensor and sequence parallelism by torch's own styles, put on the model from outside.

Each rank of a tensor-parallel group holds a share of the heads, of the feed-forward's width and of
the vocabulary; between them (residual and norms) it holds a share of each sequence, as Megatron-LM
does (Korthikanti et al. 2022, arXiv 2205.05198). Attention and feed-forward gather the sequence
when they begin and scatter it when they end.
"""

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from trainer.model.transformer import CausalLM

BY_SEQUENCE, BY_VOCABULARY, WHOLE = Shard(1), Shard(-1), Replicate()


def split_layers(model: CausalLM, mesh: DeviceMesh) -> None:
    """Share the model out over the ranks of a mesh of one dimension. Its heads of either kind,
    feed-forward width, vocabulary and sequence length must divide by them (RunSpec sees to it)."""
    parallelize_module(
        model,
        mesh,
        {
            "model.embed_tokens": RowwiseParallel(input_layouts=WHOLE, output_layouts=BY_SEQUENCE),
            "model.layers.*.input_layernorm": SequenceParallel(),
            # The tokens' places, the other argument, are whole on every rank.
            "model.layers.*.self_attn": PrepareModuleInput(
                input_layouts=(BY_SEQUENCE, None), desired_input_layouts=(WHOLE, None)
            ),
            "model.layers.*.self_attn.q_proj": ColwiseParallel(),
            "model.layers.*.self_attn.k_proj": ColwiseParallel(),
            "model.layers.*.self_attn.v_proj": ColwiseParallel(),
            "model.layers.*.self_attn.o_proj": RowwiseParallel(output_layouts=BY_SEQUENCE),
            "model.layers.*.post_attention_layernorm": SequenceParallel(),
            "model.layers.*.mlp": PrepareModuleInput(
                input_layouts=BY_SEQUENCE, desired_input_layouts=WHOLE
            ),
            "model.layers.*.mlp.gate_proj": ColwiseParallel(),
            "model.layers.*.mlp.up_proj": ColwiseParallel(),
            "model.layers.*.mlp.down_proj": RowwiseParallel(output_layouts=BY_SEQUENCE),
            "model.norm": SequenceParallel(),
            "model": PrepareModuleOutput(
                output_layouts=BY_SEQUENCE, desired_output_layouts=WHOLE, use_local_output=False
            ),
            "lm_head": ColwiseParallel(output_layouts=BY_VOCABULARY, use_local_output=False),
        },
    )
    model.tie()  # each of its places was given a share of its own
