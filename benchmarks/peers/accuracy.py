"""`python -m benchmarks.peers.accuracy FILE.csv`: published measured runs, predicted by tools of
the package index and by smolplan on the same rows.

Each peer predicts the rows that it can express: dense, bf16, no context parallel, its own GPUs. It
does so at the share of the GPU's peak that it takes when told none, and at shares fitted the way
smolplan's constants are: one for each software stack and GPU, each fifth of the pairs of source and
model judged by what was fitted on the rest. Rows that a peer calls too large for memory, though
they ran, are counted and left out."""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from time import perf_counter

import numpy as np

from benchmarks.peers.document import markdown_table, write_section
from benchmarks.peers.environment import (
    PEERS,
    Peer,
    PeerUnavailable,
    cache_folder,
    calculon,
    python_of,
)
from benchmarks.peers.questions import Answer, Run, ask
from benchmarks.published_runs import fit_rows, held_out
from benchmarks.split import FOLDS, folds_of, unit_of
from planner.predict.report import Comparison, compare, quantile
from planner.predict.rows import read_rows
from planner.predict.workload import Workload, workload_of
from planner.step_inputs import BF16
from smolplan.errors import SmolplanError

COMMAND = "python -m benchmarks.peers.accuracy"
ASKED_SHARES = (0.02, 0.05, *(tenth / 10 for tenth in range(1, 11)))
SHARES = tuple(hundredth / 100 for hundredth in range(2, 101))
"""Between those asked for, times are interpolated in 1/share: exact for a step that is a part
that computes, and a part that does not."""

MOST_REASONS = 7
"""For refusals that are told of one peer, the commonest first."""


@dataclass(frozen=True)
class Question:
    """A published row as peers are asked it."""

    run: Run
    ours: Comparison
    """By the catalogue's constants."""
    held_out: Comparison | None
    """By constants that never saw the row's source with its model; None without other rows."""
    fold: int
    measured_s: float
    """Of a step."""

    @property
    def group(self) -> tuple[str, str]:
        return self.ours.stack or "", self.ours.accelerator or ""

    def error(self, predicted_s: float) -> float:
        """Predicted over measured speed, less one."""
        return self.measured_s / predicted_s - 1.0


def whole(value: float) -> int | None:
    rounded = round(value)
    return rounded if rounded >= 1 and abs(value - rounded) < 1e-6 * value else None


def run_of(w: Workload) -> Run | str:
    """What peers are told, or why they cannot be told it."""
    shape, layout = w.shape, w.layout
    if shape["moe_share"] > 0:
        return "experts"
    if shape["mixer_share"] > 0:
        return "recurrent layers"
    if w.machine["number_format"] != BF16:
        return "a format below 16 bits"
    if layout["cp"] > 1:
        return "context parallel"
    if not shape["score_width"] == shape["attention_out"] == shape["hidden"]:
        return "heads whose width is not hidden/heads"
    dp = layout["gpus"] / (layout["tp"] * layout["pp"])
    sequences = shape["tokens_per_step"] / shape["seq_len"] / dp
    micro_batch, accumulation = whole(layout["micro_batch"]), None
    if micro_batch is not None:
        accumulation = whole(sequences / micro_batch)
    if micro_batch is None or accumulation is None:
        return "a batch that is no whole number of micro-batches"
    gpus, per_node = int(layout["gpus"]), int(min(w.machine["gpus_per_domain"], layout["gpus"]))
    if gpus % per_node:
        return "no whole nodes"
    matrices = shape["hidden"] * (
        shape["attention_in"] + shape["attention_out"] + shape["ffn_matrices"] * shape["ffn"]
    )
    computed = shape["layers"] * matrices + 2.0 * shape["vocab"] * shape["hidden"]
    kv_heads = shape["kv_width"] / shape["hidden"] * shape["heads"]
    recompute = "selective" if layout["attention_recompute"] else "none"
    return Run(
        layers=int(shape["layers"]),
        hidden=int(shape["hidden"]),
        heads=int(shape["heads"]),
        kv_heads=round(kv_heads),
        ffn=round(shape["ffn"]),
        gated=shape["ffn_matrices"] == 3.0,
        vocab=int(shape["vocab"]),
        parameters=round(w.row.number("params_b", computed / 1e9) * 1e9),
        seq_len=int(shape["seq_len"]),
        gpu=w.accelerator.name,
        gpus=gpus,
        gpus_per_node=per_node,
        tp=int(layout["tp"]),
        pp=int(layout["pp"]),
        vp=max(1, int(layout["vp"])) if layout["pp"] > 1 else 1,
        dp=int(dp),
        micro_batch=micro_batch,
        accumulation=accumulation,
        zero=3 if layout["sharded_weights"] else int(layout["sharded_optimizer"]),
        recompute="full" if layout["full_recompute"] else recompute,
    )


def questions(
    comparisons: Sequence[Comparison], held: Sequence[Comparison]
) -> tuple[list[Question], Counter[str]]:
    """Rows that count in our own figures and that can be put to peers; why the others cannot."""
    asked, left_out = [], Counter[str]()
    by_line = {c.row.line: c for c in held}
    folds = folds_of(c.row for c in comparisons if c.skipped is None)
    for c in comparisons:
        if c.skipped is not None or c.measured_tflops is None:
            continue
        w = workload_of(c.row)
        run = run_of(w)
        if isinstance(run, str):
            left_out[run] += 1
            continue
        rate = c.measured_tflops * 1e12 / w.flops_per_token
        step_s = w.shape["tokens_per_step"] / (run.gpus * rate)
        held_one, fold = by_line.get(c.row.line), folds[unit_of(c.row)]
        asked.append(Question(run, c, held_one, fold, step_s))
    return asked, left_out


def interpolated_s(times_s: Sequence[float], share: float) -> float:
    """A step's time at `share`, from those at ASKED_SHARES."""
    slownesses = [1 / one for one in reversed(ASKED_SHARES)]
    return float(np.interp(1 / share, slownesses, list(reversed(times_s))))


def fitted_shares(
    asked: Sequence[Question], times_s: Sequence[Sequence[float]], fold: int
) -> dict[tuple[str, str], float]:
    """The share of the peak by stack and GPU that gives the least median error on the rows of all
    other folds. Under "" for all stacks, or all GPUs: the least mean of their groups' medians; all
    stacks without the sweep. All as smolplan's constants are fitted (benchmarks/fit_stacks.py)."""
    groups: dict[tuple[str, str], dict[tuple[str, str], list[int]]]
    groups = defaultdict(lambda: defaultdict(list))
    for index, question in enumerate(asked):
        if question.fold != fold:
            stack, gpu = question.group
            ways = [(stack, gpu), (stack, "")]
            if not question.ours.is_sweep:
                ways += [("", gpu), ("", "")]
            for way in ways:
                groups[way][question.group].append(index)

    def median_error(indices: Sequence[int], share: float) -> float:
        errors = (asked[i].error(interpolated_s(times_s[i], share)) for i in indices)
        return quantile((abs(error) for error in errors), 0.5)

    def mean_error(members: Iterable[Sequence[int]], share: float) -> float:
        return fmean(median_error(indices, share) for indices in members)

    return {
        way: min(SHARES, key=lambda share: mean_error(members.values(), share))
        for way, members in groups.items()
    }


def share_for(shares: dict[tuple[str, str], float], group: tuple[str, str]) -> float | None:
    """The group's own, else its stack's, else its GPU's, else that of all, as constants are; None
    where no row was fitted."""
    stack, gpu = group
    ways = ((stack, gpu), (stack, ""), ("", gpu), ("", ""))
    return next((shares[way] for way in ways if way in shares), None)


def line(name: str, errors: Sequence[float]) -> list[str]:
    sizes = [abs(error) for error in errors]
    figures = (quantile(sizes, 0.5), quantile(sizes, 0.9))
    return [
        name,
        f"{len(errors):,}",
        *(f"{value:.1%}" for value in figures),
        f"{quantile(errors, 0.5):+.1%}",
    ]


def table(peer: Peer, asked: Sequence[Question], answer: Answer) -> str:
    """`answer` at the peer's default, then at each of ASKED_SHARES."""
    kept: list[tuple[Question, float, list[float]]] = []
    for question, refused, fits, times in zip(
        asked, answer.refused, answer.fits, zip(*answer.times_s, strict=True), strict=True
    ):
        seconds = [one for one in times if one is not None]
        if refused is None and fits and len(seconds) == len(times):
            kept.append((question, seconds[0], seconds[1:]))
    unfit = sum(fits is False for fits in answer.fits)
    refusals = Counter(why for why in answer.refused if why is not None)
    head = [f"{peer.name} {answer.version}", "rows", "median", "90 %", "bias"]
    rows: list[list[str]] = []
    chosen = [question for question, _, _ in kept]
    times_s = [times for _, _, times in kept]
    shares = [fitted_shares(chosen, times_s, fold) for fold in range(FOLDS)]
    for is_sweep, part in ((False, "all but the sweep"), (True, "the nanotron sweep")):
        of_part = [one for one in kept if one[0].ours.is_sweep == is_sweep]
        held = [
            (q, interpolated_s(times, share))
            for q, _, times in of_part
            if (share := share_for(shares[q.fold], q.group)) is not None
        ]
        if of_part:
            rows.append(line(f"{part}: as it comes", [q.error(s) for q, s, _ in of_part]))
            ours = [q.ours.error for q, _, _ in of_part if q.ours.error is not None]
            rows.append(line(f"{part}: smolplan", ours))
        if held:
            fitted = [q.error(seconds) for q, seconds in held]
            rows.append(line(f"{part}, held out: shares fitted", fitted))
            ours = [q.held_out.error for q, _ in held if q.held_out and q.held_out.error]
            rows.append(line(f"{part}, held out: smolplan", ours))
    notes = [
        f"{len(asked):,} rows asked; {unfit:,} called too large for memory, though they ran, and "
        f"left out of both; {sum(refusals.values()):,} refused"
        + "".join(f", {count:,} for {why}" for why, count in refusals.most_common(MOST_REASONS))
        + f". The share of the peak that it takes as it comes: {peer.default_efficiency}."
    ]
    return "\n\n".join([markdown_table(head, rows), *notes])


def report(path: Path, peers: Sequence[Peer], python: Path | None) -> tuple[str, list[str]]:
    """The report as Markdown, and what was missing of it. Raises SmolplanError."""
    rows = read_rows(path)
    tell(f"holding out a fifth, {FOLDS} times: minutes")
    asked, left_out = questions(compare(rows), held_out(rows, fit_rows(rows)))
    reasons = ", ".join(f"{count:,} {why}" for why, count in left_out.most_common())
    parts = [
        f"{datetime.now(UTC):%Y-%m-%d}, {path.name}: {len(asked):,} rows of those that count in "
        f"smolplan's own figures can be put to a peer; not: {reasons or 'none'}."
    ]
    missing = []
    for peer in peers:
        began = perf_counter()
        try:
            where = python or python_of(peer, cache_folder(), tell)
            tell(f"asking {peer.name} about {len(asked):,} rows, {len(ASKED_SHARES) + 1} times")
            answer = ask(peer, where, [q.run for q in asked], [None, *ASKED_SHARES])
        except PeerUnavailable as error:
            missing.append(f"{peer.name} could not be asked: {error}")
            continue
        tell(f"{peer.name}: {perf_counter() - began:.0f} s")
        parts.append(table(peer, asked, answer))
    return "\n\n".join(parts), missing


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 if a peer could not be asked, or 2 for a file that cannot be read."""
    summary = __doc__.split("\n\n")[0] if __doc__ else ""
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("file", type=Path, metavar="FILE.csv")
    parser.add_argument(
        "--peer",
        type=Path,
        metavar="PYTHON",
        help="a Python that has the peers, in place of environments made here",
    )
    parser.add_argument(
        "--calculon", type=Path, metavar="FOLDER", help="a checkout of calculon-ai/calculon"
    )
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put it into its section")
    options = parser.parse_args(arguments)
    try:
        more = () if options.calculon is None else (calculon(options.calculon),)
        text, missing = report(options.file, (*PEERS, *more), options.peer)
    except SmolplanError as error:
        print(f"peers.accuracy: {error}", file=sys.stderr)
        return int(error.exit_code)
    print(text)
    for reason in missing:
        tell(reason)
    if options.write and not missing:
        write_section(options.write, COMMAND, text)
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
