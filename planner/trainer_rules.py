"""Which layouts the bundled trainer runs: RunSpec.unsupported_by_trainer, on arrays of them."""

from planner.legality import Columns, Job, Mask, Rule, name_of
from planner.memory import Layout
from planner.restrict import ONE_F_ONE_B, ZERO_BUBBLE
from smolplan.spec import fp8
from smolplan.units import count_of


def _fails_pipeline(job: Job, c: Columns) -> Mask:
    pieces, stages = c["gradient_accumulation"], c["pipeline_parallel"]
    uneven = (c["schedule"] != ONE_F_ONE_B) & (pieces % stages > 0)
    fails: Mask = (pieces < stages) | uneven
    return fails


def _fails_sequence(job: Job, c: Columns) -> Mask:
    tp, cp = c["tensor_parallel"], c["context_parallel"]
    # One half of a context-parallel rank's share is from the beginning, one from the end.
    fails: Mask = (job.seq_len % (cp * tp) > 0) | ((cp > 1) & (job.seq_len % (2 * cp) > 0))
    return fails


def _recurrent_heads(job: Job) -> list[tuple[int, int]]:
    """Heads of each kind of recurrent layer, and groups of them that share something."""
    arch = job.architecture
    found = [] if arch.mamba is None else [(arch.mamba.heads, arch.mamba.groups)]
    if arch.delta_net is not None:
        found.append((arch.delta_net.value_heads, arch.delta_net.key_heads))
    return found


def _fails_recurrence(job: Job, c: Columns) -> Mask:
    ranks = c["tensor_parallel"] * c["context_parallel"]
    fails: Mask = ranks < 0
    for heads, groups in _recurrent_heads(job):
        fails = fails | (heads % ranks > 0) | ((groups % ranks > 0) & (ranks % groups > 0))
    return fails


def _fails_experts(job: Job, c: Columns) -> Mask:
    tp, ep = c["tensor_parallel"], c["expert_parallel"]
    moe = job.architecture.moe
    if moe is None:
        none: Mask = ep < 0
        return none
    undivided = (moe.expert_ffn_hidden % tp > 0) | (moe.shared_width % tp > 0)
    replicas, group = c["data_parallel"] * c["context_parallel"], c["shard_group"]
    shards = (c["zero_stage"] > 0) * (group + (group == 0) * replicas - 1) + 1
    each = shards // ep
    each = each + (each == 0)
    misfit = (shards % ep > 0) & (ep % shards > 0)
    hidden, inner = job.architecture.hidden, moe.expert_ffn_hidden // tp
    fits = (moe.routed_experts // ep % each == 0) | (hidden % each == 0) | (inner % each == 0)
    twice = c["schedule"] == ZERO_BUBBLE
    fails: Mask = undivided | twice | ((ep > 1) & (misfit | ~fits))
    return fails


def _fails_fp8(job: Job, c: Columns) -> Mask:
    shares = c["context_parallel"] * c["tensor_parallel"]
    tokens = c["micro_batch_size"] * job.seq_len // shares
    fails: Mask = (c["schedule"] == ZERO_BUBBLE) | (tokens % fp8.SIDES > 0)
    return fails & job.fp8


def _told_pipeline(job: Job, one: Layout) -> str:
    batches = count_of(int(one.gradient_accumulation), "micro-batch")
    return f"{batches} on PP {one.pipeline_parallel}"


TRAINER_RULES = (
    Rule(
        "the bundled trainer runs ZeRO-0, 2 and 3",
        lambda job, c: c["zero_stage"] == 1,
        lambda job, c: c["data_parallel"],
        lambda job, one: f"{name_of(one)}: 2 holds less and sends as much",
    ),
    Rule(
        "its pipelines take as many micro-batches as stages, or a multiple of them",
        _fails_pipeline,
        lambda job, c: c["pipeline_parallel"],
        _told_pipeline,
    ),
    Rule(
        "it shares a sequence out evenly",
        _fails_sequence,
        lambda job, c: c["context_parallel"] * c["tensor_parallel"],
        lambda job, one: (
            f"{job.seq_len:,} tokens on CP {one.context_parallel} × TP {one.tensor_parallel}"
        ),
    ),
    Rule(
        "it shares recurrent layers' heads out evenly",
        _fails_recurrence,
        lambda job, c: c["context_parallel"] * c["tensor_parallel"],
        lambda job, one: (
            f"{', '.join(f'{heads} heads in {groups}' for heads, groups in _recurrent_heads(job))} "
            f"on CP {one.context_parallel} × TP {one.tensor_parallel}"
        ),
    ),
    Rule(
        "it shares experts out evenly, and goes through their routers once",
        _fails_experts,
        lambda job, c: c["expert_parallel"] * c["tensor_parallel"],
        lambda job, one: name_of(one),
    ),
    Rule(
        "its fp8 knows no zero-bubble, and takes tokens by sixteens",
        _fails_fp8,
        lambda job, c: c["context_parallel"] * c["tensor_parallel"],
        lambda job, one: name_of(one),
    ),
)
