"""The plan that a run is launched with: what is expected of it, for all later parts to read."""

from pydantic import BaseModel, ConfigDict

from planner.architecture import architecture_of
from planner.catalog import find_gpu
from planner.explain import Line
from planner.flops import flops_per_token
from planner.memory import (
    BUNDLED_TRAINER,
    BUNDLED_TRAINER_ON_CPU,
    FP32_STATE,
    GENERIC,
    MUON_STATE,
    layout_of,
    memory_lines,
    state_lines,
)
from planner.memory.trainer import is_counted, trainer_memory_lines
from planner.number_format import peak_flops
from planner.params import parameter_count
from planner.search import candidate_of
from planner.site import job_of, site_of
from planner.stalls import Storage
from planner.storage import CHECKPOINT_BYTES_PER_PARAM, checkpoint_bytes, muon_parameters
from smolplan.errors import UserError
from smolplan.spec import RunSpec
from smolplan.units import count_of

__all__ = ["CHECKPOINT_BYTES_PER_PARAM", "Plan", "make_plan"]


class Plan(BaseModel):
    """What stands in RUN/plan.json. The trainer reads flops_per_token and peak_flops_per_gpu."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spec_hash: str
    params: int
    flops_per_token: float
    """Model FLOPs, forward and backward, causal attention: the numerator of MFU."""
    peak_flops_per_gpu: float | None
    """FLOP/s, dense, by the datasheet, in bf16, or in fp8 where the run computes in it: the
    denominator of MFU. None on a CPU."""
    gpus: int
    steps: int
    tokens: int
    global_batch_tokens: int
    tokens_per_s: float | None = None
    """Throughput of all GPUs in the spec's own layout, as `smolplan plan` prices it. None on a CPU,
    and for a GPU whose links nobody knows."""
    checkpoint_bytes: int
    state_bytes_per_rank: int
    """Weights, gradients and optimiser state in fp32, as the layout shards them."""
    memory_per_rank_bytes: int
    """The peak, with activations and logits: of the bundled trainer where its account covers the
    spec, else of the layout in general; without the framework's own (planner/memory/)."""
    memory_lines: tuple[Line, ...]
    gpu_memory_bytes: float | None
    """None on a CPU."""
    explanation: tuple[Line, ...]


def make_plan(spec: RunSpec) -> Plan:
    """The plan of a spec. Raises UserError for a GPU that the catalogue does not know, and for one
    without fp8 where that is asked of it."""
    gpu = None if spec.cluster.gpu == "cpu" else find_gpu(spec.cluster.gpu, where="cluster.gpu")
    peak = None if gpu is None else peak_flops(spec.optim.precision, gpu)
    model, layout, seq_len = spec.model, layout_of(spec), spec.data.seq_len
    arch, muon = architecture_of(model), spec.optim.optimizer == "muon"
    params, checkpoint = parameter_count(arch), checkpoint_bytes(arch, muon=muon)
    per_token = flops_per_token(model, seq_len)
    per_parameter = MUON_STATE if muon else FP32_STATE
    state = state_lines(model, layout, per_parameter)
    if is_counted(spec):
        memory = trainer_memory_lines(spec, "cpu" if gpu is None else "cuda")
    else:
        element_bytes = 4 if spec.optim.precision == "fp32" else 2
        trainer = BUNDLED_TRAINER_ON_CPU if gpu is None else BUNDLED_TRAINER
        conventions = GENERIC if spec.unsupported_by_trainer() else trainer
        memory = memory_lines(
            model,
            layout,
            seq_len,
            state=per_parameter,
            element_bytes=element_bytes,
            conventions=conventions,
        )
    explanation = [
        Line("parameters", params, "", "sum of the components", "planner/params.py"),
        Line(
            "FLOPs per token",
            per_token,
            "FLOP",
            f"forward and backward, causal attention over {seq_len:,} tokens",
            "planner/flops.py",
        ),
        Line(
            "tokens",
            spec.tokens,
            "",
            f"{count_of(spec.steps, 'step')} {'of up to' if spec.optim.batch_warmup else '×'} "
            f"{spec.global_batch_tokens:,} tokens",
            "run spec",
        ),
        Line(
            "FLOPs of the run",
            per_token * spec.tokens,
            "FLOP",
            f"{per_token:.4g} × {spec.tokens:,} tokens",
        ),
        Line(
            "checkpoint",
            checkpoint,
            "B",
            f"{CHECKPOINT_BYTES_PER_PARAM} B × {params:,}: fp32 weights, two AdamW moments"
            + (f"; less 4 B × {muon_parameters(arch):,} that Muon moves" if muon else ""),
        ),
        *memory,
    ]
    return Plan(
        spec_hash=spec.content_hash(),
        params=params,
        flops_per_token=per_token,
        peak_flops_per_gpu=peak,
        gpus=spec.cluster.gpus,
        steps=spec.steps,
        tokens=spec.tokens,
        global_batch_tokens=spec.global_batch_tokens,
        tokens_per_s=_tokens_per_s(spec),
        checkpoint_bytes=checkpoint,
        state_bytes_per_rank=round(sum(line.value for line in state)),
        memory_per_rank_bytes=round(sum(line.value for line in memory)),
        memory_lines=tuple(memory),
        gpu_memory_bytes=None if gpu is None else gpu.hbm_bytes,
        explanation=tuple(explanation),
    )


def _tokens_per_s(spec: RunSpec) -> float | None:
    try:
        site = site_of(spec, storage=Storage(asynchronous=spec.checkpoint.asynchronous))
        job = job_of(spec, site)
    except UserError:  # GPUs or a precision that no step time is known for
        return None
    priced = candidate_of(job, site, spec.whole_batches, layout_of(spec))
    return priced.tokens_per_s_per_gpu * spec.cluster.gpus
