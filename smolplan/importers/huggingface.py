"""A Hugging Face config.json: the model, and the tokeniser beside it; the rest is assumed, and says
so."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.architecture import Architecture, shortest_pattern
from planner.hf_config import read_hf_config
from planner.params import active_parameter_count
from smolplan.errors import UserError
from smolplan.importers.draft import HELD, Draft
from smolplan.importers.huggingface_model import at_its_line, take_model
from smolplan.importers.options import Options
from smolplan.importers.result import Imported
from smolplan.importers.source import Source, flatten, number
from smolplan.units import count_of

TOKENS_PER_PARAMETER = 20
"""Compute-optimal for dense models: Hoffmann et al. 2022, arXiv 2203.15556."""

BATCH_TOKENS = 2**21
"""About 2M tokens a step, as SmolLM3 had (2.36M: Smol Training Playbook, 2025)."""

ROUTING = "how the router chooses and is trained, beyond model.experts"

_REASONS = [
    (r"rope_scaling|rope_parameters", "of the scalings a run spec has YaRN alone, by its rule"),
    (r"\w+_token_id", "the tokeniser's matter"),
    (r"(torch_)?dtype", "the type of the stored weights; the run computes in optim.precision"),
    (
        r"architectures|transformers_version|_name_or_path|auto_map|model_type",
        "names the model's class",
    ),
    (r"use_cache|pretraining_tp|_\w+", "how the framework computes it, not what"),
    (r"max_position|max_window", "the length trained on is data.seq_len"),
    (r"(router|aux|seq_aux|norm_topk|topk|n_group|scoring|routed_scaling|output_router)", ROUTING),
    (r"\w*_multiplier|\w+_scaling\b|scale_\w+", "a run spec scales no activations"),
    (r"partial_rotary_factor|rotary_pct", "a run spec rotates all of a head"),
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
    config = parse(content, where)
    source = Source(flatten(config, where), content, where)
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
    take_model(draft, architecture, config)
    if options.starts_from is not None:
        draft.put("model.init_from", str(options.starts_from), "the folder")
    # Not resolved: in a cache of the hub's each file is a link into another folder.
    tokenizer = path.absolute().with_name("tokenizer.json")
    if tokenizer.is_file():
        draft.put("data.tokenizer", str(tokenizer), "the tokenizer.json beside it")
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
        raise at_its_line(source, error.what or "", HELD if error.remedy else "") from None


def _without_idle_window(draft: Draft, architecture: Architecture, length: int) -> Architecture:
    """A window no shorter than the sequence changes nothing."""
    window, name = architecture.window, "sliding_window"
    if window is None or window < length or architecture.layer_pattern is None:
        return architecture
    draft.source.get(name)
    draft.leave(name, window, "the window is no shorter than data.seq_len")
    pattern = architecture.layer_pattern.replace("W", "A").replace("w", "a")
    return replace(
        architecture, window=None, windowed_layers=0, layer_pattern=shortest_pattern(pattern)
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
            f"tensor × pipeline × context parallel, together {others}, does not divide "
            f"{count_of(gpus, 'GPU')}",
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
    parameters = active_parameter_count(architecture)
    tokens = draft.assume(
        "optim.tokens",
        TOKENS_PER_PARAMETER * parameters,
        f"{TOKENS_PER_PARAMETER} tokens a parameter that a token uses (Hoffmann et al. 2022)",
    )
    steps = draft.value("optim.steps", math.ceil(tokens / (batch * length)))
    draft.assume("optim.learning_rate", 3e-4, "ours, untuned: change it by --set")
    draft.assume(
        "optim.warmup_steps", min(2000, steps // 100), "ours: 1 % of the steps, 2,000 at most"
    )
    draft.assume("optim.decay_steps", steps // 10, "ours: a tenth of the steps")
