"""The same layouts to smolplan and to tools of the package index: how fast each prices them, which
one each calls the best, and what published runs of that question measured."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from benchmarks.peers.document import markdown_table
from benchmarks.peers.environment import PEERS, PeerUnavailable, cache_folder, python_of
from benchmarks.peers.questions import Answer, Run, ask
from planner.layouts import legal_layouts
from planner.legality import Job, layout_at, name_of
from planner.memory import Layout
from planner.params import parameter_count
from planner.predict.report import Comparison, compare
from planner.predict.rows import read_rows
from planner.predict.workload import workload_of
from planner.restrict import parse_restrictions
from planner.search import Found, candidate_of, search, stack_of
from planner.site import Site, find_software

PEERS_KNOW = "cp=1,vp=1,schedule=1f1b,group=all"
"""What all peers can express."""
TIED = 1.001
"""Steps closer than this factor are the same."""
REPEATS = 5


@dataclass(frozen=True)
class Said:
    """What one tool says of the layouts that it was asked about."""

    tool: str
    layouts: int
    took_s: float
    best: str
    tokens_per_s_per_gpu: float


def run_of(job: Job, gpu: str, layout: Layout) -> Run:
    arch = job.architecture
    return Run(
        layers=arch.layers,
        hidden=arch.hidden,
        heads=arch.heads,
        kv_heads=arch.kv_heads,
        ffn=arch.ffn_hidden,
        gated=arch.gated_ffn,
        vocab=arch.vocab_size,
        parameters=parameter_count(arch),
        seq_len=job.seq_len,
        gpu=gpu,
        gpus=job.gpus,
        gpus_per_node=min(job.domain, job.gpus),
        tp=int(layout.tensor_parallel),
        pp=int(layout.pipeline_parallel),
        vp=int(layout.virtual_pipeline),
        dp=int(layout.data_parallel),
        micro_batch=int(layout.micro_batch_size),
        accumulation=int(layout.gradient_accumulation),
        zero=int(layout.zero_stage),
        recompute=str(layout.recompute),
    )


def timed(job: Job, site: Site) -> tuple[Found, float]:
    """A search from nothing to its best layout, and the median of several ones' seconds."""
    times = []
    for _ in range(REPEATS):
        began = perf_counter()
        found = search(job, site, steps=1)
        times.append(perf_counter() - began)
    return found, sorted(times)[REPEATS // 2]


def ours(name: str, job: Job, site: Site) -> Said:
    found, took_s = timed(job, site)
    best = found.best[0]
    return Said(name, found.legal, took_s, name_of(best.layout), best.tokens_per_s_per_gpu)


def theirs(
    tool: str, job: Job, layouts: Sequence[Layout], answer: Answer, which: int
) -> tuple[Said, Layout, int]:
    """What a peer says at its default (0) or the share that it is told (1), asked in turns: its
    best layout, and how many layouts it calls as good as that one. Of those it names the first,
    and of what fits, by its own count."""
    priced = [
        (seconds, index)
        for index, (seconds, fits) in enumerate(
            zip(answer.times_s[which], answer.fits, strict=True)
        )
        if seconds is not None and fits
    ]
    if not priced:
        raise PeerUnavailable(f"{tool} says that no layout fits")
    seconds, index = min(priced)
    tied = sum(one < TIED * seconds for one, _ in priced)
    speed = job.global_batch_size * job.seq_len / seconds / job.gpus
    best = layouts[index]
    took_s = sorted(answer.took_s[which::2])[REPEATS // 2]
    said = Said(tool, len(layouts), took_s, name_of(best), speed)
    return said, best, tied


def measured(path: Path, job: Job) -> list[Comparison]:
    """Published runs of that very model, batch and number of H100s, in bf16."""
    arch = job.architecture
    wanted = {
        "layers": arch.layers,
        "hidden": arch.hidden,
        "vocab": arch.vocab_size,
        "seq_len": job.seq_len,
        "global_batch_tokens": job.seq_len * job.global_batch_size,
        "gpus": job.gpus,
    }
    return [
        c
        for c in compare(read_rows(path))
        if c.skipped is None
        and c.accelerator == "h100"
        and "fp8" not in c.row.text("precision")
        and all(c.row.numbers.get(name) == value for name, value in wanted.items())
    ]


def side_by_side(
    job: Job,
    site: Site,
    *,
    python: Path | None,
    published: Path | None,
    tell: Callable[[str], None],
) -> tuple[str, list[str]]:
    """The comparison as Markdown, and what was missing of it. Raises SmolplanError for a file of
    published runs that cannot be read."""
    common = replace(job, restrictions=parse_restrictions(PEERS_KNOW))
    legal = legal_layouts(common)
    layouts = [layout_at(legal.columns, index) for index in range(legal.layouts)]
    share = float(stack_of(site).matmul_share)
    runs = [] if published is None else measured(published, job)
    said = [
        ours(f"smolplan, {site.stack.name}, all layouts", job, site),
        ours(f"smolplan, {site.stack.name}, {PEERS_KNOW}", common, site),
    ]
    for stack in dict.fromkeys(c.stack for c in runs if c.stack != site.stack.name):
        there = replace(site, stack=find_software(str(stack)))
        said.append(ours(f"smolplan, {stack}, all layouts", job, there))
    notes, missing = [], []
    for peer in PEERS:
        try:
            where = python or python_of(peer, cache_folder(), tell)
            asked = [run_of(job, site.accelerator.name, layout) for layout in layouts]
            answer = ask(peer, where, asked, [None, share] * REPEATS)
            tool = f"{peer.name} {answer.version}"
            one, best, tied = theirs(tool, job, layouts, answer, 0)
            told, _, _ = theirs(f"{tool}, told {share:.0%} of the peak", job, layouts, answer, 1)
        except PeerUnavailable as error:
            missing.append(f"{peer.name} could not be asked: {error}")
            continue
        said += [one, told]
        refused = Counter(why for why in answer.refused if why is not None)
        by_ours = candidate_of(common, site, 1, best)
        notes.append(
            f"{tool}: {answer.fits.count(False):,} of these layouts do not fit by its own count, "
            f"{sum(refused.values()):,} it refuses; {tied:,} it calls as good as its best, which "
            f"by smolplan gives {by_ours.tokens_per_s_per_gpu:,.0f} tokens/s/GPU."
        )
    head = ["tool", "layouts", "layouts/s", "the best layout", "tokens/s/GPU"]
    rows = [
        [
            one.tool,
            f"{one.layouts:,}",
            f"{one.layouts / one.took_s:,.0f}",
            one.best,
            f"{one.tokens_per_s_per_gpu:,.0f}",
        ]
        for one in said
    ]
    if published is not None:
        notes.append(_published(runs))
    size = parameter_count(job.architecture)
    intro = (
        f"{datetime.now(UTC):%Y-%m-%d}, one core: a model of {size:,} parameters, "
        f"{job.global_batch_size:,} sequences of {job.seq_len:,} tokens a step on {job.gpus:,} "
        f"{site.accelerator.name}. smolplan's time includes finding out which layouts are legal; "
        f"peers are handed those that are. All times are medians of {REPEATS}."
    )
    return "\n\n".join([intro, markdown_table(head, rows), *notes]), missing


def _published(runs: Sequence[Comparison]) -> str:
    if not runs:
        return "No published run of that question is in the table."
    lines = ["Published runs of that question:"]
    for c in runs:
        assert c.measured_tflops is not None and c.error is not None
        n = c.row.numbers
        layout = ", ".join(f"{k.upper()} {n[k]:.0f}" for k in ("tp", "pp", "vp", "cp") if k in n)
        rate = c.measured_tflops * 1e12 / workload_of(c.row).flops_per_token
        lines.append(
            f"- {rate:,.0f} tokens/s/GPU by {layout} ({c.row.text('source')}); of that layout "
            f"smolplan, {c.stack}, predicts {rate * (1 + c.error):,.0f} ({c.error:+.1%})"
        )
    return "\n".join(lines)
