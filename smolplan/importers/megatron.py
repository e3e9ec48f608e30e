"""Megatron-LM's arguments (NVIDIA/Megatron-LM, megatron/training/arguments.py at core_v0.13.1)."""

import re
from dataclasses import dataclass

from smolplan.errors import UserError
from smolplan.importers.draft import Draft
from smolplan.importers.megatron_model import check_kind, take_model
from smolplan.importers.megatron_optim import DEFAULT, take_optim
from smolplan.importers.megatron_parts import parts_of_a_stage
from smolplan.importers.options import Options
from smolplan.importers.result import Imported
from smolplan.importers.shell import Script, read_script
from smolplan.importers.source import Source, count, count_or_zero, text
from smolplan.units import count_of

FLAGS = frozenset(
    {
        "--group-query-attention",
        "--swiglu",
        "--quick-geglu",
        "--untie-embeddings-and-output-weights",
        "--disable-bias-linear",
        "--add-qkv-bias",
        "--qk-layernorm",
        "--multi-latent-attention",
        "--use-rotary-position-embeddings",
        "--no-position-embedding",
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
        "--moe-router-enable-expert-bias",
        "--moe-shared-expert-gate",
        "--moe-grouped-gemm",
        "--account-for-embedding-in-pipeline-split",
        "--account-for-loss-in-pipeline-split",
    }
)
"""Arguments that stand alone: what follows them is not their value."""

_REASONS = [
    (
        r"--(data|split|mock|train-data|valid-data|test-data|blend|num-workers|dataloader)",
        "name your text, or the NAME.bin that was made of it, in data.sources",
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
    (r"--fp8", "how fp8 is computed is the trainer's matter"),
    (r"--transformer-impl|--fp4", "the trainer computes in bf16 or fp8"),
    (
        r"--(use-rope-scaling|rope-scaling|rotary-seq-len)",
        "a run spec's rotary embeddings are not scaled",
    ),
    (r"--max-position-embeddings", "the length trained on is --seq-length"),
    (r"--sequence-parallel", "smolplan counts it with tensor parallelism"),
    (r"--(recompute|distribute-saved)", "a run spec says none, selective or full"),
    (r"--(moe|expert)", "how experts are routed and computed, beyond model.experts"),
    (r"--(mtp|mla|cache-mla)", "how the framework computes it, not what"),
    (r"--mamba", "the model has no Mamba-2 layers"),
    (r"--(q-lora|kv-lora|qk-head|qk-pos|v-head)", "the model has no latent attention"),
    (
        r"--(squared-relu|glu-linear|activation-func)",
        "a run spec says whether there is a gate, not which function",
    ),
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
    check_kind(draft)
    _parallel(draft, script)
    take_model(draft)
    _stages(draft)
    take_optim(draft)
    draft.take(
        "checkpoint.every_steps",
        count,
        "--save-interval",
        default=2000,
        why="the run spec's default: Megatron saves none unless asked",
    )
    draft.leave_rest(_REASONS)
    return draft.finish()


@dataclass(frozen=True)
class World:
    """GPUs of the run, and of a node where that is told, each with what says so."""

    gpus: int
    told_by: str
    per_node: tuple[int, str] | None


def _world(draft: Draft, script: Script) -> World:
    """From --gpus, the options of torchrun, or the usual variables. Raises UserError."""
    source = draft.source

    def told(option: str, *variables: str) -> tuple[int, str] | None:
        if source.find(option) and "$" not in str(source.get(option)):
            return source.read(option, count), option
        for name in variables:
            value = script.resolve(script.variable(name) or "")
            if re.fullmatch(r"\d{1,9}", value) and int(value):
                return int(value), name
        return None

    per_node = told("--nproc-per-node", "GPUS_PER_NODE", "NPROC_PER_NODE")
    nodes = told("--nnodes", "NNODES", "NUM_NODES")
    if draft.options.gpus is not None:
        return World(draft.options.gpus, "--gpus", per_node)
    if per_node and nodes:
        return World(per_node[0] * nodes[0], f"{per_node[1]} × {nodes[1]}", per_node)
    if world := told("--world-size", "WORLD_SIZE"):
        return World(*world, per_node)
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
    expert = "--expert-model-parallel-size"
    if source.find("--num-experts"):
        draft.take("parallel.expert_parallel", count, expert, default=1, why=DEFAULT)
    else:
        draft.leave_if_there(expert, "the model has no experts", unless=("1",))
    world = _world(draft, script)
    model_ranks = tensor * pipeline * context
    if world.gpus % model_ranks:
        raise UserError(
            f"tensor {tensor} × pipeline {pipeline} × context {context} parallel, together "
            f"{model_ranks}, does not divide {count_of(world.gpus, 'GPU')} ({world.told_by})",
            where=source.where,
            remedy=f"Give --gpus a multiple of {model_ranks}.",
        )
    data = draft.put(
        "parallel.data_parallel",
        world.gpus // model_ranks,
        world.told_by,
        "1/(tensor × pipeline × context parallel)",
    )
    draft.spread(data * model_ranks, world.told_by, per_node=world.per_node)
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
    _shard_group(draft, data * context)
    _recompute(draft)


UNEVEN = (
    "--decoder-first-pipeline-num-layers",
    "--decoder-last-pipeline-num-layers",
    "--account-for-embedding-in-pipeline-split",
    "--account-for-loss-in-pipeline-split",
    "--pipeline-model-parallel-layout",
)


def _stages(draft: Draft) -> None:
    """After the model: how its layers are cut into stages."""
    source, pipeline = draft.source, draft.value("parallel.pipeline_parallel", 1)
    uneven = [name for name in UNEVEN if source.find(name)]
    parts = parts_of_a_stage(draft, draft.value("model.layers", 1), pipeline)
    if parts is not None and parts[0] > 1:
        draft.put("parallel.virtual_pipeline", *parts)
    if uneven:
        draft.put("parallel.uneven_stages", True, uneven[0])
    for name in uneven:
        draft.leave(name, source.get(name), "a run spec does not say how stages differ")


def _shard_group(draft: Draft, replicas: int) -> None:
    """Instances of the distributed optimiser are replicas of one another."""
    name = "--num-distributed-optimizer-instances"
    if draft.source.find(name) is None:
        return
    instances = draft.source.read(name, count)
    if replicas % instances:
        raise draft.source.error(name, f"it does not divide {replicas} replicas")
    if instances > 1:
        draft.put("parallel.shard_group", replicas // instances, name)


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
