"""A Hugging Face config.json: the model alone; the rest is assumed, and says so."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from planner.architecture import Architecture, architecture_of
from planner.hf_config import read_hf_config
from planner.params import parameter_count
from smolplan.errors import UserError
from smolplan.importers.draft import DENSE, Draft
from smolplan.importers.options import Options
from smolplan.importers.result import Imported
from smolplan.importers.source import Source, count, flatten, number, positive

THETA = {"smollm3": 2e6}
"""Where the config names no rope_theta: transformers takes 10,000, and for these model types this
(default_theta of their configuration classes, transformers 5)."""

TOKENS_PER_PARAMETER = 20
"""Compute-optimal for dense models: Hoffmann et al. 2022, arXiv 2203.15556."""

BATCH_TOKENS = 2**21
"""About 2M tokens a step, as SmolLM3 had (2.36M: Smol Training Playbook, 2025)."""

_REASONS = [
    (r"rope_scaling|rope_parameters", "a run spec's rotary embeddings are not scaled"),
    (r"\w+_token_id", "the tokeniser's matter"),
    (r"(torch_)?dtype", "the type of the stored weights; the run computes in optim.precision"),
    (
        r"architectures|transformers_version|_name_or_path|auto_map|model_type",
        "names the model's class",
    ),
    (r"use_cache|pretraining_tp|_\w+", "how the framework computes it, not what"),
    (r"max_position|max_window", "the length trained on is data.seq_len"),
    (r"layer_types|no_rope", "said by model.no_rope_every"),
    (r"(use_)?sliding_window", "no layer has a window"),
]


def recognises(content: Any) -> bool:
    """Whether parsed JSON looks like a model's config.json."""
    return isinstance(content, Mapping) and bool({"model_type", "architectures"} & content.keys())


def parse(content: str, where: str) -> Any:
    """JSON → Python. Raises UserError with the line."""
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise UserError(f"not valid JSON: {error.msg}", where=f"{where}:{error.lineno}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}", where=where) from None


def read(content: str, where: str, options: Options) -> Imported:
    """A config.json as a run spec. Raises UserError for a model that no run spec can hold."""
    source = Source(flatten(parse(content, where), where), content, where)
    architecture, longest = _architecture(source)
    draft = Draft("huggingface", source, options)
    path = Path(where)
    folder = path.resolve().parent.name if path.stem == "config" else path.stem
    draft.name_run(source.get("_name_or_path"), "_name_or_path", otherwise=folder)
    length = draft.assume(
        "data.seq_len",
        min(longest, 4096),
        "ours: 4,096, or the model's longest sequence if that is shorter",
    )
    architecture = _without_idle_window(draft, architecture, length)
    _model(draft, architecture)
    _check_same(draft, architecture)
    _run(draft, architecture, length)
    dropout = "attention_dropout"
    if source.find(dropout) and source.read(dropout, number):
        draft.leave(dropout, source.get(dropout), "the trainer has no dropout")
    draft.leave_rest(_REASONS)
    return draft.finish()


def _architecture(source: Source) -> tuple[Architecture, int]:
    """As the planner reads it, with the line of what it refuses."""
    try:
        return read_hf_config(Path(source.where))
    except UserError as error:
        field = error.what.split()[0] if error.what else ""
        raise UserError(
            error.what,
            where=source.place(field) if source.find(field) else source.where,
            remedy=DENSE if error.remedy else "",
        ) from None


def _without_idle_window(draft: Draft, architecture: Architecture, length: int) -> Architecture:
    """A window no shorter than the sequence changes nothing."""
    window, name = architecture.window, "sliding_window"
    if window is None or window < length:
        return architecture
    draft.source.get(name)
    draft.leave(name, window, "the window is no shorter than data.seq_len")
    return replace(architecture, window=None, windowed_layers=0)


def _model(draft: Draft, architecture: Architecture) -> None:
    for name, value, field in [
        ("layers", architecture.layers, "num_hidden_layers"),
        ("hidden", architecture.hidden, "hidden_size"),
        ("heads", architecture.heads, "num_attention_heads"),
        ("kv_heads", architecture.kv_heads, "num_key_value_heads"),
        ("ffn_hidden", architecture.ffn_hidden, "intermediate_size"),
        ("vocab_size", architecture.vocab_size, "vocab_size"),
        ("tied_embeddings", architecture.tied_embeddings, "tie_word_embeddings"),
    ]:
        _put(draft, f"model.{name}", value, field)
    if draft.source.find("head_dim"):
        _put(draft, "model.head_dim", architecture.head_dim, "head_dim")
    source, kind = draft.source, draft.source.get("model_type")
    draft.take(
        "model.rope_theta",
        positive,
        "rope_theta",
        "rope_parameters.rope_theta",
        default=THETA.get(kind, 10_000.0),
        why=f"the default of {kind} in transformers",
    )
    if source.find("rope_parameters.rope_type"):
        draft.leave_if_there(
            "rope_parameters.rope_type",
            "a run spec's rotary embeddings are not scaled",
            unless=("default",),
        )
    _no_rope(draft, architecture.layers)
    draft.take(
        "model.norm_eps",
        positive,
        "rms_norm_eps",
        default=1e-6,
        why=f"the default of {kind} in transformers",
    )
    draft.take(
        "model.init_std",
        positive,
        "initializer_range",
        default=0.02,
        why=f"the default of {kind} in transformers",
    )
    for name in ("hidden_act", "attention_bias", "mlp_bias", "use_sliding_window"):
        source.get(name)  # read_hf_config has refused what a run spec cannot hold


def _put(draft: Draft, name: str, value: int | bool, field: str) -> None:
    """From the field where the config has it; else from what the model type makes of it."""
    if draft.source.find(field):
        draft.source.get(field)
        draft.put(name, value, field)
    else:
        draft.assume(name, value, f"the default of {draft.source.get('model_type')}")


def _no_rope(draft: Draft, layers: int) -> None:
    """SmolLM3: a list with 0 for each layer without rotary embedding, or its interval."""
    source = draft.source
    if source.get("model_type") != "smollm3":
        draft.assume("model.no_rope_every", 0, "every layer of this model type has it")
        return
    listed = source.get("no_rope_layers")
    if listed is None:
        draft.take(
            "model.no_rope_every",
            count,
            "no_rope_layer_interval",
            default=4,
            why="the default of smollm3 in transformers",
        )
        return
    source.get("no_rope_layer_interval")
    if not isinstance(listed, list) or len(listed) != layers:
        raise source.error("no_rope_layers", f"it has an entry for each of {layers} layers")
    every = listed.index(0) + 1 if 0 in listed else 0
    if any(bool(rope) != (every == 0 or (i + 1) % every != 0) for i, rope in enumerate(listed)):
        raise source.error(
            "no_rope_layers",
            "a run spec leaves out the rotary embedding of every n-th layer; these are others",
        )
    draft.put("model.no_rope_every", every, "no_rope_layers")


PARTS = {
    "moe": "a mixture of experts",
    "mla": "multi-head latent attention",
    "mamba": "state-space layers",
    "delta_net": "linear-attention layers",
}
"""Fields of an architecture that are parts of their own, as people call them."""


def _check_same(draft: Draft, architecture: Architecture) -> None:
    """Raises UserError, unless the spec's model is this very architecture."""
    if any(name.startswith("model.") for name in draft.options.overrides):
        return  # --set asks for another model
    held = architecture_of(draft.model())
    for field in fields(Architecture):
        if getattr(held, field.name) != (value := getattr(architecture, field.name)):
            kind = draft.source.get("model_type")
            has = PARTS.get(field.name) or f"{field.name.replace('_', ' ')} {value}"
            raise UserError(
                f"{kind} has {has}, which no run spec can hold",
                where=draft.source.place("model_type"),
                remedy=DENSE,
            )


def _run(draft: Draft, architecture: Architecture, length: int) -> None:
    """The rest of the spec, from --gpus and --set, or from stated rules of thumb."""
    gpus = draft.options.gpus or 8
    said = "--gpus" if draft.options.gpus else "eight GPUs, one node; change it by --gpus"
    others = math.prod(
        draft.value(f"parallel.{name}_parallel", 1) for name in ("tensor", "pipeline", "context")
    )
    if gpus % others and "parallel.data_parallel" not in draft.options.overrides:
        raise UserError(
            f"{gpus} GPUs do not divide by tensor × pipeline × context parallel, together {others}",
            where="--gpus",
            remedy=f"Give a multiple of {others}.",
        )
    data = draft.assume("parallel.data_parallel", max(1, gpus // others), said)
    draft.spread(data * others, "the degrees of parallelism")
    micro = draft.assume("parallel.micro_batch_size", 1, "ours")
    share = data * micro
    batch = draft.assume(
        "optim.global_batch_size",
        math.ceil(BATCH_TOKENS / length / share) * share,
        f"ours: about {BATCH_TOKENS:,} tokens a step, as SmolLM3 had",
    )
    parameters = parameter_count(architecture)
    tokens = draft.assume(
        "optim.tokens",
        TOKENS_PER_PARAMETER * parameters,
        f"{TOKENS_PER_PARAMETER} tokens a parameter (Hoffmann et al. 2022)",
    )
    steps = draft.value("optim.steps", math.ceil(tokens / (batch * length)))
    draft.assume("optim.learning_rate", 3e-4, "ours, untuned: change it by --set")
    draft.assume(
        "optim.warmup_steps", min(2000, steps // 100), "ours: 1 % of the steps, 2,000 at most"
    )
    draft.assume("optim.decay_steps", steps // 10, "ours: a tenth of the steps")
