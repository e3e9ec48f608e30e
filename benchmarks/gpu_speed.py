"""`python -m benchmarks.gpu_speed`: one GPU training the 3B shape, and what else fits: the bundled
trainer beside transformers' class for it and beside plain PyTorch, and where the time goes.

All train the same weights on the same batches of random tokens, by fused AdamW, with weights and
moments in fp32 and products in bf16, each in a process of its own; where documents are masked there
are some, of DOCUMENT_TOKENS in the mean. MFU is by the planner's exact count of FLOPs. A step more
under torch's profiler tells what the GPU spends it on; what its kernels do not fill is idle. Exit 1
where another is faster, or the best of the bundled trainer's is below LEAST_MFU.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers.document import markdown_table, write_section
from benchmarks.trainer_gpu import GIB, Case, told_by
from planner.catalog import find_gpu
from planner.flops import flops_per_token

COMMAND = "python -m benchmarks.gpu_speed"
WARM_STEPS, STEPS = 3, 6
SEPARATOR, DOCUMENT_TOKENS = 0, 1024
LEAST_MFU = 0.5

PROGRAMS: dict[str, dict[str, Any]] = {
    "smolplan": {"compile": True},
    "smolplan, deterministic": {"compile": True, "deterministic": True},
    "smolplan, not compiled": {},
    "smolplan, documents masked": {"compile": True, "documents": True},
    "smolplan, fp8": {"compile": True, "fp8": True},
    "transformers": {"kind": "transformers"},
    "transformers, compiled": {"kind": "transformers", "compile": True},
    "plain PyTorch": {"kind": "plain"},
    "plain PyTorch, compiled": {"kind": "plain", "compile": True},
}

SHAPES = {
    "3B": Case("smollm3-3b", 36, 4096, 1, accumulation=8, zero_stage=2),
    "3B, recomputed": Case("smollm3-3b", 36, 4096, 4, accumulation=2, recompute="full"),
    # As much of it as a rank of many has memory for without recomputation.
    "12 layers of 3B": Case("smollm3-3b", 12, 4096, 4, accumulation=2, zero_stage=2),
    "1B": Case("llama3.2-1b", 16, 4096, 2, accumulation=4, zero_stage=2),
}


@dataclass(frozen=True)
class Program:
    case: Case
    kind: str = "smolplan"
    compile: bool = False
    deterministic: bool = False
    documents: bool = False
    fp8: bool = False
    device: str = "cuda"

    @property
    def bf16(self) -> bool:
        return self.case.precision != "fp32"


Step = Callable[[Any], float]
"""Makes one step of a batch of tokens, int64 (global batch, seq_len + 1); its loss in nats."""


def made(program: Program) -> Step:
    return {"smolplan": _smolplan, "transformers": _transformers, "plain": _plain}[program.kind](
        program
    )


def spec_of(program: Program) -> Any:
    from smolplan.spec import RunSpec

    whole = program.case.spec().model_dump()
    whole["model"]["intra_document_mask"] = program.documents
    whole["optim"]["precision"] = "fp8" if program.fp8 else program.case.precision
    whole["optim"] |= {"weight_decay": 0.0, "learning_rate": 3e-4}
    whole["launch"] |= {"compile": program.compile, "deterministic": program.deterministic}
    if program.device == "cpu":
        whole["cluster"]["gpu"] = "cpu"
    return RunSpec.model_validate(whole)


def _smolplan(program: Program) -> Step:
    import os

    import torch

    from preflight.ranks import rank_environments
    from trainer.optim import build_optimizer
    from trainer.parallel import join
    from trainer.passes import Passes

    spec = spec_of(program)
    os.environ |= rank_environments(1)[0]
    torch.use_deterministic_algorithms(program.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    passes = Passes(spec, join(spec), SEPARATOR)
    passes.initialise()
    optimizer = build_optimizer(passes.model, spec.optim)

    def step(tokens: Any) -> float:
        losses = passes.backward(tokens)
        passes.clip(spec.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return sum(losses) / len(losses)

    return step


def _plain(program: Program) -> Step:
    from benchmarks.peers.plain_decoder import PlainDecoder

    spec, case = spec_of(program), program.case
    model = PlainDecoder(spec.model, case.seq_len, recompute=case.recompute == "full")
    return _usual(program, model, model)


def _transformers(program: Program) -> Step:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from trainer.huggingface.families import family_of

    spec, case = spec_of(program), program.case
    _, config = family_of(spec.model, case.seq_len)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.from_pretrained(folder), dtype=torch.float32, attn_implementation="sdpa"
        )
    model.config.use_cache = False
    model.train()
    if case.recompute == "full":
        model.activation_checkpointing_enable({"use_reentrant": False})

    def loss(tokens: Any, targets: Any) -> Any:
        told = targets.contiguous()
        return model(input_ids=tokens, labels=told, shift_labels=told).loss

    return _usual(program, model, loss)


def _usual(program: Program, model: Any, loss: Callable[[Any, Any], Any]) -> Step:
    """The loop that one writes around a model, with automatic mixed precision."""
    import torch

    from trainer.model.transformer import initialise

    spec, case = spec_of(program), program.case
    if program.compile:
        for layer in model.model.layers:
            layer.compile()
    initialise(model, spec.model.init_std, spec.seed)
    model.to(program.device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=spec.optim.learning_rate,
        betas=(spec.optim.beta1, spec.optim.beta2),
        eps=spec.optim.eps,
        weight_decay=0.0,
        fused=True,
    )

    def step(tokens: Any) -> float:
        pieces, total = tokens.split(case.micro_batch_size), 0.0
        for piece in pieces:
            with torch.autocast(program.device, torch.bfloat16, enabled=program.bf16):
                found = loss(piece[:, :-1], piece[:, 1:]) / len(pieces)
            found.backward()
            total = total + found.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(total)

    return step


def measure(program: Program, steps: int = STEPS) -> dict[str, Any]:
    """Losses; and on a GPU the median step in s, the allocator's peak, and ms of a step by kind of
    kernel. Raises torch.OutOfMemoryError where it does not fit."""
    import torch

    case, on_gpu = program.case, program.device == "cuda"
    step = made(program)
    shape = (case.micro_batch_size * case.accumulation, case.seq_len + 1)
    generator = torch.Generator().manual_seed(0)
    vocabulary = spec_of(program).model.vocab_size
    tokens = torch.randint(1, vocabulary, shape, generator=generator)
    if program.documents:
        tokens[torch.rand(shape, generator=generator) < 1 / DOCUMENT_TOKENS] = SEPARATOR
    tokens = tokens.to(program.device)
    times, losses = [], []
    for _ in range(WARM_STEPS + steps if on_gpu else steps):
        began = time.perf_counter()
        losses.append(step(tokens))
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    found: dict[str, Any] = {"losses": losses}
    if on_gpu:
        found |= {
            "step_s": median(times[WARM_STEPS:]),
            "peak_bytes": torch.cuda.max_memory_allocated(),
            "kernels_ms": _profiled(lambda: step(tokens)),
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
        }
    return found


def _profiled(step: Callable[[], float]) -> dict[str, float]:
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    on_gpu = (e for e in profiler.events() if e.device_type.name == "CUDA")
    kernels = (e for e in on_gpu if not e.is_user_annotation)  # which span kernels
    return by_kind((e.name, e.time_range.elapsed_us() / 1e3) for e in kernels)


KINDS = {
    "attention": r"flash|fmha|sdpa|flex|attention",
    "products": r"gemm|nvjet|cutlass|cublas|xmma|splitk|_mm_",
    "optimiser and norm": r"adam|multi_tensor|lpnorm|norm_kernel",
    "loss": r"softmax|nll|cross_entropy|scatter|gather",
    "copies and casts": r"copy|memcpy|memset|catarray|chunk_cat|split_with|fill",
}
OTHER = "element by element"


def kind_of(kernel: str) -> str:
    """By the name that torch's profiler tells of a kernel; attention's bear those of products."""
    for kind, pattern in KINDS.items():
        if re.search(pattern, kernel, re.IGNORECASE):
            return kind
    return OTHER


def by_kind(kernels: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The sum of the times of each kind that there is."""
    found: dict[str, float] = defaultdict(float)
    for name, spent in kernels:
        found[kind_of(name)] += spent
    return dict(found)


def in_a_process(program: Program) -> dict[str, Any]:
    """What measure() found, or as "error" the last line of what it said where it failed."""
    return told_by("benchmarks.gpu_speed", "--program", json.dumps(asdict(program)))


def of_words(text: str) -> Program:
    words = json.loads(text)
    return Program(**words | {"case": Case(**words["case"])})


HEAD = ("shape, program", "tokens/s", "MFU", "peak GiB", "loss after")


def mfu(program: Program, found: Mapping[str, Any]) -> float:
    spec = spec_of(program)
    tokens_per_s = spec.global_batch_tokens / found["step_s"]
    per_token = flops_per_token(spec.model, spec.data.seq_len)
    return float(per_token * tokens_per_s / find_gpu("h100").peak_bf16_flops)


def row_of(name: str, program: Program, found: Mapping[str, Any]) -> list[str]:
    if "error" in found:
        return [name, found["error"], "", "", ""]
    return [
        name,
        f"{spec_of(program).global_batch_tokens / found['step_s']:,.0f}",
        f"**{100 * mfu(program, found):.1f} %**",
        f"{found['peak_bytes'] / GIB:.1f}",
        f"{found['losses'][-1]:.3f}",
    ]


KERNELS = ("shape, program: ms of a step", *KINDS, OTHER, "idle")


def kernels_of(name: str, found: Mapping[str, Any]) -> list[str]:
    spent = found["kernels_ms"]
    busy, step_ms = sum(spent.values()), 1e3 * found["step_s"]
    of_each = [spent.get(kind, 0.0) for kind in (*KINDS, OTHER)] + [max(0.0, step_ms - busy)]
    return [f"{name}: {step_ms:,.0f}", *(f"{ms:,.0f}" for ms in of_each)]


def behind(measured: Sequence[tuple[str, Program, Mapping[str, Any]]]) -> bool:
    """Whether another program is faster than the bundled trainer at its best, in bf16 and without
    masks, at any shape; or it nowhere makes LEAST_MFU."""
    best: dict[tuple[Case, bool], float] = defaultdict(float)
    for _, program, found in measured:
        if "error" in found or program.fp8 or program.documents:
            continue
        key = program.case, program.kind == "smolplan"
        best[key] = max(best[key], mfu(program, found))
    ours = {case: most for (case, is_ours), most in best.items() if is_ours}
    theirs = {case: most for (case, is_ours), most in best.items() if not is_ours}
    slower = any(ours.get(case, 0.0) < most for case, most in theirs.items())
    return slower or max(ours.values(), default=0.0) < LEAST_MFU


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--only", choices=PROGRAMS, action="append", help="program, or all")
    parser.add_argument("--write", type=Path, help="document whose section is written anew")
    parser.add_argument("--json", type=Path, help="file for what was measured")
    parser.add_argument("--program", help=argparse.SUPPRESS)
    parser.add_argument("--told", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.program:
        options.told.write_text(json.dumps(measure(of_words(options.program))), "utf-8")
        return 0
    measured = []
    for shape in options.shape or SHAPES:
        for name in options.only or PROGRAMS:
            program = replace(Program(SHAPES[shape]), **PROGRAMS[name])
            measured.append((f"{shape}, {name}", program, in_a_process(program)))
            print(" | ".join(row_of(*measured[-1])), flush=True)
    if options.json:
        told = [{"name": name} | asdict(program) | found for name, program, found in measured]
        options.json.write_text(json.dumps(told, indent=1), "utf-8")
    done = [(name, found) for name, _, found in measured if "error" not in found]
    where = done[0][1] if done else {"gpu": "no GPU", "torch": "?"}
    text = "\n\n".join(
        [
            f"{datetime.now(UTC):%Y-%m-%d}, {where['gpu']}, torch {where['torch']}.",
            markdown_table(HEAD, [row_of(*each) for each in measured]),
            markdown_table(KERNELS, [kernels_of(*each) for each in done]),
        ]
    )
    print(text)
    if options.write:
        write_section(options.write, COMMAND, text)
    return int(behind(measured))


if __name__ == "__main__":
    sys.exit(main())
