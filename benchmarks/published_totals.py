"""`python -m benchmarks.published_totals`: totals that makers of models published (GPU-hours, days,
TFLOP/s, energy, emissions, dollars), each beside what the planner makes of figures that the same
makers gave apart from it. Exit 1 if one is further off than its bar."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from planner.architecture import Architecture
from planner.budget import load_budget_preset, make_budget, parse_budget
from planner.catalog import Gpu, find_gpu, models
from planner.catalog.energy import Grid, Pue, find_grid, find_pue
from planner.energy import energy_of, node_power
from planner.estimate import Question, solve
from planner.flops import flops_per_token, hardware_flops_per_token
from planner.params import parameter_count
from planner.reliability import (
    TYPICAL_S,
    Checkpoint,
    Restart,
    Run,
    expect,
    find_fleet,
    interval_for,
    mttf_s,
)
from smolplan.spec import load_preset
from smolplan.units import DAY_S

BAR = 0.05
"""How far a total may be off that only arithmetic separates from what was given."""

PLAYBOOK = "Hugging Face, The Smol Training Playbook (2025)"
LLAMA_CARD = "model card in meta-llama/llama-models, models/llama3_1/MODEL_CARD.md"
LLAMA_REPORT = "Llama 3 report, arXiv 2407.21783, as in published_runs.csv"
DEEPSEEK = "DeepSeek-V3 report, arXiv 2412.19437, table 1 and section 1"
DEEPSEEK_ISCA = "DeepSeek, arXiv 2505.09343, table 4; read in transcriptions of the paper"
LLAMA_1 = "LLaMA, arXiv 2302.13971, section 2.4 and table 15, as in published_runs.csv"
BLOOM = "Luccioni et al. 2022, arXiv 2211.02001; throughput: BigScience's page of the model"
OLMO_2 = "Ai2's blog on OLMo 2 32B, as in published_runs.csv"


@dataclass(frozen=True)
class Total:
    """One published figure, and ours."""

    run: str
    quantity: str
    published: float
    ours: float
    given: str
    """What of the same source the planner was told."""
    source: str
    bar: float = BAR

    @property
    def off(self) -> float:
        return self.ours / self.published - 1

    @property
    def holds(self) -> bool:
        return abs(self.off) <= self.bar


def _shape(name: str) -> Architecture:
    return models()[name].architecture()[0]


def _question(gpu: Gpu, **known: float | None) -> Question:
    unknown: dict[str, float | None] = dict.fromkeys(
        ("params", "tokens", "deadline_s", "gpus", "mfu", "tokens_per_s_per_gpu")
    )
    return Question(gpu=gpu, mfu_base="achievable", **{**unknown, **known})  # type: ignore[arg-type]


def smollm3() -> Iterator[Total]:
    h100 = find_gpu("h100")
    sized = solve(_question(h100, params=3e9, tokens=11e12, deadline_s=28 * DAY_S, mfu=0.30))
    yield Total(
        *("SmolLM3", "GPUs for four weeks", 384, sized.gpus),
        *("3B, 11T tokens, 30 % of 720 TFLOP/s", PLAYBOOK, 0.0),
    )
    stepping = solve(
        _question(h100, params=3e9, tokens=11e12, gpus=384, tokens_per_s_per_gpu=13_750)
    )
    yield Total(
        *("SmolLM3", "days of stepping", 24, stepping.stepping_s / DAY_S),
        *("384 GPUs at 13.5 to 14k tokens/s each", PLAYBOOK),
    )
    model = load_preset("smollm3-3b").model
    share = flops_per_token(model, 4096, causal=False) * 13_750 / h100.peak_bf16_flops
    yield Total(
        *("SmolLM3", "% MFU, nanotron's count", 30, 100 * share),
        *("13.5 to 14k tokens/s", f"{PLAYBOOK}: about 30 %"),
    )
    ledger = make_budget(load_budget_preset("smollm3-3b"))
    beside = ledger.total_gpu_hours - ledger.main_gpu_hours
    yield Total(
        *("SmolLM3", "k GPU-hours beside the run", 161.28, beside / 1e3),
        *("GPUs × days of each line", f"{PLAYBOOK}, cost table", 0.0),
    )


def deepseek_v3() -> Iterator[Total]:
    h100 = find_gpu("h100")  # an H800 multiplies and draws as much; its links are slower
    per_gpu_s = 272.80e9 / DAY_S / 2048
    shape = replace(_shape("deepseek-v3"), mtp_layers=0)
    for masked, published in ((True, 385), (False, 432)):
        rate = flops_per_token(shape, 4096, causal=masked) * per_gpu_s
        yield Total(
            *("DeepSeek-V3", f"TFLOP/s/GPU, {'' if masked else 'non-'}causal", published),
            *(rate / 1e12, "tokens/day; without its multi-token prediction", DEEPSEEK_ISCA),
        )
    stepping = solve(
        _question(h100, params=37e9, tokens=14.8e12, gpus=2048, tokens_per_s_per_gpu=per_gpu_s)
    )
    yield Total(
        *("DeepSeek-V3", "k GPU-hours of pre-training", 2664, stepping.gpu_hours / 1e3),
        *("tokens/day on 2,048 GPUs, 14.8T tokens", DEEPSEEK),
    )
    budget = make_budget(
        parse_budget(
            f"""
            name: deepseek-v3
            price_per_gpu_hour: 2
            main: {{model: deepseek-v3, tokens: 14.8T, tokens_per_s_per_gpu: {per_gpu_s}}}
            long_context: [{{gpu_hours: 119k}}]
            mid_training: [{{gpu_hours: 5k}}]
            """,
            where="deepseek-v3",
        )
    )
    dollars = budget.dollars(budget.total_gpu_hours)
    assert dollars is not None
    yield Total(
        *("DeepSeek-V3", "M$ in all, at $2 an hour", 5.576, dollars[0] / 1e6),
        *("the same, 119k and 5k GPU-hours after it", DEEPSEEK),
    )


def llama_3() -> Iterator[Total]:
    h100, shape = find_gpu("h100"), _shape("llama3.1-405b")
    yield Total(
        *("Llama 3 405B", "10²⁴ FLOPs", 38, 6 * parameter_count(shape) * 15.6e12 / 1e24),
        *("15.6T tokens", LLAMA_REPORT),
    )
    hours = flops_per_token(shape, 8192) * 15.6e12 / 400e12 / 3600
    yield Total(
        *("Llama 3 405B", "M GPU-hours", 30.84, hours / goodput_on(16_384) / 1e6),
        "400 TFLOP/s on 16,384 GPUs; our goodput. Theirs has fewer GPUs at first",
        *(f"{LLAMA_REPORT}; GPU-hours: {LLAMA_CARD}", 0.10),
    )
    power = node_power(h100, tdp_share=1.0, overhead=False)
    for size, gpu_hours, tonnes in (
        ("8B", 1.46e6, 420),
        ("70B", 7.0e6, 2040),
        ("405B", 30.84e6, 8930),
    ):
        energy = energy_of(gpu_hours, power, find_pue("meta", where=""), find_grid("usa", where=""))
        yield Total(
            *(f"Llama 3.1 {size}", "t CO2e", tonnes, energy.tonnes_co2e),
            *("GPU-hours, 700 W; PUE of Meta, US grid", LLAMA_CARD),
        )


def goodput_on(gpus: int) -> float:
    """With the Llama 3 report's failures, and planner.reliability's usual times."""
    span = {name: seconds for name, (seconds, _) in TYPICAL_S.items()}
    checkpoint = Checkpoint(span["stall"], span["write"])
    restart = Restart(span["detect"], span["provision"], span["load"], span["warm_up"])
    fleet, work = find_fleet("llama3"), 54 * DAY_S
    mttf = mttf_s(gpus, fleet.failures_per_gpu_s)
    run = Run(work, mttf, interval_for(work, mttf, checkpoint), checkpoint, restart)
    return expect(replace(run, planned_every_s=1 / fleet.planned_per_s)).goodput


def others() -> Iterator[Total]:
    a100, h100 = find_gpu("a100"), find_gpu("h100")
    llama = solve(
        _question(a100, params=65.2e9, tokens=1.4e12, gpus=2048, tokens_per_s_per_gpu=380)
    )
    given = "380 tokens/s on 2,048 A100, 1.4T tokens"
    yield Total("LLaMA 65B", "days", 21, llama.stepping_s / DAY_S, given, LLAMA_1)
    yield Total("LLaMA 65B", "k GPU-hours", 1022.362, llama.gpu_hours / 1e3, given, LLAMA_1)
    nameplate = node_power(a100, tdp_share=1.0, overhead=False)
    energy = energy_of(
        1_022_362, nameplate, Pue("given", 1.1, 2023, ""), Grid("given", 385, 2023, "")
    )
    yield Total(
        *("LLaMA 65B", "MWh", 449, energy.kwh / 1e3, "GPU-hours, 400 W, PUE 1.1", LLAMA_1),
    )
    yield Total(
        *("LLaMA 65B", "t CO2e", 173, energy.tonnes_co2e, "the same, 385 g/kWh", LLAMA_1),
    )
    bloom = hardware_flops_per_token(_shape("bloom-176b"), 2048, recompute="full", causal=False)
    yield Total(
        *("BLOOM", "k GPU-hours", 1082.99, bloom * 366e9 / 150e12 / 3600 / 1e3),
        "366B tokens at 150 TFLOP/s, recompute counted; theirs has its failures",
        *(BLOOM, 0.15),
    )
    power = node_power(a100)
    whole = energy_of(1_082_990, power, Pue("none", 1, 2022, ""), find_grid("jean-zay", where=""))
    yield Total(
        *("BLOOM", "MWh of GPUs and idle nodes", 689.8, whole.it_kwh / 1e3),
        *("GPU-hours", BLOOM, 0.10),
    )
    rate = flops_per_token(_shape("olmo2-32b"), 4096, causal=False) * 1800
    yield Total(
        *("OLMo 2 32B", "% MFU, full attention", 38, 100 * rate / h100.peak_bf16_flops),
        *("1,800 tokens/s/GPU", f"{OLMO_2}: about 38 %"),
    )


def totals() -> list[Total]:
    return [*smollm3(), *deepseek_v3(), *llama_3(), *others()]


def _show(rows: list[Total], out: Console) -> None:
    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    table.add_column("run", no_wrap=True)
    table.add_column("total", no_wrap=True)
    for title in ("published", "smolplan", "off", "bar"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            *(row.run, row.quantity, f"{row.published:,.5g}", f"{row.ours:,.5g}"),
            *(f"{row.off:+.1%}", f"{row.bar:.0%}"),
        )
    out.print(table)
    out.print("\nTold to the planner:")
    for row in rows:
        out.print(f"[dim]{row.run}, {row.quantity}: {row.given}. {row.source}.[/]")


def main() -> int:
    rows = totals()
    out = Console(width=80, highlight=False)
    _show(rows, out)
    beyond = [row for row in rows if not row.holds]
    exact = sum(abs(row.off) <= 0.01 for row in rows)
    out.print(
        f"\n{len(rows)} totals: {len(rows) - len(beyond)} within their bars, {exact} within 1 %."
    )
    for row in beyond:
        out.print(f"{row.run}, {row.quantity}: {row.off:+.1%}, beyond its bar of {row.bar:.0%}.")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
