"""Megatron's model arguments (_add_network_size_args and its neighbours in arguments.py)."""

from smolplan.errors import UserError
from smolplan.importers.draft import HELD, Draft, take_vocabulary
from smolplan.importers.source import count, number, positive

DEFAULT = "Megatron's default"

REFUSED = [
    ("--num-experts", "a mixture of experts"),
    ("--multi-latent-attention", "multi-head latent attention"),
    ("--hybrid-override-pattern", "a hybrid with state-space layers"),
    ("--is-hybrid-model", "a hybrid with state-space layers"),
    ("--mtp-num-layers", "multi-token prediction adds layers"),
    ("--add-qkv-bias", "attention has biases"),
    ("--qk-layernorm", "queries and keys have norms"),
    ("--squared-relu", "the feed-forward layer is not SwiGLU"),
    ("--rampup-batch-size", "the batch grows; a run spec has one size"),
    ("--step-batch-size-schedule", "the batch grows; a run spec has one size"),
]


def take_model(draft: Draft) -> None:
    source = draft.source
    layers = draft.take("model.layers", count, "--num-layers")
    hidden = draft.take("model.hidden", count, "--hidden-size")
    heads = draft.take("model.heads", count, "--num-attention-heads")
    if source.find("--group-query-attention"):
        source.get("--group-query-attention")
        draft.take("model.kv_heads", count, "--num-query-groups", default=1, why=DEFAULT)
    else:
        draft.leave_if_there("--num-query-groups", "without --group-query-attention it is not read")
        draft.assume("model.kv_heads", heads, "Megatron's default: as many as query heads")
    if source.find("--kv-channels"):
        draft.take("model.head_dim", count, "--kv-channels")
    draft.take(
        "model.ffn_hidden",
        count,
        "--ffn-hidden-size",
        default=int(4 * hidden * 2 / 3 / 64) * 64,
        why="Megatron's default with --swiglu: 8/3 of --hidden-size, down to 64s",
    )
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
    draft.take("model.rope_theta", positive, "--rotary-base", default=10_000.0, why=DEFAULT)
    _no_rope(draft, layers)
    _document_mask(draft)
    draft.take("model.norm_eps", positive, "--norm-epsilon", default=1e-5, why=DEFAULT)
    draft.take("model.init_std", positive, "--init-method-std", default=0.02, why=DEFAULT)
    for name in ("--attention-dropout", "--hidden-dropout"):
        dropped = source.read(name, number) if source.find(name) else 0.1
        if dropped:
            draft.leave(name, dropped, "the trainer has no dropout (Megatron's default is 0.1)")


def check_kind(draft: Draft) -> None:
    """Megatron's defaults are GPT-2's: whatever departs from a run spec's model is refused."""
    source = draft.source
    for name, what in REFUSED:
        if source.find(name):
            raise draft.refuse(name, what)
    for option, what in [
        ("--swiglu", "without --swiglu the feed-forward layer has GELU"),
        ("--disable-bias-linear", "without --disable-bias-linear all layers have biases"),
    ]:
        if not source.get(option):
            raise _not_held(draft, what)
    norm = source.get("--normalization") or "LayerNorm"
    if norm != "RMSNorm":
        raise _not_held(draft, f"--normalization is {norm} ({DEFAULT}: LayerNorm)")
    position = source.get("--position-embedding-type")
    rotary = source.get("--use-rotary-position-embeddings")
    if position != "rope" and not (rotary and position is None):
        raise _not_held(
            draft, f"--position-embedding-type is {position or 'learned_absolute'}, not rope"
        )
    draft.leave_if_there(
        "--rotary-percent", "a run spec rotates all of a head", unless=("1.0", "1")
    )
    window = "--window-size"
    if source.find(window):
        raise draft.refuse(window, "attention has a window")


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
