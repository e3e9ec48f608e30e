"""Which architecture a row trains: a published model that its name and columns agree with, or
what its columns say."""

import re
from dataclasses import replace
from functools import cache

from planner.architecture import Architecture, MoE
from planner.catalog import models
from planner.predict.rows import Row

UNGATED = re.compile(r"gpt|mpt|opt|bloom|nemotron|neox|megatron|mt-nlg|pythia|falcon", re.I)
"""Families whose feed-forward has two matrices; others have a gate (as their papers say)."""
HEAD_DIMS = {"qwen3": 128, "gemma": 256}
"""Where heads × head dimension is not the hidden width, by their published configurations."""
EXPERTS = re.compile(r"(\d+) experts,? top-?(\d+)", re.I)
MIXTURES = re.compile(r"moe|deepseek-?v[23]|mixtral|-a\d+(\.\d+)?b|kimi-k2|llama4|gpt-oss", re.I)
"""Names that a mixture of experts goes by."""
HYBRIDS = re.compile(r"nemotron-?(3|h)\b|mamba|jamba|qwen3-next|zamba|granite-?4", re.I)
"""Models whose layers are not all attention."""
DENSE_FROM = 0.98
"""Active over all parameters from which a model counts as dense."""
PREDICTION_MODULE = re.compile(r"w/ MTP", re.I)
"""Notes of runs that train one; published shapes have it, and most runs leave it out."""
TOOLS = re.compile(r"[-_](automodel|maxtext|paxml|megatron|nemo|proxy)\b.*", re.I)
"""What a row's model may be called beyond its name: the software, or a reduced variant."""
SHAPE_COLUMNS = ("layers", "hidden", "heads", "vocab")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _published() -> dict[str, Architecture]:
    """Shapes by plain name."""
    return {_plain(name): model.architecture()[0] for name, model in models().items()}


@cache
def _by_name(model: str) -> Architecture | None:
    """The longest published name that a row's begins with; else the only one that begins with the
    row's."""
    name = _plain(TOOLS.sub("", model))
    # What follows a name is no more of its number: gpt2 is no gpt-20b.
    begun = [known for known in _published() if re.match(rf"{known}(?!\d|b)", name)]
    if not begun and len(name) >= len("qwen3next"):
        begun = [known for known in _published() if known.startswith(name)]
        begun = begun if len(begun) == 1 else []
    return _published()[max(begun, key=len)] if begun else None


def published_architecture(row: Row) -> Architecture | None:
    """The catalogue's model of that name, if the row's columns do not contradict it; with the row's
    vocabulary, which may be padded, and its number of layers where all are alike."""
    arch, n = _by_name(row.text("model")), row.numbers
    if arch is None or n.get("hidden", arch.hidden) != arch.hidden:
        return None
    if n.get("heads", arch.heads) != arch.heads:
        return None
    if not PREDICTION_MODULE.search(row.text("notes")):
        arch = replace(arch, mtp_layers=0)
    arch = replace(arch, vocab_size=int(n.get("vocab", arch.vocab_size)))
    layers = int(n.get("layers", arch.layers))
    # Hybrids that alternate count mixers and feed-forward parts as layers of their own.
    if layers in (arch.layers, arch.layers + (arch.ffn_layers or 0)):
        return arch
    alike = not (arch.mamba or arch.delta_net or arch.windowed_layers)
    return replace(arch, layers=layers) if alike and arch.ffn_layers is None else None


def lacking_architecture(row: Row) -> str | None:
    """Why a row's model is unknown; None if it is known."""
    if published_architecture(row) is not None:
        return None
    empty = [name for name in SHAPE_COLUMNS if name not in row.numbers]
    if empty:
        return "no " + ", ".join(empty)
    if HYBRIDS.search(row.text("model")):
        return "a hybrid that is not among the published models that smolplan knows"
    params, active = row.number("params_b", 0.0), row.number("active_b", 0.0)
    sparse = 0 < active < DENSE_FROM * params
    told = _told_experts(row)
    if MIXTURES.search(row.text("model")) and not (sparse or told):
        return "a mixture of experts without active_b"
    if (sparse or told) and "ffn" not in row.numbers:
        return "a mixture of experts without the width of one (ffn)"
    return None


def _told_experts(row: Row) -> re.Match[str] | None:
    return EXPERTS.search(row.text("notes")) or EXPERTS.search(row.text("source"))


def architecture_of_row(row: Row) -> Architecture:
    """Of a row for which lacking_architecture has nothing to say."""
    return published_architecture(row) or _architecture_by_columns(row)


def _architecture_by_columns(row: Row) -> Architecture:
    n, model = row.numbers, row.text("model").lower()
    hidden, layers, heads = int(n["hidden"]), int(n["layers"]), int(n["heads"])
    vocab, kv_heads = int(n["vocab"]), int(min(row.number("kv_heads", heads), heads))
    named = next((d for name, d in HEAD_DIMS.items() if name in model), None)
    head_dim = named or max(1, round(hidden / heads))
    attention = hidden * 2 * (heads + kv_heads) * head_dim
    params = row.number("params_b", 0.0) * 1e9
    matrices = 2 if UNGATED.search(model) else 3
    # What the parameters leave for a layer's feed-forward part.
    rest = (params - vocab * hidden) / layers - attention
    told, active_params = _told_experts(row), row.number("active_b", params / 1e9) * 1e9
    sparse = 0 < active_params < DENSE_FROM * params
    if "ffn" in n:
        ffn = n["ffn"]
    else:
        usual = 4.0 * hidden if matrices == 2 else 8.0 / 3.0 * hidden
        ffn = rest / (matrices * hidden) if rest > 0 else usual
    experts = active = 1
    if sparse:
        one, embeddings = matrices * hidden * ffn, 2 * vocab * hidden
        active = max(1, round(((active_params - embeddings) / layers - attention) / one))
        experts = max(active, round(((params - embeddings) / layers - attention) / one))
    elif told:
        experts, active = int(told[1]), int(told[2])
    if params > 0 and "ffn" in n and not sparse:
        # Parameters decide whether there is a gate, where both are published.
        matrices = min((2, 3), key=lambda m: abs(rest - experts * m * hidden * ffn))
    moe = MoE(experts, active, max(1, round(ffn))) if experts > 1 else None
    return Architecture(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_hidden=max(1, round(ffn)),
        vocab_size=vocab,
        tied_embeddings=False,
        gated_ffn=matrices == 3,
        moe=moe,
    )
