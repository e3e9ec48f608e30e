"""The plan that a run is launched with: what is expected of it, for all later parts to read."""

from pydantic import BaseModel, ConfigDict

from planner.catalog import find_gpu
from planner.flops import flops_per_token
from planner.params import parameter_count
from smolplan.spec import RunSpec

STATE_BYTES_PER_PARAM = 12
"""fp32 weights and AdamW's two fp32 moments: what a checkpoint holds."""


class Plan(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    spec_hash: str
    params: int
    flops_per_token: float
    """Model FLOPs, forward and backward, causal attention: the numerator of MFU."""
    peak_flops_per_gpu: float | None
    """FLOP/s, dense, by the datasheet: the denominator of MFU. None on a CPU."""
    gpus: int
    steps: int
    tokens: int
    global_batch_tokens: int
    checkpoint_bytes: int
    state_bytes_per_rank: int
    """Weights, gradients and optimiser state in fp32, as the layout shards them; without
    activations."""
    gpu_memory_bytes: float | None


def make_plan(spec: RunSpec) -> Plan:
    """The plan of a spec. Raises UserError for a GPU that the catalogue does not know."""
    gpu = None if spec.cluster.gpu == "cpu" else find_gpu(spec.cluster.gpu, where="cluster.gpu")
    params = parameter_count(spec.model)
    parallel = spec.parallel
    held = params / (parallel.tensor_parallel * parallel.pipeline_parallel)
    shards = parallel.data_parallel * parallel.context_parallel
    stage = parallel.zero_stage
    # ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): stage 1 shards the optimiser's state,
    # 2 the gradients too, 3 the weights too.
    state_bytes = (
        8 * held / (shards if stage >= 1 else 1)
        + 4 * held / (shards if stage >= 2 else 1)
        + 4 * held / (shards if stage >= 3 else 1)
    )
    return Plan(
        spec_hash=spec.content_hash(),
        params=params,
        flops_per_token=flops_per_token(spec.model, spec.data.seq_len),
        peak_flops_per_gpu=None if gpu is None else gpu.peak_bf16_flops,
        gpus=spec.cluster.gpus,
        steps=spec.steps,
        tokens=spec.tokens,
        global_batch_tokens=spec.global_batch_tokens,
        checkpoint_bytes=STATE_BYTES_PER_PARAM * params,
        state_bytes_per_rank=round(state_bytes),
        gpu_memory_bytes=None if gpu is None else gpu.hbm_bytes,
    )
