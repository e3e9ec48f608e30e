"""torchtitan's degrees of parallelism, its pipeline and its batch (the parallelism and training
sections, and pipeline_llm of torchtitan/distributed/pipeline_parallel.py, at v0.2.2)."""

import re
from collections.abc import Mapping
from typing import Any

from smolplan.errors import UserError
from smolplan.importers.draft import Draft
from smolplan.importers.source import count, count_or_zero, text, whole
from smolplan.importers.torchtitan_optim import DEFAULT
from smolplan.units import count_of

_PRESET_COMMENT = re.compile(r"preset for (\d{1,7}) (\w+) GPUs")
"""In the comment that opens torchtitan's own files: a preset for 64 A100 GPUs."""


def take_parallel(draft: Draft) -> None:
    source = draft.source
    tensor, pipeline, context = (
        draft.take(f"parallel.{name}_parallel", count, *fields, default=1, why=DEFAULT)
        for name, fields in [
            ("tensor", ("parallelism.tensor_parallel_degree", "training.tensor_parallel_degree")),
            (
                "pipeline",
                (
                    "parallelism.pipeline_parallel_degree",
                    "experimental.pipeline_parallel_degree",
                    "training.pipeline_parallel_degree",
                ),
            ),
            (
                "context",
                ("parallelism.context_parallel_degree", "experimental.context_parallel_degree"),
            ),
        ]
    )
    expert = "parallelism.expert_parallel_degree"
    if draft.value("model.experts.routed", 0):
        draft.take("parallel.expert_parallel", count, expert, default=1, why=DEFAULT)
    else:
        draft.leave_if_there(expert, "the model has no experts", unless=(1,))
    replicate_field = source.find(
        "parallelism.data_parallel_replicate_degree", "training.data_parallel_replicate_degree"
    )
    shard_field = source.find(
        "parallelism.data_parallel_shard_degree",
        "training.data_parallel_shard_degree",
        "training.data_parallel_degree",
    )
    replicate = source.read(replicate_field, count) if replicate_field else 1
    shard = source.read(shard_field, _degree) if shard_field else -1
    others = replicate * tensor * pipeline * context
    wanted = draft.options.overrides.get("parallel.data_parallel")
    if wanted is not None:
        shard = max(1, wanted // replicate)
    elif shard == -1:
        shard = _rest(draft, others, shard_field or "data_parallel_shard_degree")
    names = [name for name in (replicate_field, shard_field) if name]
    if not names:
        names = ["what the other degrees leave of the GPUs"]
    data = draft.put("parallel.data_parallel", replicate * shard, *names)
    draft.spread(data * tensor * pipeline * context, "the product of the degrees")
    _zero_stage(draft, shard, pipeline, context)
    if replicate > 1 and shard * context > 1 and replicate_field:
        draft.put("parallel.shard_group", shard * context, shard_field or "what is left")
    _stages(draft, pipeline)
    _batch(draft, data, pipeline)


def _stages(draft: Draft, pipeline: int) -> None:
    """pipeline_llm of distributed/pipeline_parallel.py: virtual stages, and which schedule."""
    source, layers = draft.source, draft.value("model.layers", 1)
    name = source.find(
        "parallelism.pipeline_parallel_schedule", "experimental.pipeline_parallel_schedule"
    )
    each = "parallelism.pipeline_parallel_layers_per_stage"
    if pipeline == 1:
        source.get(each)
        return
    kind = source.read(name, text) if name else "1F1B"
    known = SCHEDULES.get(kind.lower())
    if known is None:
        raise source.error(name or each, "no known schedule", known_names(SCHEDULES))
    schedule, virtual = known
    if virtual > 1 and source.find(each):
        # Embedding and head count as a layer each, unless the file says otherwise.
        less = sum(
            source.read(field, count_or_zero) if source.find(field) else 1
            for field in (
                "parallelism.pipeline_parallel_first_stage_less_layers",
                "parallelism.pipeline_parallel_last_stage_less_layers",
            )
        )
        parts = -(-(layers + less) // source.read(each, count))
        if parts % pipeline or parts < 2 * pipeline:
            raise source.error(each, f"{parts} virtual stages on {pipeline} ranks")
        virtual = parts // pipeline
    else:
        source.get(each)
    if virtual > 1:
        draft.put("parallel.virtual_pipeline", virtual, each if source.find(each) else name or "")
    if schedule == "zero-bubble" and name:
        draft.put("parallel.schedule", schedule, name)
    elif kind.lower() == "gpipe" and name:
        draft.leave(name, kind, "taken as 1F1B, whose bubble is as large")
    if layers % (pipeline * virtual):
        draft.put("parallel.uneven_stages", True, "stages differ by a layer")


SCHEDULES = {
    "1f1b": ("1f1b", 1),
    "gpipe": ("1f1b", 1),
    "interleaved1f1b": ("interleaved", 2),
    "loopedbfs": ("interleaved", 2),
    "interleavedzerobubble": ("zero-bubble", 2),
    "zbvzerobubble": ("zero-bubble", 2),
    "dualpipev": ("zero-bubble", 2),
}
"""Of torch.distributed.pipelining, in lower case → the spec's, and virtual stages of a rank unless
the layers of a stage are given."""


def _degree(value: Any) -> int:
    degree = whole(value)
    if degree != -1 and degree < 1:
        raise ValueError("a degree is above zero, or -1 for what is left of the GPUs")
    return degree


def _rest(draft: Draft, others: int, name: str) -> int:
    """GPUs / all other degrees, where the shard degree is -1."""
    source, gpus = draft.source, draft.options.gpus
    if gpus is None:
        said = _PRESET_COMMENT.search(source.content)
        if said is None or int(said[1]) == 0:
            raise UserError(
                f"{name} is -1: the rest of the GPUs, of which the file gives no number",
                where=source.place(name),
                remedy="Give --gpus N.",
            )
        why = "the file's own comment (preset for …); change it by --gpus"
        draft.assume("cluster.gpu", said[2].lower(), why)
        gpus = int(said[1])
    if gpus % others:
        raise source.error(
            name,
            f"the other degrees, together {others}, do not divide {count_of(gpus, 'GPU')}",
            f"Give --gpus a multiple of {others}.",
        )
    return gpus // others


def _zero_stage(draft: Draft, shard: int, pipeline: int, context: int) -> None:
    """FSDP over the shard and context ranks; without either, DDP (models/llama3/infra)."""
    name = "parallelism.fsdp_reshard_after_forward"
    policy = draft.source.read(name, text) if draft.source.find(name) else "default"
    if policy not in ("default", "always", "never"):
        raise draft.source.error(name, "it is default, always or never")
    if shard == 1 and context == 1:
        draft.put("parallel.zero_stage", 0, "data_parallel_shard_degree (1: not sharded)")
    elif policy == "never" or (policy == "default" and pipeline > 1):
        draft.put("parallel.zero_stage", 2, f"{name} ({policy})")
    else:
        draft.put("parallel.zero_stage", 3, f"{name} ({policy})")


def _batch_size(value: Any) -> int:
    size = whole(value)
    if size != -1 and size < 1:
        raise ValueError("a batch is above zero, or -1 for one local batch a replica")
    return size


def _batch(draft: Draft, data: int, pipeline: int) -> None:
    source = draft.source
    local_field = source.find("training.local_batch_size", "training.batch_size")
    local = source.read(local_field, count) if local_field else 8
    local_name = local_field or "local_batch_size (torchtitan's default)"
    micro_field = "parallelism.pipeline_parallel_microbatch_size"
    if pipeline > 1:
        draft.take("parallel.micro_batch_size", count, micro_field, default=1, why=DEFAULT)
    else:
        source.get(micro_field)
        draft.put("parallel.micro_batch_size", local, local_name)
    total_field = source.find("training.global_batch_size")
    total = source.read(total_field, _batch_size) if total_field else -1
    if total == -1:
        draft.put("optim.global_batch_size", local * data, local_name, "data parallel")
        return
    assert total_field is not None
    if total % (local * data):
        raise source.error(
            total_field,
            f"it does not divide by {local_name} {local} × data parallel {data}",
            f"Use a multiple of {local * data}.",
        )
    draft.put("optim.global_batch_size", total, total_field)


def known_names(names: Mapping[str, object]) -> str:
    return "Known: " + ", ".join(names) + "."
