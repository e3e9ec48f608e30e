"""A layout's figures line by line, and what sets two layouts apart."""

from planner.explain import Line
from planner.job_memory import job_memory_lines
from planner.kernels import roundup_quotient
from planner.legality import Job
from planner.memory import FP32_STATE, Layout
from planner.restrict import ZERO_BUBBLE
from planner.search import Candidate, Found, stack_of
from planner.site import Site
from planner.stalls import PLAYBOOK, rank_checkpoint_bytes, reading_s
from planner.step_inputs import Stack
from planner.step_shape import forward_flops_per_token, shape_of
from planner.step_time import HBM_SHARE, OPTIMIZER_BYTES, StepTime
from planner.storage import bytes_per_token, checkpoint_bytes
from smolplan.units import count_of, format_bytes

PARTS = {
    "compute_s": "compute",
    "tensor_parallel_s": "tensor parallel",
    "context_parallel_s": "context parallel",
    "expert_parallel_s": "expert parallel",
    "host_s": "waiting for the host",
    "pipeline_s": "pipeline bubble and sends",
    "data_parallel_s": "data parallel",
    "optimizer_s": "optimiser",
    "other_s": "once a step",
}
FILE_OF_PEAK = {"bf16": "gpus.yaml", "fp8": "networks.yaml"}
FITTED = "fitted to published runs, planner/catalog/stacks.yaml"
RING = "ring, as counted in NVIDIA/nccl-tests, doc/PERFORMANCE.md"


def parts_of(step: StepTime) -> dict[str, float]:
    """Seconds by cause, under the names that people see."""
    return {name: float(getattr(step, field)) for field, name in PARTS.items()}


def differences(winner: Candidate, other: Candidate) -> list[tuple[str, float, float]]:
    """Cause, and seconds that it takes in either, where they differ, the largest gap first."""
    mine, theirs = parts_of(winner.step), parts_of(other.step)
    rows = [(name, mine[name], theirs[name]) for name in mine]
    rows = [row for row in rows if abs(row[2] - row[1]) >= 5e-5]
    return sorted(rows, key=lambda row: -abs(row[2] - row[1]))


def step_lines(found: Found, one: Candidate) -> list[Line]:
    """Where a step's time goes, in ms; causes that take none are left out."""
    sources = _sources(found)
    return [
        Line(name, parts_of(one.step)[name] * 1e3, "ms", formula, sources[name])
        for name, formula in _formulas(found, one.layout).items()
        if parts_of(one.step)[name] > 0
    ]


def _formulas(found: Found, layout: Layout) -> dict[str, str]:
    job, stack, gpu = found.job, stack_of(found.site), found.site.accelerator
    arch = job.architecture
    shape = shape_of(arch, job.seq_len, job.global_batch_size * job.seq_len)
    pp, vp = layout.pipeline_parallel, layout.virtual_pipeline
    tp, cp = layout.tensor_parallel, layout.context_parallel
    tokens = layout.micro_batch_size * job.seq_len / cp
    layers = roundup_quotient(arch.layers, pp)
    again = int(layout.full_recompute)
    slots = f"{layout.gradient_accumulation} × {count_of(int(layers), 'layer')}"
    sent = f"{2 + again} × 4 × {tp - 1}/{tp} × {tokens:,.0f} × {arch.hidden:,} × 2 B"
    link = f"({stack.link_share:.0%} of {found.site.link_bytes_per_s / 1e9:g} GB/s)"
    return {
        "compute": f"{slots} × {3 + again} passes over {tokens:,.0f} tokens / TP {tp}, and head "
        f"and loss: {forward_flops_per_token(shape) / 1e9:,.4g} GFLOP a token forward",
        "tensor parallel": f"{slots} × {sent} / {link} × {stack.tensor_exposed:.0%} exposed",
        "context parallel": f"{slots} × 3 × keys and values of CP {cp}",
        "expert parallel": f"{slots} × {2 + again} × all-to-all among EP {layout.expert_parallel}",
        "waiting for the host": f"{slots}, each launched in {stack.host_s * 1e3:.3g} ms",
        "pipeline bubble and sends": f"{_bubble(layout)} of one micro-batch, "
        f"{layout.gradient_accumulation} × the wait for the slowest stage"
        + (" and 2 sends" if vp == 1 else ""),
        "data parallel": f"{_reduced(job, stack, layout)} among {_among(layout)}, "
        f"{stack.data_exposed:.0%} exposed, and {stack.replica_latency_s * 1e6:.3g} µs a rank",
        "optimiser": f"{OPTIMIZER_BYTES:g} B × a rank's parameters / ({HBM_SHARE:.0%} of "
        f"{gpu.hbm_bytes_per_s / 1e12:g} TB/s)",
        "once a step": "clipping, logging, loading, synchronisation",
    }


def _bubble(layout: Layout) -> str:
    """Its formula, F + B + W being forward, inputs' and weights' gradients of a stage."""
    stages = layout.pipeline_parallel
    if layout.schedule == ZERO_BUBBLE:
        return f"({stages} − 1) × (F + B − W)"
    return f"({stages} − 1)/{layout.virtual_pipeline} × (F + B + W)"


def _among(layout: Layout) -> str:
    """The ranks that exchange it."""
    replicas = layout.data_parallel * layout.context_parallel
    if not layout.shard_group:
        return count_of(int(replicas), "rank")
    return f"groups of {layout.shard_group} and once a step across {replicas // layout.shard_group}"


def _reduced(job: Job, stack: Stack, layout: Layout) -> str:
    """What the data-parallel ranks exchange."""
    gradients = f"{stack.gradient_bytes:g} B gradients"
    if layout.zero_stage == 0:
        return f"all-reduce of {gradients}"
    verb = "reduce-scatter" if stack.reduces_shares else "all-reduce"
    each = f"{layout.gradient_accumulation:,} × "
    twice = f"{each}twice " if layout.zero_stage >= 3 else ""
    count = each if layout.zero_stage >= (3 if job.trainer else 2) else ""
    return f"{count}{verb} of {gradients} and {twice}all-gather of 2 B weights"


def _sources(found: Found) -> dict[str, str]:
    site, stack = found.site, stack_of(found.site)
    fitted = FITTED if site.measured is None else f"{site.stack.name}; the generic ones {FITTED}"
    return {
        "compute": f"roofline: {_rates(site, stack)}, {fitted}",
        "tensor parallel": "Shoeybi et al. 2019, arXiv 1909.08053; " + RING,
        "context parallel": RING,
        "expert parallel": RING,
        "waiting for the host": fitted,
        "pipeline bubble and sends": "Narayanan et al. 2021, arXiv 2104.04473, section 2.2; "
        "zero-bubble: ZB-H1, Qi et al. 2024, arXiv 2401.10241",
        "data parallel": RING + "; shares " + fitted,
        "optimiser": "planner/step_time/data_parallel.py: AdamW's reads and writes",
        "once a step": fitted,
    }


def _rates(site: Site, stack: Stack) -> str:
    """What products and attention reach of which peak."""
    bf16 = f"{site.accelerator.peak_bf16_flops / 1e12:,.4g} TFLOP/s"
    products, attention = f"{stack.matmul_share:.0%}", f"{stack.attention_share:.0%}"
    if site.precision != "fp8":
        return f"products at {products}, attention at {attention} of {bf16}"
    return (
        f"linear layers at {stack.fp8_share:.0%} of {site.peak_text} (a scale a tensor, casts "
        f"counted); head, router and routed experts at {products}, attention at {attention} of "
        f"{bf16}"
    )


def fullest_rank_lines(found: Found, one: Candidate) -> list[Line]:
    """Where its memory goes."""
    return job_memory_lines(found.job, one.layout)


def run_lines(found: Found, one: Candidate) -> list[Line]:
    """From the step to speed, days, dollars and energy."""
    job, site = found.job, found.site
    tokens, total_s = job.step_tokens, float(one.step_s + one.stalls.total_s)
    lines = [
        Line(
            "tokens/s per GPU",
            one.tokens_per_s_per_gpu,
            "",
            f"{tokens:,} tokens / {one.step_s:.4g} s / {count_of(one.gpus, 'GPU')}",
        ),
        Line(
            "MFU",
            one.mfu * 100,
            "%",
            f"exact FLOPs, causal attention, over {site.peak_text}",
            f"planner/flops.py; planner/catalog/{FILE_OF_PEAK[site.precision]}",
        ),
        *stall_lines(found, one),
        Line("time", one.days, "days", f"{count_of(found.steps, 'step')} × {total_s:.5g} s"),
    ]
    if one.dollars is not None:
        price = f"{one.gpus * one.days * 24:,.0f} GPU-hours × ${site.price_per_gpu_hour:g}"
        lines.append(Line("cost", one.dollars, "$", price, site.price_source))
    lines.append(
        Line(
            "energy",
            one.kwh,
            "kWh",
            f"{one.gpus:,} × ({site.waiting_w:,.4g} W + {site.busy_w - site.waiting_w:,.4g} W × "
            f"{one.utilisation:.1%} at work) × {one.days * 24:,.0f} h",
            f"GPUs and their share of the node, without cooling: {site.power_source}",
        )
    )
    return lines


def stall_lines(found: Found, one: Candidate) -> list[Line]:
    """What is waited for beside a step, in ms of each step, and what is assumed of it."""
    job, storage, nodes = found.job, found.site.storage, found.site.nodes(one.gpus)
    rate = f"({count_of(nodes, 'node')} × {storage.node_bytes_per_s / 1e9:.3g} GB/s)"
    token_bytes = bytes_per_token(job.architecture.vocab_size)
    read_s = reading_s(job.architecture, job.step_tokens, nodes, storage)
    lines = [
        Line(
            "waiting for data",
            float(one.stalls.loading_s) * 1e3,
            "ms a step",
            f"{job.step_tokens:,} tokens × {token_bytes} B / {rate} = {read_s * 1e3:.3g} ms, read "
            "ahead",
            storage.source,
        )
    ]
    if every := job.checkpoint_every_steps:
        whole = checkpoint_bytes(job.architecture, muon=job.muon)
        formula = f"{format_bytes(whole)} / {rate}"
        if storage.asynchronous:
            held = float(rank_checkpoint_bytes(job.architecture, one.layout, muon=job.muon))
            formula = f"{format_bytes(held)} of a rank / {storage.copy_bytes_per_s / 1e9:.3g} GB/s"
            formula += f", and {format_bytes(whole)} / {rate} in the meantime"
        lines.append(
            Line(
                "waiting for checkpoints",
                float(one.stalls.checkpoint_s) * 1e3,
                "ms a step",
                f"{formula}, every {every:,} steps",
                storage.source + (f"; copy: {PLAYBOOK}" if storage.asynchronous else ""),
            )
        )
    return lines


def state_text(found: Found) -> str:
    """What the memory takes the training state to be, and by whose account."""
    job = found.job
    state, kind = job.state, "fp32" if job.state.weights == FP32_STATE.weights else "bf16"
    account = f"as the stack {job.conventions.name} holds it (planner/catalog/memory.yaml)"
    if job.trainer:
        account = "at the bundled trainer's fullest moment, or where that is not counted "
        account += "(pipelines, experts, recurrent layers) estimated"
    one = state.optimizer_of_matrices
    of_matrices = "" if one is None else f" (of matrices, by Muon, {one})"
    return (
        f"{state.total} B a parameter: {kind} weights {state.weights}, gradients "
        f"{state.gradients}, optimiser {state.optimizer}{of_matrices}; {account}"
    )
