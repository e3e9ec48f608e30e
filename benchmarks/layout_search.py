"""`python -m benchmarks.layout_search`: every layout of a 70B model on 1,024 H100s, timed on one
core, and SmolLM3's choice of layout told backwards. Exits 1 if a bar is missed.

The SmolLM3 figures that it is held against: 13,500 to 14,000 tokens/s/GPU and about 24 days of
stepping, a peak near 80 GB on one GPU without sharding, and DP 192 × TP 2 × MBS 3 as chosen (Smol
Training Playbook, Hugging Face 2025)."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.document import write_section
from benchmarks.peers.layouts import REPEATS, side_by_side, timed
from planner.architecture import Architecture
from planner.legality import Job, name_of
from planner.memory import MIXED_FP32_GRADIENTS_STATE, Layout, memory_bytes
from planner.predict.catalog import stacks
from planner.restrict import parse_restrictions
from planner.search import Candidate, Found, search
from planner.site import DEFAULT_STACK, Site, job_of, site_of
from smolplan.spec import RunSpec, load_preset

LLAMA_70B = Architecture(
    layers=80,
    hidden=8192,
    heads=64,
    kv_heads=8,
    head_dim=128,
    ffn_hidden=28672,
    vocab_size=128256,
    tied_embeddings=False,
)
"""Llama 3.1 70B by its published config.json."""
MOST_SEARCH_S = 1.0

PUBLISHED_SPEED = (13_500.0, 14_000.0)
SPEED_TOLERANCE = 0.10
PUBLISHED_DAYS = 24.0
DAYS_TOLERANCE = 0.10
PUBLISHED_PEAK_BYTES = 79.9e9
PEAK_TOLERANCE = 0.05
CHOSEN = "DP 192 × TP 2, MBS 3"
AS_THEN = "zero=0,vp=1,schedule=1f1b"
PUBLISHED_BATCH = 2048
"""Sequences of 8,192 tokens in NVIDIA's published runs of that model on as many GPUs
(dgxc-benchmarking, llama3.1): the question that peers are asked."""
COMMAND = "python -m benchmarks.layout_search"


@dataclass(frozen=True)
class Bar:
    name: str
    got: str
    wanted: str
    met: bool


def llama_job(site: Site) -> Job:
    """4M tokens a step in sequences of 8,192, on 1,024 H100s."""
    return Job(
        architecture=LLAMA_70B,
        seq_len=8192,
        global_batch_size=512,
        gpus=1024,
        domain=8,
        hbm_bytes=site.hbm_bytes,
        state=MIXED_FP32_GRADIENTS_STATE,
    )


def is_chosen(candidate: Candidate) -> bool:
    return name_of(candidate.layout).startswith(CHOSEN + ",")


def smollm3_search(spec: RunSpec, stack: str, restrict: str | None, top: int = 5) -> Found:
    site = site_of(spec, stack=stack)
    terms = () if restrict is None else parse_restrictions(restrict)
    job = replace(job_of(spec, site, restrictions=terms), state=MIXED_FP32_GRADIENTS_STATE)
    return search(job, site, steps=spec.steps, top=top)


def smollm3_bars(then: Found, spec: RunSpec) -> list[Bar]:
    """What the search as it could have been made then says, against what was published."""
    chosen = next((c for c in then.best if is_chosen(c)), None)
    place = then.best.index(chosen) + 1 if chosen else None
    alone = memory_bytes(spec.model, Layout(), spec.data.seq_len, state=MIXED_FP32_GRADIENTS_STATE)
    low, high = PUBLISHED_SPEED
    speed = chosen.tokens_per_s_per_gpu if chosen else 0.0
    days = chosen.days if chosen else 0.0
    return [
        Bar(
            "tokens/s/GPU of DP 192 × TP 2 × MBS 3",
            f"{speed:,.0f}",
            f"{low:,.0f} to {high:,.0f}, within {SPEED_TOLERANCE:.0%}",
            low * (1 - SPEED_TOLERANCE) <= speed <= high * (1 + SPEED_TOLERANCE),
        ),
        Bar(
            "days of stepping",
            f"{days:.1f}",
            f"{PUBLISHED_DAYS:g}, within {DAYS_TOLERANCE:.0%}",
            abs(days / PUBLISHED_DAYS - 1) <= DAYS_TOLERANCE,
        ),
        Bar(
            "peak on one GPU without sharding, MBS 1",
            f"{float(alone) / 1e9:.1f} GB",
            f"{PUBLISHED_PEAK_BYTES / 1e9:g} GB, within {PEAK_TOLERANCE:.0%}",
            abs(float(alone) / PUBLISHED_PEAK_BYTES - 1) <= PEAK_TOLERANCE,
        ),
        Bar(
            f"its place under {AS_THEN}",
            "none of the first 5" if place is None else f"{place}",
            "among the first 3",
            place is not None and place <= 3,
        ),
    ]


def show_best(found: Found) -> None:
    for c in found.best:
        print(
            f"    {name_of(c.layout):<46} {c.step_s * 1e3:8,.1f} ms {c.tokens_per_s_per_gpu:8,.0f}"
            f" {c.memory_bytes / 1e9:5.1f} GB"
        )


def show_peers(job: Job, site: Site, asked: argparse.Namespace) -> bool:
    """The same question to tools of the package index; false if one was missing that is needed."""
    question = replace(job, global_batch_size=PUBLISHED_BATCH)
    text, missing = side_by_side(
        question, site, python=asked.peer, published=asked.published, tell=tell
    )
    print(f"the same question to peers:\n\n{text}\n")
    for reason in missing:
        print(reason)
    if asked.write and not missing:
        write_section(asked.write, COMMAND, text)
    return not (missing and (asked.peer or asked.need_peers))


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stack", default=DEFAULT_STACK, help="whose constants the bars are for")
    parser.add_argument("--json", action="store_true", help="the bars as JSON, and no peers")
    peers = parser.add_mutually_exclusive_group()
    peers.add_argument("--no-peers", action="store_true", help="smolplan alone")
    peers.add_argument(
        "--need-peers", action="store_true", help="exit 1 if a peer cannot be had from the index"
    )
    peers.add_argument(
        "--peer",
        type=Path,
        metavar="PYTHON",
        help="a Python that has the peers, in place of environments made here; needed then",
    )
    parser.add_argument(
        "--published", type=Path, metavar="FILE.csv", help="published runs to set beside them"
    )
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="the peers, into a section")
    asked = parser.parse_args(arguments)
    spec = load_preset("smollm3-3b")
    site = site_of(spec, stack=asked.stack)
    job = llama_job(site)
    found, took_s = timed(job, site)
    bars = [
        Bar(
            "70B on 1,024 GPUs, every layout, one core",
            f"{took_s:.3f} s",
            f"under {MOST_SEARCH_S:g} s",
            took_s < MOST_SEARCH_S,
        )
    ]
    then = smollm3_search(spec, asked.stack, AS_THEN)
    free = smollm3_search(spec, asked.stack, None)
    bars += smollm3_bars(then, spec)
    if asked.json:
        print(json.dumps([bar.__dict__ for bar in bars], ensure_ascii=False))
        return 0 if all(bar.met for bar in bars) else 1

    print(f"Llama 3.1 70B on 1,024 h100, stack {asked.stack}, median of {REPEATS} on one core:")
    print(
        f"    {found.examined:,} layouts examined, {found.legal:,} legal and priced, {took_s:.4f} s"
    )
    print(f"    {found.examined / took_s:,.0f} examined/s, {found.legal / took_s:,.0f} priced/s")
    show_best(found)
    print(f"SmolLM3 on 384 h100, {AS_THEN}, stack {asked.stack}:")
    show_best(then)
    print("without the restriction:")
    show_best(free)
    if (ours := next((c for c in then.best if is_chosen(c)), None)) and free.best:
        gain = ours.step_s / free.best[0].step_s - 1
        print(f"    faster than what was chosen by {gain:.1%}: {name_of(free.best[0].layout)}")
    print("what every stack's constants say of the chosen layout, tokens/s/GPU:")
    for stack in stacks():
        every = smollm3_search(spec, stack.name, AS_THEN, top=1000)
        chosen = next((c for c in every.best if is_chosen(c)), None)
        if chosen is not None:
            place = every.best.index(chosen) + 1
            print(f"    {stack.name:<20} {chosen.tokens_per_s_per_gpu:8,.0f}, place {place}")
    served = True if asked.no_peers else show_peers(job, site, asked)
    for bar in bars:
        print(f"{'met   ' if bar.met else 'MISSED'} {bar.name}: {bar.got} (bar: {bar.wanted})")
    return 0 if served and all(bar.met for bar in bars) else 1


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):  # one core
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sys.exit(main())
