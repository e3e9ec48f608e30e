"""torchtitan's TOML (pytorch/torchtitan: torchtitan/config/job_config.py at v0.2.2,
torchtitan/config_manager.py at v0.1.0, and its train_configs/ of 2024 for the older names).

Since February 2026 (commit 9810191) torchtitan is configured in Python; such files are not read.
"""

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from smolplan.errors import UserError
from smolplan.importers.draft import Draft
from smolplan.importers.options import Options, usual
from smolplan.importers.result import Imported
from smolplan.importers.source import (
    Source,
    brief,
    count,
    count_or_zero,
    flatten,
    text,
)
from smolplan.importers.torchtitan_flavors import FLAVORS, NOT_HELD, Flavor
from smolplan.importers.torchtitan_models import MODELS, SAID_OF, Fields
from smolplan.importers.torchtitan_optim import DEFAULT, take_optim
from smolplan.importers.torchtitan_parallel import known_names, take_parallel

_REASONS = [
    (r"training\.dataset", "a run spec names folders of text; name yours in data.sources"),
    (r"training\.dataloader", "the trainer's loader sets itself"),
    (r"model\.(tokenizer_path|hf_assets)", "a run spec takes a tokenizer.json (data.tokenizer)"),
    (r"(quantize\.linear\.)?float8", "how fp8 is computed is the trainer's matter"),
    (r"quantize|mx\b|training\.fp8", "the trainer computes in bf16 or fp8"),
    (r"compile|training\.compile|parallelism\.enable_compiled", "the trainer compiles or not"),
    (r"checkpoint\.(initial_load|load_step|exclude|create_seed)", "a run spec starts anew"),
    (r"checkpoint", "where and how checkpoints are kept is the run directory's matter"),
    (r"(job|profiling|metrics|comm|memory_estimation|debug)\.", "logging, profiling and the like"),
    (r"fault_tolerance", "smolplan's monitor restarts a run"),
    (r"validation", "evaluation: a run spec measures bits per byte on held-out text"),
    (r"activation_checkpoint", "a run spec says none, selective or full"),
    (r"(parallelism|experimental)\.", "how the framework computes it, not what"),
    (r"training\.(gc_|deterministic)", "how the framework computes it, not what"),
    (r"training\.(mixed_precision_reduce|dtype)", "weights and sums are always fp32"),
    (r"training\.enable_cpu_offload", "the trainer keeps its state on the GPU"),
    (r"optimizer\.(implementation|fused|early_step)", "which kernel runs the optimiser"),
]

_PYTHON = re.compile(r"^\s*(from|import) torchtitan\b|\bTrainer\.Config\(", re.MULTILINE)
"""In the config_registry.py of a model (torchtitan commit 9810191 and later)."""


def recognises(content: Any) -> bool:
    """Whether parsed TOML looks like torchtitan's."""
    return isinstance(content, Mapping) and (
        isinstance(content.get("training"), Mapping)
        or (isinstance(content.get("model"), Mapping) and "flavor" in content["model"])
    )


def parse(content: str, where: str) -> Any:
    """TOML → Python. Raises UserError with the line, and for the Python that came after TOML."""
    try:
        return tomllib.loads(content)
    except (ValueError, RecursionError) as error:
        if _PYTHON.search(content):
            raise UserError(
                "torchtitan is configured in Python since February 2026, which is a program and is "
                "not run here",
                where=where,
                remedy="Name the model by model: {published: NAME} in a run spec of your own "
                "(smolplan spec presets), or import a TOML of torchtitan v0.2.2 or before.",
            ) from None
        raise UserError(f"not valid TOML: {brief(str(error))}", where=where) from None


def read(content: str, where: str, options: Options) -> Imported:
    """A torchtitan TOML as a run spec. Raises UserError."""
    source = Source(flatten(parse(content, where), where), content, where)
    draft = Draft("torchtitan", source, options)
    draft.name_run(None, "")
    draft.take(
        "seed",
        count_or_zero,
        "debug.seed",
        "training.seed",
        default=0,
        why="the run spec's default: torchtitan draws one",
    )
    _model(draft)
    take_parallel(draft)
    take_optim(draft)
    draft.take("checkpoint.every_steps", count, "checkpoint.interval", default=500, why=DEFAULT)
    _keep_last(draft)
    draft.leave_rest(_REASONS)
    return draft.finish()


def _model(draft: Draft) -> None:
    source = draft.source
    name_field, flavor_field = source.find("model.name"), source.find("model.flavor")
    name = source.read(name_field, text) if name_field else "llama3"
    if name in NOT_HELD:
        raise draft.refuse("model.name", NOT_HELD[name])
    known: dict[str, Mapping[str, object]] = {**FLAVORS, **MODELS}
    if name not in known:
        raise source.error("model.name", "no known model of torchtitan", known_names(known))
    flavors = known[name]
    if flavor_field is None:
        raise source.missing("model.flavor", "model")
    named = source.read(flavor_field, text)
    if named not in flavors:
        raise source.error("model.flavor", f"no known flavor of {name}", known_names(flavors))
    if source.find("model.norm_type") and source.get("model.norm_type") not in (
        "rmsnorm",
        "fused_rmsnorm",
        "compiled_rmsnorm",
    ):
        raise draft.refuse("model.norm_type", "the norms are not RMSNorm")
    if name in MODELS:
        _published(draft, MODELS[name][named]())
    else:
        _shape(draft, FLAVORS[name][named])
    length = draft.take("data.seq_len", count, "training.seq_len", default=2048, why=DEFAULT)
    if name == "llama3":
        draft.leave(
            "model.flavor",
            source.get("model.flavor"),
            "RoPE scaling of Llama 3.1, which v0.2 applies: a run spec scales nothing",
        )
    if name in SAID_OF:
        draft.leave("model.flavor", source.get("model.flavor"), SAID_OF[name])
    if length > 131_072 and name in FLAVORS:
        raise source.error("training.seq_len", "longer than the model's 131,072")


def _published(draft: Draft, fields: Fields) -> None:
    """Fields of a spec's model that are not what they would be anyway."""
    for name, value in flatten(fields, draft.source.where).items():
        if value != usual(f"model.{name}"):
            draft.put(f"model.{name}", value, "model.flavor")


def _shape(draft: Draft, flavor: Flavor) -> None:
    by = "model.flavor"
    draft.put("model.layers", flavor.layers, by)
    draft.put("model.hidden", flavor.dim, by)
    draft.put("model.heads", flavor.heads, by)
    draft.put("model.kv_heads", flavor.kv_heads or flavor.heads, by)
    draft.put("model.ffn_hidden", flavor.ffn_hidden, by)
    draft.put("model.vocab_size", flavor.vocab_size, by)
    draft.put("model.tied_embeddings", False, by)
    draft.put("model.rope_theta", flavor.rope_theta, by)
    draft.put("model.no_rope_every", 0, by)
    draft.put("model.intra_document_mask", flavor.document_mask, by)
    draft.put("model.norm_eps", 1e-5, by)


def _keep_last(draft: Draft) -> None:
    name = "checkpoint.keep_latest_k"
    if draft.source.find(name) is None:
        return
    kept = draft.source.read(name, count_or_zero)
    if kept < 2:
        draft.leave(name, kept, "a run spec keeps two checkpoints or more, and a number of them")
    else:
        draft.put("checkpoint.keep_last", kept, name)
