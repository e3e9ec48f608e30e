"""Decoders with a mixture of experts. Defaults are those of the classes in transformers."""

from dataclasses import replace

from planner.architecture import MLA, Architecture, MoE
from planner.hf.dense import decoder
from planner.hf.fields import (
    BadField,
    Config,
    Unsupported,
    flag,
    refuse_unless,
    whole,
    window_everywhere,
    windows,
)


def _number_of_experts(config: Config, default: int) -> int:
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    given = [name for name in names if config.get(name) is not None]
    return whole(config, given[0]) if given else default


def _experts(config: Config, experts: int, per_token: int, width: int) -> MoE:
    experts = _number_of_experts(config, experts)
    per_token = whole(config, "num_experts_per_tok", per_token)
    if per_token > experts:
        raise BadField(f"num_experts_per_tok {per_token} is more than the {experts} experts")
    return MoE(routed_experts=experts, experts_per_token=per_token, expert_ffn_hidden=width)


def mixtral(config: Config) -> Architecture:
    shared = decoder(config, kv_heads=8, window=window_everywhere(config))
    return replace(shared, moe=_experts(config, 8, 2, shared.ffn_hidden))


def olmoe(config: Config) -> Architecture:
    bias = flag(config, "attention_bias")
    shared = decoder(config, attention_bias=bias, qk_norm="full_width")
    if shared.query_width != shared.hidden:
        raise Unsupported(f"head_dim is {shared.head_dim}: heads as wide as hidden are counted")
    return replace(shared, moe=_experts(config, 64, 8, shared.ffn_hidden))


def granitemoe(config: Config) -> Architecture:
    shared = decoder(config, attention_bias=flag(config, "attention_bias"))
    return replace(shared, moe=_experts(config, 8, 2, shared.ffn_hidden))


def gpt_oss(config: Config) -> Architecture:
    layers = whole(config, "num_hidden_layers")
    kinds = config.get("layer_types") or [
        "full_attention" if i % 2 else "sliding_attention" for i in range(layers)
    ]
    shared = decoder(
        {**config, "head_dim": whole(config, "head_dim", 64)},
        kv_heads=8,
        attention_bias=flag(config, "attention_bias", True),
        window=windows({"sliding_window": 128, **config, "layer_types": kinds}),
    )
    moe = _experts(config, 128, 4, shared.ffn_hidden)
    return replace(
        shared,
        attention_sinks=True,
        moe=replace(moe, router_bias=True, expert_bias=True),
    )


def qwen_experts(config: Config, moe: MoE) -> MoE:
    """With the dense layers of decoder_sparse_step and mlp_only_layers: the first few."""
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or dense != list(range(len(dense))):
        raise Unsupported(f"mlp_only_layers is {dense}: only the first layers are counted as dense")
    every = whole(config, "decoder_sparse_step", 1)
    return replace(moe, first_dense_layers=len(dense), every=every)


def qwen2_moe(config: Config) -> Architecture:
    if config.get("layer_types") is None:
        refuse_unless(config, "use_sliding_window", False, "which layers have it is not told")
    bias = flag(config, "qkv_bias", True)
    shared = decoder(config, kv_heads=16, qkv_bias=bias, window=windows(config))
    return replace(shared, moe=shared_expert(config, 60, 4, 1408, 5632))


def shared_expert(
    config: Config, experts: int, per_token: int, width: int, shared_width: int
) -> MoE:
    """Routed experts and a gated shared one, as Qwen2-MoE and Qwen3-Next have."""
    moe = _experts(config, experts, per_token, whole(config, "moe_intermediate_size", width))
    shared_width = whole(config, "shared_expert_intermediate_size", shared_width)
    moe = replace(moe, shared_experts=1, shared_ffn_hidden=shared_width, shared_gate=True)
    return qwen_experts(config, moe)


def qwen3_moe(config: Config) -> Architecture:
    windowed = flag(config, "use_sliding_window")
    shared = decoder(
        config,
        kv_heads=4,
        attention_bias=flag(config, "attention_bias"),
        qk_norm="per_head",
        window=window_everywhere(config, 4096) if windowed else (None, ""),
    )
    moe = _experts(config, 128, 8, whole(config, "moe_intermediate_size", 768))
    return replace(shared, moe=qwen_experts(config, moe))


def glm4_moe(config: Config) -> Architecture:
    # Its attention_bias is one of queries, keys and values alone.
    shared = decoder(
        config,
        kv_heads=8,
        qkv_bias=flag(config, "attention_bias"),
        qk_norm="per_head" if flag(config, "use_qk_norm") else "none",
    )
    moe = _experts(config, 128, 8, whole(config, "moe_intermediate_size", 1408))
    moe = replace(moe, shared_experts=whole(config, "n_shared_experts", 1))
    mtp = whole(config, "num_nextn_predict_layers", 1, least=0)
    return replace(shared, moe=_first_dense(config, moe, 1), mtp_layers=mtp)


def _first_dense(config: Config, moe: MoE, default: int) -> MoE:
    """With first_k_dense_replace layers without experts."""
    layers = whole(config, "num_hidden_layers")
    dense = whole(config, "first_k_dense_replace", default, least=0)
    if dense > layers:
        raise BadField(f"first_k_dense_replace {dense} is more than {layers} layers")
    return replace(moe, first_dense_layers=dense)


def _latent(config: Config) -> MLA:
    # A rank of null projects the queries directly; without the field it is the class's.
    direct = "q_lora_rank" in config and config["q_lora_rank"] is None
    return MLA(
        kv_lora_rank=whole(config, "kv_lora_rank", 512),
        q_lora_rank=None if direct else whole(config, "q_lora_rank", 1536),
        qk_nope_head_dim=whole(config, "qk_nope_head_dim", 128),
        qk_rope_head_dim=whole(config, "qk_rope_head_dim", 64),
        v_head_dim=whole(config, "v_head_dim", 128),
    )


def _deepseek(config: Config, moe: MoE, first_dense: int) -> Architecture:
    refuse_unless(config, "moe_layer_freq", 1, "experts in every layer behind the dense ones are")
    mla, heads = _latent(config), whole(config, "num_attention_heads")
    refuse_unless(config, "num_key_value_heads", heads, "latent attention has one key a head")
    shared = decoder(
        {**config, "num_key_value_heads": None, "head_dim": mla.qk_head_dim},
        attention_bias=flag(config, "attention_bias"),
    )
    return replace(shared, mla=mla, moe=_first_dense(config, moe, first_dense))


def deepseek_v2(config: Config) -> Architecture:
    refuse_unless(config, "mlp_bias", False, "biases of its feed-forward parts are not counted")
    if config.get("num_experts_per_tok") is None:
        raise BadField("the field 'num_experts_per_tok' is missing")
    moe = _experts(config, 64, 1, whole(config, "moe_intermediate_size", 1407))
    shared = whole(config, "n_shared_experts", 2)
    return _deepseek(config, replace(moe, shared_experts=shared), 0)


def deepseek_v3(config: Config) -> Architecture:
    moe = _experts(config, 256, 8, whole(config, "moe_intermediate_size", 2048))
    shared = whole(config, "n_shared_experts", 1)
    mtp = whole(config, "num_nextn_predict_layers", 1, least=0)
    return replace(_deepseek(config, replace(moe, shared_experts=shared), 3), mtp_layers=mtp)
