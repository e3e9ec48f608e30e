"""An architecture as the step-time model sees it."""

from planner.architecture import Architecture, GatedDeltaNet, Mamba2
from planner.flops import delta_rule_flops_per_token, ssd_flops_per_token
from planner.step_inputs import Shape

BF16_BYTES, FP32_BYTES = 2.0, 4.0


def shape_of(arch: Architecture, seq_len: int, tokens_per_step: int) -> Shape:
    """All of it: what of a model's layers differs is counted by kind of layer."""
    moe = arch.moe
    ffn, active, experts = float(arch.ffn_hidden), 1.0, 1.0
    dense_layers, shared, router = 0.0, 0.0, 0.0
    if moe is not None:
        ffn, shared = float(moe.expert_ffn_hidden), float(moe.shared_width)
        active, experts = float(moe.experts_per_token), float(moe.routed_experts)
        router = float(moe.routed_experts + moe.shared_gate)
        dense_layers = float(arch.dense_ffn_layers)
    return Shape(
        layers=float(arch.layers),
        hidden=float(arch.hidden),
        query_width=float(arch.query_width),
        kv_width=float(arch.kv_width),
        heads=float(arch.heads),
        ffn=ffn,
        ffn_matrices=3.0 if arch.gated_ffn else 2.0,
        active_experts=active,
        experts=experts,
        vocab=float(arch.vocab_size),
        seq_len=float(seq_len),
        tokens_per_step=float(tokens_per_step),
        value_width=float(arch.heads * arch.value_head_dim),
        gate_width=float(arch.query_width * arch.attention_gate),
        windowed_layers=float(arch.windowed_layers),
        window=float(arch.window or 0),
        **_latent(arch),
        **_recurrent(arch, seq_len),
        bare_layers=float(arch.layers - arch.feed_forward_layers),
        dense_layers=dense_layers,
        dense_ffn=float(arch.ffn_hidden) if dense_layers else 0.0,
        shared_ffn=shared,
        router_width=router,
        mtp_layers=float(arch.mtp_layers),
    )


def _latent(arch: Architecture) -> dict[str, float]:
    if (mla := arch.mla) is None:
        return {}
    return {
        "latent_width": float(mla.kv_lora_rank),
        "query_latent_width": float(mla.q_lora_rank or 0),
        "rotary_width": float(mla.qk_rope_head_dim),
        "expanded_width": float(arch.heads * (mla.qk_nope_head_dim + mla.v_head_dim)),
    }


def _recurrent(arch: Architecture, seq_len: int) -> dict[str, float]:
    """Where a model has both kinds of recurrence, the mean of their layers."""
    kinds = []
    if (mamba := arch.mamba) is not None:
        kinds.append((mamba.layers, _mamba(mamba, seq_len)))
    if (net := arch.delta_net) is not None:
        kinds.append((net.layers, _delta_net(net, seq_len)))
    layers = sum(count for count, _ in kinds)
    if not layers:
        return {}
    mean = {name: sum(count * kind[name] for count, kind in kinds) / layers for name in kinds[0][1]}
    return {"recurrent_layers": float(layers), **mean}


def _mamba(mamba: Mamba2, seq_len: int) -> dict[str, float]:
    scan = ssd_flops_per_token(mamba, seq_len, causal=False)
    chunk, state = min(mamba.chunk_size, seq_len), mamba.inner * mamba.state_size
    return {
        "recurrent_in_width": float(mamba.inner + mamba.conv_channels + mamba.heads),
        "recurrent_width": float(mamba.inner),
        "convolved_width": float(mamba.conv_channels),
        "scan_flops": scan + 2.0 * mamba.conv_channels * mamba.conv_kernel,
        "scan_bytes": _scan_bytes(mamba.conv_channels, mamba.inner, state, chunk),
    }


def _delta_net(net: GatedDeltaNet, seq_len: int) -> dict[str, float]:
    rule = delta_rule_flops_per_token(net, seq_len, causal=False)
    chunk, state = min(net.chunk_size, seq_len), net.value_width * net.key_head_dim
    return {
        "recurrent_in_width": float(net.conv_channels + net.value_width + 2 * net.value_heads),
        "recurrent_width": float(net.value_width),
        "convolved_width": float(net.conv_channels),
        "scan_flops": rule + 2.0 * net.conv_channels * net.conv_kernel,
        "scan_bytes": _scan_bytes(net.conv_channels, net.value_width, state, chunk),
    }


def _scan_bytes(read: int, written: int, state: int, chunk: int) -> float:
    """Of HBM a token, forward: inputs and outputs in bf16, and each chunk's state, which one kernel
    writes and the next one reads in fp32 (state-spaces/mamba, ssd_chunk_state.py: states_in_fp32;
    assumed of gated DeltaNet too)."""
    return BF16_BYTES * (read + written) + 2.0 * FP32_BYTES * state / chunk
