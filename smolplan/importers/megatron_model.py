"""Megatron's model. Its defaults are GPT-2's: LayerNorm, biases, GELU, learned positions."""

from smolplan.errors import UserError
from smolplan.importers.draft import HELD, Draft, take_vocabulary
from smolplan.importers.megatron_parts import (
    letters_of_hybrid,
    take_experts,
    take_hybrid,
    take_latent_attention,
    take_window,
)
from smolplan.importers.source import count, number, positive

DEFAULT = "Megatron's default"

REFUSED = [
    ("--heterogeneous-layers-config-path", "layers that differ in shape"),
    ("--hybrid-attention-ratio", "a hybrid whose layers no pattern names"),
    ("--hybrid-mlp-ratio", "a hybrid whose layers no pattern names"),
    ("--linear-attention-freq", "linear attention, whose sizes are not read here"),
    ("--experimental-attention-variant", "an attention of another kind"),
    ("--moe-latent-size", "experts on a compressed input"),
    ("--rampup-batch-size", "the batch grows; take it out, and add optim.batch_warmup by hand"),
    (
        "--step-batch-size-schedule",
        "the batch grows; take it out, and add optim.batch_warmup by hand",
    ),
]

GATES = ("--swiglu", "--quick-geglu")


def check_kind(draft: Draft) -> None:
    """Refuse what no run spec can hold."""
    for name, what in REFUSED:
        if draft.source.find(name):
            raise draft.refuse(name, what)
    draft.leave_if_there(
        "--rotary-percent", "a run spec rotates all of a head", unless=("1.0", "1")
    )


def take_model(draft: Draft) -> None:
    source = draft.source
    hybrid = letters_of_hybrid(draft)
    if hybrid is None:
        layers = draft.take("model.layers", count, "--num-layers")
    else:
        layers = take_hybrid(draft, *hybrid)
    hidden = draft.take("model.hidden", count, "--hidden-size")
    heads = draft.take("model.heads", count, "--num-attention-heads")
    _feed_forward(draft, hidden)
    _key_heads(draft, heads)
    take_experts(draft, layers)
    divisor = "--make-vocab-size-divisible-by"
    take_vocabulary(
        draft,
        "--vocab-size",
        source.read(divisor, count) if source.find(divisor) else 128,
        f"{divisor} (or 128) × tensor parallel",
    )
    draft.put(
        "model.tied_embeddings",
        not source.get("--untie-embeddings-and-output-weights"),
        "--untie-embeddings-and-output-weights"
        + ("" if source.find("--untie-embeddings-and-output-weights") else " (absent)"),
    )
    _norms_and_biases(draft)
    _positions(draft, layers)
    if hybrid is None:
        take_window(draft, layers)
    if source.find("--mtp-num-layers"):
        draft.take("model.mtp_layers", count, "--mtp-num-layers")
    _document_mask(draft)
    draft.take("model.norm_eps", positive, "--norm-epsilon", default=1e-5, why=DEFAULT)
    draft.take("model.init_std", positive, "--init-method-std", default=0.02, why=DEFAULT)
    for name in ("--attention-dropout", "--hidden-dropout"):
        dropped = source.read(name, number) if source.find(name) else 0.1
        if dropped:
            draft.leave(name, dropped, "the trainer has no dropout (Megatron's default is 0.1)")


def _feed_forward(draft: Draft, hidden: int) -> None:
    """Two matrices and four times the width, unless an activation brings a gate."""
    source = draft.source
    gated = [name for name in GATES if source.get(name)]
    width, why = 4 * hidden, "4 × --hidden-size"
    if not gated:
        draft.put("model.gated_ffn", False, f"{GATES[0]} (absent)")
    elif gated[0] == "--swiglu":
        width, why = int(4 * hidden * 2 / 3 / 64) * 64, "8/3 of --hidden-size, down to 64s"
    draft.take(
        "model.ffn_hidden",
        count,
        "--ffn-hidden-size",
        default=width,
        why=f"Megatron's default: {why}",
    )


def _key_heads(draft: Draft, heads: int) -> None:
    source = draft.source
    if source.get("--multi-latent-attention"):
        take_latent_attention(draft)
        draft.put("model.kv_heads", heads, "--multi-latent-attention")
        for name in ("--group-query-attention", "--num-query-groups", "--kv-channels"):
            draft.leave_if_there(name, "not read with latent attention")
        return
    if source.get("--group-query-attention"):
        draft.take("model.kv_heads", count, "--num-query-groups", default=1, why=DEFAULT)
    else:
        draft.leave_if_there("--num-query-groups", "without --group-query-attention it is not read")
        draft.assume("model.kv_heads", heads, "Megatron's default: as many as query heads")
    if source.find("--kv-channels"):
        draft.take("model.head_dim", count, "--kv-channels")
    sinks = "--softmax-type"
    if source.get(sinks) == "learnable":
        draft.put("model.attention_sinks", True, sinks)
    elif source.get(sinks) not in (None, "vanilla"):
        raise draft.refuse(sinks, "a softmax of another kind")
    if source.get("--qk-layernorm"):
        draft.put("model.qk_norm", "per_head", "--qk-layernorm")


def _norms_and_biases(draft: Draft) -> None:
    source = draft.source
    norm = source.get("--normalization") or "LayerNorm"
    if norm not in ("LayerNorm", "RMSNorm"):
        raise draft.refuse("--normalization", "a norm of another kind")
    if norm == "LayerNorm":
        said = "--normalization" + ("" if source.find("--normalization") else " (absent)")
        if source.find("--qk-layernorm"):
            raise draft.refuse("--qk-layernorm", "norms of queries and keys with biases")
        draft.put("model.norm", "weight_and_bias", said)
    if not source.get("--disable-bias-linear"):
        if source.find("--num-experts", "--hybrid-override-pattern", "--multi-latent-attention"):
            raise _not_held(
                draft,
                "without --disable-bias-linear all projections have biases, which a run spec holds "
                "of plain attention and dense feed-forward parts",
            )
        for name in ("qkv_bias", "output_bias", "ffn_bias"):
            draft.put(f"model.{name}", True, "--disable-bias-linear (absent)")
    elif source.get("--add-qkv-bias"):
        draft.put("model.qkv_bias", True, "--add-qkv-bias")


def _positions(draft: Draft, layers: int) -> None:
    """Rotary, learned (the default), or none."""
    source, name = draft.source, "--position-embedding-type"
    kind = source.get(name)
    for flag, meant in [
        ("--use-rotary-position-embeddings", "rope"),
        ("--no-position-embedding", "none"),
    ]:
        if source.get(flag) and kind is None:
            kind = meant
    if kind == "rope":
        draft.take("model.rope_theta", positive, "--rotary-base", default=10_000.0, why=DEFAULT)
        _no_rope(draft, layers)
        return
    said = name if source.find(name) else f"{name} (absent: learned_absolute)"
    if kind in (None, "learned_absolute"):
        rows = "--max-position-embeddings"
        found = source.find(rows, "--seq-length")
        if found is None:
            raise source.missing(rows, "model.learned_positions")
        draft.put("model.learned_positions", source.read(found, count), said, found)
    elif kind != "none":
        raise draft.refuse(name, "positions of another kind")
    draft.put("model.no_rope_every", 1, said)


def _not_held(draft: Draft, what: str) -> UserError:
    return UserError(what, where=draft.source.where, remedy=HELD)


def _no_rope(draft: Draft, layers: int) -> None:
    source, name = draft.source, "--no-rope-freq"
    if source.find(name) is None:
        draft.assume("model.no_rope_every", 0, "Megatron's default: rotary embedding everywhere")
        return
    every = draft.take("model.no_rope_every", count, name)
    if layers % every:
        raise source.error(name, f"it does not divide {layers} layers")


def _document_mask(draft: Draft) -> None:
    name = "--reset-attention-mask"
    if draft.source.get(name):
        draft.put("model.intra_document_mask", True, name)
    else:
        draft.assume("model.intra_document_mask", False, DEFAULT)
