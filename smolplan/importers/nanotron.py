"""nanotron's YAML (huggingface/nanotron, src/nanotron/config/, read at commit 2411b02)."""

from collections.abc import Mapping
from typing import Any

import yaml

from planner.architecture import shortest_pattern
from smolplan.errors import UserError
from smolplan.importers.draft import Draft, take_vocabulary
from smolplan.importers.nanotron_experts import take_experts
from smolplan.importers.nanotron_optim import DEFAULT, take_optim
from smolplan.importers.options import Options
from smolplan.importers.result import Imported
from smolplan.importers.source import (
    Source,
    brief,
    count,
    count_or_zero,
    flag,
    flatten,
    number,
    positive,
)
from smolplan.units import count_of

_MODEL = "model.model_config."

_REASONS = [
    (r"data_stages", "not taken over: name your text in data.sources, mixtures in data.stages"),
    (r"s3_upload", "where yours go is to be said: checkpoint.upload_to"),
    (r"lighteval", "evaluation tasks: a run spec measures bits per byte on held-out text"),
    (r"tokens\.(val|limit)", "evaluation: a run spec measures bits per byte on held-out text"),
    (r"tokenizer", "a run spec takes a tokenizer.json file (data.tokenizer)"),
    (r"checkpoints\.(resume|load)", "the trainer goes on from the newest checkpoint of its run"),
    (r"checkpoints", "where and how checkpoints are kept is the run directory's matter"),
    (r"(logging|metrics_logging|profiler|general\.benchmark)", "logging and profiling"),
    (r"general\.(step|consumed)", "the state of a run, not its description"),
    (r"general", "names and checks of the framework"),
    (r"model\.init_method\.path", "the run starts from a checkpoint: a run spec starts anew"),
    (r"model\.init_method", "the trainer draws all matrices with model.init_std"),
    (r"model\.model_config\.initializer_range", "nanotron reads model.init_method.std"),
    (r"model\.model_config\.max_position", "the length trained on is tokens.sequence_length"),
    (r"model\.model_config\.\w+_token_id", "the tokeniser's matter"),
    (
        r"model\.ddp_bucket|model\.model_config\.(_attn_impl|_fused|_use_qkv_packed|ring_attn|log_attn"
        r"|pretraining_tp|use_cache|is_\w+_config|rope_interleaved)",
        "how the framework computes it, not what",
    ),
    (r"parallelism\.tp_mode", "how tensor parallelism communicates: smolplan always does it so"),
    (r"parallelism\.(pp_engine|tp_|moe_layer)", "how the framework computes it, not what"),
    (r"optimizer\.optimizer_factory", "which kernel runs the optimiser"),
]


def recognises(content: Any) -> bool:
    """Whether parsed YAML looks like nanotron's."""
    return isinstance(content, Mapping) and (
        (isinstance(content.get("model"), Mapping) and "model_config" in content["model"])
        or {"parallelism", "tokens"} <= content.keys()
    )


def parse(content: str, where: str) -> Any:
    """YAML → Python. Raises UserError with the line."""
    try:
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"not valid YAML: {problem}", where=where + line) from None
    except (
        *(ValueError, TypeError, LookupError, AttributeError),
        *(RecursionError, OverflowError),
    ) as error:  # how PyYAML's constructors end on a date or a tagged scalar that is none
        raise UserError(f"not valid YAML: {brief(str(error))}", where=where) from None


def read(content: str, where: str, options: Options) -> Imported:
    """A nanotron YAML as a run spec. Raises UserError."""
    source = Source(flatten(parse(content, where), where), content, where)
    draft = Draft("nanotron", source, options)
    draft.name_run(source.get("general.run"), "general.run")
    draft.take("seed", count_or_zero, "general.seed", default=42, why=DEFAULT)
    _parallel(draft)
    _model(draft)
    take_optim(draft)
    draft.take(
        "checkpoint.every_steps",
        count,
        "checkpoints.checkpoint_interval",
        default=2000,
        why="the file saves no checkpoints",
    )
    _data_stages(draft)
    draft.leave_rest(_REASONS)
    return draft.finish()


def _recompute(value: Any) -> str:
    return "full" if flag(value) else "none"


def _parallel(draft: Draft) -> None:
    source = draft.source
    data, tensor, pipeline = (
        draft.take(f"parallel.{name}", count, f"parallelism.{short}")
        for name, short in [
            ("data_parallel", "dp"),
            ("tensor_parallel", "tp"),
            ("pipeline_parallel", "pp"),
        ]
    )
    context = draft.take(
        "parallel.context_parallel",
        count,
        "parallelism.context_parallel_size",
        default=1,
        why=DEFAULT,
    )
    draft.take(
        "parallel.expert_parallel",
        count,
        "parallelism.expert_parallel_size",
        default=1,
        why=DEFAULT,
    )
    degrees = ["parallelism.dp", "parallelism.tp", "parallelism.pp"]
    if context > 1:
        degrees.append("parallelism.context_parallel_size")
    draft.spread(data * tensor * pipeline * context, *degrees)
    draft.take(
        "parallel.recompute", _recompute, "parallelism.recompute_layer", default="none", why=DEFAULT
    )
    micro = draft.take("parallel.micro_batch_size", count, "tokens.micro_batch_size")
    accumulation = source.find("tokens.batch_accumulation_per_replica")
    if accumulation is None:
        if "optim.global_batch_size" not in draft.options.overrides:
            raise source.missing("tokens.batch_accumulation_per_replica", "optim.global_batch_size")
        times = 1
    else:
        times = source.read(accumulation, count)
    draft.put(
        "optim.global_batch_size",
        micro * times * data,
        "tokens.micro_batch_size",
        "tokens.batch_accumulation_per_replica",
        "parallelism.dp",
    )
    draft.take("data.seq_len", count, "tokens.sequence_length")


def _model(draft: Draft) -> None:
    source = draft.source
    if source.find(_MODEL + "is_starcoder2_config"):
        raise draft.refuse(_MODEL + "is_starcoder2_config", "it has LayerNorm, biases and GELU")
    draft.leave_if_there(
        _MODEL + "hidden_act",
        "a run spec says that there is a gate, not which function",
        unless=("silu", "swish"),
    )
    biases = _MODEL + "attention_bias"
    if source.find(biases) and source.read(biases, flag):
        if not source.get(_MODEL + "is_qwen2_config"):
            raise draft.refuse(biases, "read for Qwen2 models alone, as nanotron's Llama has none")
        draft.put("model.qkv_bias", True, biases)
    layers = draft.take("model.layers", count, _MODEL + "num_hidden_layers")
    draft.take("model.hidden", count, _MODEL + "hidden_size")
    heads = draft.take("model.heads", count, _MODEL + "num_attention_heads")
    draft.take(
        "model.kv_heads",
        count,
        _MODEL + "num_key_value_heads",
        default=heads,
        why="nanotron's default: as many as query heads",
    )
    draft.take("model.ffn_hidden", count, _MODEL + "intermediate_size")
    _vocabulary(draft)
    draft.take(
        "model.tied_embeddings", flag, _MODEL + "tie_word_embeddings", default=False, why=DEFAULT
    )
    draft.take("model.rope_theta", positive, _MODEL + "rope_theta", default=10_000.0, why=DEFAULT)
    draft.take(
        "model.no_rope_every",
        count,
        _MODEL + "no_rope_layer",
        default=0,
        why="nanotron's default: rotary embedding in every layer",
    )
    draft.take(
        "model.intra_document_mask", flag, _MODEL + "_use_doc_masking", default=False, why=DEFAULT
    )
    draft.take("model.norm_eps", positive, _MODEL + "rms_norm_eps", default=1e-6, why=DEFAULT)
    draft.take(
        "model.init_std",
        positive,
        "model.init_method.std",
        default=0.02,
        why="the run spec's default",
    )
    take_experts(draft, layers)
    _z_loss(draft)
    _window(draft, layers)
    draft.leave_if_there("model.init_method.use_mup", "muP: a run spec has one learning rate")
    for name in ("rope_scaling", "rope_seq_len_interpolation_factor"):
        draft.leave_if_there(_MODEL + name, "a run spec's rotary embeddings are not scaled")
    for name, value in list(source.unused()):
        if name.startswith(_MODEL + "rope_scaling."):
            source.get(name)
            draft.leave(name, value, "a run spec's rotary embeddings are not scaled")


def _vocabulary(draft: Draft) -> None:
    divisor = draft.source.find("model.make_vocab_size_divisible_by")
    multiple = draft.source.read(divisor, count) if divisor else 1
    take_vocabulary(
        draft,
        _MODEL + "vocab_size",
        multiple,
        "model.make_vocab_size_divisible_by × parallelism.tp",
    )


def _z_loss(draft: Draft) -> None:
    source, switch, weight = draft.source, _MODEL + "z_loss_enabled", _MODEL + "z_loss_coefficient"
    on = source.find(switch) is not None and source.read(switch, flag)
    if on:
        draft.take("model.z_loss", number, weight, default=1e-4, why=DEFAULT)
    else:
        draft.leave_if_there(weight, "the z-loss is off")
        if source.find(switch):
            draft.put("model.z_loss", 0.0, switch)
        else:
            draft.assume("model.z_loss", 0.0, DEFAULT)


def _window(draft: Draft, layers: int) -> None:
    """Of all layers but those without a rotary embedding (src/nanotron/models/qwen.py)."""
    source, name = draft.source, _MODEL + "sliding_window_size"
    if source.find(name) is None:
        return
    size, length = source.read(name, count), draft.value("data.seq_len", 0)
    if size >= length:
        draft.leave(name, size, "the window is no shorter than the sequence")
        return
    every = draft.value("model.no_rope_every", 0)
    kinds = "".join("A" if every and (i + 1) % every == 0 else "W" for i in range(layers))
    if "W" not in kinds:
        draft.leave(name, size, "nanotron gives layers without a rotary embedding no window")
        return
    draft.put("model.window", size, name)
    draft.put("model.layer_pattern", shortest_pattern(kinds), name)


def _data_stages(draft: Draft) -> None:
    stages = draft.source.get("data_stages")
    if not isinstance(stages, list):
        return
    why = "not taken over: name your text in data.sources, and its mixtures in data.stages"
    draft.leave("data_stages", count_of(len(stages), "stage"), why)
    for i, stage in enumerate(stages[:100]):
        fields = flatten(stage, draft.source.where) if isinstance(stage, Mapping) else {}
        folders = fields.get("data.dataset.dataset_folder")
        weights = fields.get("data.dataset.dataset_weights")
        datasets = len(folders) if isinstance(folders, list) else int(folders is not None)
        told = f"{brief(fields.get('name', 'unnamed'))}: from step " + (
            f"{brief(fields.get('start_training_step'))}, {count_of(datasets, 'dataset')}, "
            f"{len(weights) if isinstance(weights, list) else 'no'} weights"
        )
        if fields.get("sequence_length") is not None:
            told += f", sequences of {brief(fields['sequence_length'])}"
        draft.leave(f"data_stages.{i}", told, why)
