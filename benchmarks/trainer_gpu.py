"""`python -m benchmarks.trainer_gpu`: the bundled trainer on one GPU, at shapes up to SmolLM3's 3B.

Of each case it prints the peak that torch's allocator saw beside the planner's
(planner/memory/trainer.py), tokens per second, and MFU by the planner's exact count of FLOPs.
Each runs in a process of its own, on random tokens: what is measured is the model, its loss,
clipping and the optimiser, as trainer/loop.py calls them."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.peers.document import markdown_table, write_section
from planner.catalog import find_gpu
from planner.flops import flops_per_token
from planner.memory.trainer import trainer_memory_lines
from preflight.ranks import rank_environments
from smolplan.spec import RunSpec, load_preset

COMMAND = "python -m benchmarks.trainer_gpu"
WARM_STEPS, STEPS = 2, 4
LIMIT = 0.05
HEAD = ("case", "predicted GiB", "peak GiB", "error", "tokens/s", "MFU")
GIB = 2.0**30


@dataclass(frozen=True)
class Case:
    preset: str
    layers: int
    seq_len: int
    micro_batch_size: int
    accumulation: int = 1
    recompute: str = "none"
    zero_stage: int = 3
    precision: str = "bf16"

    def spec(self) -> RunSpec:
        whole = load_preset("tiny-cpu").model_dump()
        whole["model"] = load_preset(self.preset).model.model_dump() | {"layers": self.layers}
        whole["data"]["seq_len"] = self.seq_len
        whole["optim"] |= {
            "precision": self.precision,
            "global_batch_size": self.micro_batch_size * self.accumulation,
        }
        whole["parallel"] |= {
            "data_parallel": 1,
            "micro_batch_size": self.micro_batch_size,
            "zero_stage": self.zero_stage,
            "recompute": self.recompute,
        }
        whole["cluster"] |= {"gpu": "h100", "gpus_per_node": 1}
        return RunSpec.model_validate(whole)

    def __str__(self) -> str:
        told = f"{self.preset}, {self.layers} layers, {self.seq_len} tokens × "
        told += f"{self.micro_batch_size}"
        told += f" × {self.accumulation}" if self.accumulation > 1 else ""
        told += ", recomputed" if self.recompute == "full" else ""
        told += f", stage {self.zero_stage}" if self.zero_stage != 3 else ""
        return told + (f", {self.precision}" if self.precision != "bf16" else "")


CASES = (
    Case("llama3.2-1b", 16, 2048, 2),
    Case("llama3.2-1b", 16, 2048, 2, accumulation=2),
    Case("llama3.2-1b", 16, 2048, 8, recompute="full"),
    Case("llama3.2-1b", 16, 256, 2),
    Case("llama3.2-1b", 16, 2048, 2, zero_stage=2),
    Case("llama3.2-1b", 8, 1024, 4, precision="fp32"),
    Case("smollm2-1.7b", 24, 2048, 4, recompute="full"),
    Case("smollm3-3b", 36, 4096, 1, recompute="full"),
    Case("smollm3-3b", 36, 4096, 2, recompute="full"),
    Case("smollm3-3b", 9, 4096, 1),
)


def measure(case: Case) -> dict[str, Any]:
    """One case on this process's GPU. Raises torch.OutOfMemoryError where it does not fit."""
    import torch
    import torch.distributed as dist

    from trainer.optim import build_optimizer
    from trainer.parallel import join
    from trainer.passes import Passes

    spec = case.spec()
    os.environ |= rank_environments(1)[0]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    world = join(spec)
    passes = Passes(spec, world, separator=0)
    passes.initialise()
    optimizer = build_optimizer(passes.model, spec.optim)
    shape = (spec.optim.global_batch_size, spec.data.seq_len + 1)
    torch.manual_seed(0)
    tokens = torch.randint(spec.model.vocab_size, shape, device=world.device)
    times, losses = [], []
    for _ in range(WARM_STEPS + STEPS):
        began = time.perf_counter()
        losses.append(fmean(passes.backward(tokens)))
        passes.clip(spec.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    step_s = min(times[WARM_STEPS:])
    found = {
        "step_s": step_s,
        "losses": losses,
        "tokens_per_s": spec.global_batch_tokens / step_s,
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "device_used_bytes": torch.cuda.mem_get_info()[1] - torch.cuda.mem_get_info()[0],
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
    }
    dist.destroy_process_group()
    return found


def told_by(module: str, *words: str) -> dict[str, Any]:
    """What a process of its own measured, or as "error" the last line of what it said where it
    failed."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "found.json"
        command = [sys.executable, "-m", module, *words, "--told", str(told)]
        ended = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if ended.returncode:
            return {"error": last_words(ended.stderr)}
        found: dict[str, Any] = json.loads(told.read_text("utf-8"))
        return found


def last_words(stderr: str) -> str:
    """Behind the error torch warns that its process group was not destroyed."""
    lines = [line for line in stderr.splitlines() if line.strip() and "]:[W" not in line]
    return (lines or ["?"])[-1].strip()[:200]


def predicted_bytes(case: Case) -> float:
    return sum(line.value for line in trainer_memory_lines(case.spec(), "cuda"))


def row_of(case: Case, found: dict[str, Any]) -> list[str]:
    predicted = predicted_bytes(case)
    if "error" in found:
        return [str(case), f"{predicted / GIB:.2f}", found["error"], "", "", ""]
    spec = case.spec()
    flops_per_s = flops_per_token(spec.model, spec.data.seq_len) * found["tokens_per_s"]
    return [
        str(case),
        f"{predicted / GIB:.2f}",
        f"{found['peak_bytes'] / GIB:.2f}",
        f"{100 * (predicted / found['peak_bytes'] - 1):+.1f} %",
        f"{found['tokens_per_s']:,.0f}",
        f"{100 * flops_per_s / find_gpu('h100').peak_bf16_flops:.1f} %",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--write", type=Path, help="document whose section is written anew")
    parser.add_argument("--json", type=Path, help="file for what was measured")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--told", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case:
        options.told.write_text(json.dumps(measure(Case(**json.loads(options.case)))), "utf-8")
        return 0
    measured = []
    for case in CASES:
        measured.append(
            (case, told_by("benchmarks.trainer_gpu", "--case", json.dumps(asdict(case))))
        )
        print(" | ".join(row_of(*measured[-1])), flush=True)
    if options.json:
        told = [asdict(case) | found for case, found in measured]
        options.json.write_text(json.dumps(told, indent=1), "utf-8")
    text = "\n\n".join([_told(measured), markdown_table(HEAD, [row_of(*m) for m in measured])])
    print(text)
    if options.write:
        write_section(options.write, COMMAND, text)
    return int(any(_is_off(*each) for each in measured))


def _told(measured: list[tuple[Case, dict[str, Any]]]) -> str:
    where = next((f for _, f in measured if "gpu" in f), {"gpu": "no GPU", "torch": "?"})
    return f"{datetime.now(UTC):%Y-%m-%d}, {where['gpu']}, torch {where['torch']}."


def _is_off(case: Case, found: dict[str, Any]) -> bool:
    return "error" in found or abs(predicted_bytes(case) / found["peak_bytes"] - 1) > LIMIT


if __name__ == "__main__":
    sys.exit(main())
