"""Megatron-LM's arguments (NVIDIA/Megatron-LM, megatron/training/arguments.py at core_v0.13.1)."""

import re

from smolplan.errors import UserError
from smolplan.importers.draft import DENSE, Draft, take_vocabulary
from smolplan.importers.options import Options
from smolplan.importers.result import Imported
from smolplan.importers.schedule import Decay, put_decay
from smolplan.importers.shell import Script, read_script
from smolplan.importers.source import Source, count, count_or_zero, number, positive, text

DEFAULT = "Megatron's default"

FLAGS = frozenset(
    {
        "--group-query-attention",
        "--swiglu",
        "--untie-embeddings-and-output-weights",
        "--disable-bias-linear",
        "--add-qkv-bias",
        "--qk-layernorm",
        "--multi-latent-attention",
        "--use-rotary-position-embeddings",
        "--apply-layernorm-1p",
        "--reset-attention-mask",
        "--bf16",
        "--fp16",
        "--recompute-activations",
        "--squared-relu",
        "--use-distributed-optimizer",
        "--use-torch-fsdp2",
        "--use-custom-fsdp",
        "--use-megatron-fsdp",
        "--is-hybrid-model",
        "--sequence-parallel",
    }
)
"""Arguments that stand alone: what follows them is not their value."""

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

_REASONS = [
    (
        r"--(data|split|mock|train-data|valid-data|test-data|blend|num-workers|dataloader)",
        "a run spec names folders of text; name yours in data.sources",
    ),
    (
        r"--(tokenizer|vocab-file|merge-file|tiktoken)",
        "a run spec takes a tokenizer.json file (data.tokenizer)",
    ),
    (
        r"--(save|load|ckpt|finetune|no-load|no-save|async-save|use-dist-ckpt)",
        "where and how checkpoints are kept is the run directory's matter",
    ),
    (
        r"--(log|tensorboard|wandb|timing|profile|exit|eval|distributed-timeout|straggler)",
        "logging, evaluation and the like",
    ),
    (
        r"--(nproc|nnodes|node-rank|master|rdzv|distributed-backend|tee|role|max-restarts)",
        "how the processes are started is the launcher's matter",
    ),
    (r"--fp8|--transformer-impl|--fp4", "the trainer computes in bf16"),
    (
        r"--(use-rope-scaling|rope-scaling|rotary-seq-len)",
        "a run spec's rotary embeddings are not scaled",
    ),
    (r"--max-position-embeddings", "the length trained on is --seq-length"),
    (r"--sequence-parallel", "smolplan counts it with tensor parallelism"),
    (
        r"--(num-layers-per-virtual|num-virtual-stages|pipeline-model-parallel-layout)",
        "a run spec's pipeline is not interleaved",
    ),
    (r"--(recompute|distribute-saved)", "a run spec says none, selective or full"),
    (r"--(moe|expert)", "the model has no experts"),
    (r"--(decoupled|lr|weight-decay|start-weight|end-weight)", "a run spec has no such schedule"),
    (
        r"--(optimizer|ddp|overlap|tp-comm|attention-backend|use-flash|no-.*fusion|use-mcore|use-cpu|"
        r"grad-reduce|manual-gc|cross-entropy|calculate-per|empty-unused|accumulate|use-legacy|"
        r"apply-layernorm|attention-softmax|masked-softmax|delay-grad|defer|no-create|no-mmap)",
        "how the framework computes it, not what",
    ),
]


def recognises(content: str) -> bool:
    """Whether a text holds Megatron's arguments."""
    return (
        re.search(r"--(num-layers|hidden-size|micro-batch-size|seq-length)\b", content) is not None
    )


def read(content: str, where: str, options: Options) -> Imported:
    """Megatron's arguments, from a script or a list of them, as a run spec. Raises UserError."""
    script = read_script(content, where)
    fields: dict[str, object] = {
        name: True if name in FLAGS else script.option(name) or True for name in script.options
    }
    source = Source(fields, content, where)
    draft = Draft("megatron", source, options)
    draft.name_run(None, "")
    draft.take("seed", count_or_zero, "--seed", default=1234, why=DEFAULT)
    for name, what in REFUSED:
        if source.find(name):
            raise draft.refuse(name, what)
    _check_kind(draft)
    _parallel(draft, script)
    _model(draft)
    _optim(draft)
    draft.take(
        "checkpoint.every_steps",
        count,
        "--save-interval",
        default=2000,
        why="the run spec's default: Megatron saves none unless asked",
    )
    draft.leave_rest(_REASONS)
    return draft.finish()


def _world(draft: Draft, script: Script) -> tuple[int, str]:
    """GPUs, and what says so: --gpus, the options of torchrun, or the usual variables."""
    if draft.options.gpus is not None:
        return draft.options.gpus, "--gpus"
    source = draft.source

    def told(option: str, *variables: str) -> tuple[int, str] | None:
        if source.find(option) and "$" not in str(source.get(option)):
            return source.read(option, count), option
        for name in variables:
            value = script.variable(name)
            if value is not None and re.fullmatch(r"\d{1,9}", script.resolve(value)):
                return int(script.resolve(value)), name
        return None

    per_node = told("--nproc-per-node", "GPUS_PER_NODE", "NPROC_PER_NODE")
    nodes = told("--nnodes", "NNODES", "NUM_NODES")
    if per_node and nodes and per_node[0] * nodes[0]:
        return per_node[0] * nodes[0], f"{per_node[1]} × {nodes[1]}"
    world = told("--world-size", "WORLD_SIZE")
    if world and world[0]:
        return world
    raise UserError(
        "the number of GPUs is nowhere told: not by --nproc-per-node and --nnodes, and not by "
        "GPUS_PER_NODE and NNODES",
        where=source.where,
        remedy="Give --gpus N.",
    )


def _parallel(draft: Draft, script: Script) -> None:
    source = draft.source
    tensor, pipeline, context = (
        draft.take(f"parallel.{name}_parallel", count, option, default=1, why=DEFAULT)
        for name, option in [
            ("tensor", "--tensor-model-parallel-size"),
            ("pipeline", "--pipeline-model-parallel-size"),
            ("context", "--context-parallel-size"),
        ]
    )
    draft.leave_if_there("--expert-model-parallel-size", "the model has no experts", unless=("1",))
    world, told_by = _world(draft, script)
    model_ranks = tensor * pipeline * context
    if world % model_ranks:
        raise UserError(
            f"{world} GPUs ({told_by}) do not divide by tensor {tensor} × pipeline {pipeline} × "
            f"context {context} parallel, together {model_ranks}",
            where=source.where,
            remedy=f"Give --gpus a multiple of {model_ranks}.",
        )
    data = draft.put(
        "parallel.data_parallel",
        world // model_ranks,
        told_by,
        "1/(tensor × pipeline × context parallel)",
    )
    draft.spread(data * model_ranks, told_by)
    micro = draft.take("parallel.micro_batch_size", count, "--micro-batch-size")
    draft.take(
        "optim.global_batch_size",
        count,
        "--global-batch-size",
        default=micro * data,
        why="Megatron's default: --micro-batch-size × data parallel",
    )
    draft.take("data.seq_len", count, "--seq-length")
    _zero_stage(draft)
    _recompute(draft)


def _zero_stage(draft: Draft) -> None:
    """The distributed optimiser shards the optimiser's state: ZeRO-1; its FSDPs more."""
    source, strategy = draft.source, "--data-parallel-sharding-strategy"
    if source.find("--use-torch-fsdp2"):
        draft.put("parallel.zero_stage", 3, "--use-torch-fsdp2")
        source.get("--use-torch-fsdp2")
        return
    fsdp = source.find("--use-megatron-fsdp", "--use-custom-fsdp")
    if fsdp:
        stages = {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3}
        named = source.read(strategy, text) if source.find(strategy) else "no_shard"
        if named not in stages:
            raise source.error(strategy, f"it is one of {', '.join(stages)}")
        draft.put("parallel.zero_stage", stages[named], strategy)
        source.get(fsdp)
        source.get("--use-distributed-optimizer")
        return
    draft.leave_if_there(strategy, "read with Megatron's FSDP alone")
    if source.get("--use-distributed-optimizer"):
        draft.put("parallel.zero_stage", 1, "--use-distributed-optimizer")
    else:
        draft.assume("parallel.zero_stage", 0, DEFAULT)


def _recompute(draft: Draft) -> None:
    source, granularity = draft.source, "--recompute-granularity"
    if source.find("--recompute-activations"):
        source.get("--recompute-activations")
        draft.put("parallel.recompute", "selective", "--recompute-activations")
    elif source.find(granularity):
        named = source.read(granularity, text)
        if named not in ("full", "selective"):
            raise source.error(granularity, "it is full or selective")
        draft.put("parallel.recompute", named, granularity)
    else:
        draft.assume("parallel.recompute", "none", DEFAULT)


def _model(draft: Draft) -> None:
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


def _check_kind(draft: Draft) -> None:
    """Megatron's defaults are GPT-2's: whatever departs from a run spec's model is refused."""
    source = draft.source
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
    return UserError(what, where=draft.source.where, remedy=DENSE)


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


def _optim(draft: Draft) -> None:
    source = draft.source
    if source.find("--optimizer") and source.read("--optimizer", text) != "adam":
        raise source.error("--optimizer", "the trainer has AdamW, which Megatron calls adam")
    draft.take("optim.beta1", number, "--adam-beta1", default=0.9, why=DEFAULT)
    draft.take("optim.beta2", number, "--adam-beta2", default=0.999, why=DEFAULT)
    draft.take("optim.eps", positive, "--adam-eps", default=1e-8, why=DEFAULT)
    draft.take("optim.weight_decay", number, "--weight-decay", default=0.01, why=DEFAULT)
    draft.take("optim.clip_norm", positive, "--clip-grad", default=1.0, why=DEFAULT)
    draft.take("optim.learning_rate", positive, "--lr")
    if source.get("--bf16"):
        draft.put("optim.precision", "bf16", "--bf16")
    elif source.get("--fp16"):
        draft.leave("--fp16", True, "taken as bf16, which is as large and as fast")
        draft.put("optim.precision", "bf16", "--fp16")
    else:
        draft.assume("optim.precision", "fp32", DEFAULT)
    _schedule(draft)


def _schedule(draft: Draft) -> None:
    """Megatron counts a schedule in iterations or in samples; samples are divided by the batch."""
    source, batch = draft.source, draft.value("optim.global_batch_size", 1)
    if source.find("--train-samples"):
        unit, per_step = "samples", batch
        steps = source.read("--train-samples", count) // batch
        if steps == 0:
            raise source.error("--train-samples", f"less than one batch of {batch}")
        steps = draft.put("optim.steps", steps, "--train-samples", "1/--global-batch-size")
    else:
        unit, per_step = "iters", 1
        steps = draft.take("optim.steps", count, "--train-iters")

    def in_steps(option: str) -> int | None:
        name = f"--{option}-{unit}"
        return source.read(name, count_or_zero) // per_step if source.find(name) else None

    end = in_steps("lr-decay")
    end = steps if end is None else end
    fraction = "--lr-warmup-fraction"
    if source.find(fraction):
        warmup = draft.put("optim.warmup_steps", int(source.read(fraction, _share) * end), fraction)
    else:
        told = in_steps("lr-warmup")
        name = f"--lr-warmup-{unit}"
        warmup = (
            draft.assume("optim.warmup_steps", 0, DEFAULT)
            if told is None
            else draft.put("optim.warmup_steps", told, name)
        )
    style = source.read("--lr-decay-style", text) if source.find("--lr-decay-style") else "linear"
    if style == "constant":
        draft.put("optim.decay_steps", 0, "--lr-decay-style")
        draft.leave_if_there("--min-lr", "the learning rate is constant")
        return
    start, length_source = warmup, f"--lr-decay-{unit}"
    shape, shape_source = style, "--lr-decay-style"
    if style == "WSD":
        length_source, shape_source = f"--lr-wsd-decay-{unit}", "--lr-wsd-decay-style"
        last = in_steps("lr-wsd-decay")
        if last is None:
            raise source.missing(length_source, "optim.decay_steps")
        start = max(warmup, end - last)
        shape = source.read(shape_source, text) if source.find(shape_source) else "exponential"
    floor = source.read("--min-lr", number) if source.find("--min-lr") else 0.0
    decay = Decay(start, max(0, end - start), shape, floor, length_source, shape_source, "--min-lr")
    put_decay(draft, steps, decay)


def _share(value: object) -> float:
    share = number(value)
    if not 0 <= share <= 1:
        raise ValueError("a share lies between 0 and 1")
    return share
