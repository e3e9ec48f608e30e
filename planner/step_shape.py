"""An architecture as the step-time model sees it."""

from planner.architecture import Architecture, MoE
from planner.flops import delta_rule_flops_per_token, mean_keys, ssd_flops_per_token
from planner.kernels import Values
from planner.params import (
    attention_matrix_parameters,
    delta_net_matrix_parameters,
    mamba_matrix_parameters,
)
from planner.step_inputs import Shape


def shape_of(arch: Architecture, seq_len: int, tokens_per_step: int) -> Shape:
    """Layers are made alike: each has its share of what only some of them have. The weights of
    latent projections count as columns of one product; the products' FLOPs are those of
    planner/flops.py."""
    layers = arch.layers + arch.mtp_layers
    attention = arch.attention_layers + arch.mtp_layers
    value_width = arch.heads * arch.value_head_dim
    # A prediction module joins two hidden vectors: 2h columns more.
    joins = 2.0 * arch.hidden * arch.mtp_layers / max(attention, 1)
    inputs = attention_matrix_parameters(arch) / arch.hidden - value_width + joins
    moe_layers, dense_layers = arch.moe_layers, arch.dense_ffn_layers
    if arch.moe is None:
        dense_layers += arch.mtp_layers
    else:
        moe_layers += arch.mtp_layers
    # No layer has it where the model has none: any will do that can be divided by.
    moe = arch.moe or MoE(routed_experts=1, experts_per_token=1, expert_ffn_hidden=1)
    mixer_layers, mixer_in, mixer_out, scan_flops = _mixers(arch, seq_len)
    kv = arch.kv_width if arch.mla is None else (arch.query_width + value_width) / 2.0
    return Shape(
        layers=float(layers),
        hidden=float(arch.hidden),
        heads=float(arch.heads),
        attention_share=attention / layers,
        attention_in=float(inputs),
        attention_out=float(value_width),
        score_width=(arch.query_width + value_width) / 2.0,
        kv_width=float(kv),
        keys=_keys(arch, seq_len),
        ffn_share=dense_layers / layers,
        ffn=float(arch.ffn_hidden),
        ffn_matrices=3.0 if arch.gated_ffn else 2.0,
        moe_share=moe_layers / layers,
        experts=float(moe.routed_experts),
        experts_per_token=float(moe.experts_per_token),
        expert_ffn=float(moe.expert_ffn_hidden),
        shared_ffn=float(moe.shared_width),
        mixer_share=mixer_layers / layers,
        mixer_in=mixer_in,
        mixer_out=mixer_out,
        scan_flops=scan_flops,
        losses=1.0 + arch.mtp_layers,
        vocab=float(arch.vocab_size),
        seq_len=float(seq_len),
        tokens_per_step=float(tokens_per_step),
    )


def forward_flops_per_token(shape: Shape) -> Values:
    """Forward FLOPs of a token that the step-time model prices: what planner/flops.py counts, but
    for the gate of shared experts, one weight a hidden dimension."""
    matrices = shape.ffn_matrices * shape.hidden
    attention = shape.hidden * (shape.attention_in + shape.attention_out)
    experts = matrices * (shape.experts_per_token * shape.expert_ffn + shape.shared_ffn)
    layer = 2.0 * (
        shape.attention_share * (attention + shape.score_width * (shape.keys + 1.0))
        + shape.mixer_share * shape.hidden * (shape.mixer_in + shape.mixer_out)
        + shape.ffn_share * matrices * shape.ffn
        + shape.moe_share * (experts + shape.hidden * shape.experts)
    )
    layer += shape.mixer_share * shape.scan_flops
    return shape.layers * layer + shape.losses * 2.0 * shape.vocab * shape.hidden


def _keys(arch: Architecture, seq_len: int) -> float:
    """Mean over the attention layers of twice the keys that a causal query meets: `seq_len` where
    there is no window."""
    if not arch.windowed_layers:
        return float(seq_len)
    layers = arch.attention_layers + arch.mtp_layers
    windowed = 2.0 * mean_keys(seq_len, arch.window, causal=True) - 1.0
    return (arch.windowed_layers * windowed + (layers - arch.windowed_layers) * seq_len) / layers


def _mixers(arch: Architecture, seq_len: int) -> tuple[int, float, float, float]:
    """Layers of another kind than attention, their columns, rows and scan FLOPs a token."""
    if (mamba := arch.mamba) is not None:
        inputs = mamba_matrix_parameters(arch.hidden, mamba) / arch.hidden - mamba.inner
        convolution = 2.0 * mamba.conv_channels * mamba.conv_kernel
        scan = convolution + ssd_flops_per_token(mamba, seq_len, causal=True)
        return mamba.layers, inputs, float(mamba.inner), scan
    if (net := arch.delta_net) is not None:
        inputs = delta_net_matrix_parameters(arch.hidden, net) / arch.hidden - net.value_width
        convolution = 2.0 * net.conv_channels * net.conv_kernel
        scan = convolution + delta_rule_flops_per_token(net, seq_len, causal=True)
        return net.layers, inputs, float(net.value_width), scan
    return 0, 1.0, 1.0, 0.0
