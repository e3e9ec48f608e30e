"""Accelerators and software stacks that published runs name, from the catalogue."""

import re
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

import yaml


@dataclass(frozen=True)
class Accelerator:
    """A row of networks.yaml, which explains the fields."""

    name: str
    matches: str
    peak_bf16_flops: float
    peak_fp8_flops: float | None
    peak_fp4_flops: float | None
    hbm_bytes_per_s: float
    link_bytes_per_s: float
    gpus_per_domain: int
    network_bytes_per_s: float
    source: str


@dataclass(frozen=True)
class Constants:
    """The fitted numbers of planner.step_inputs.Stack, which explains them."""

    matmul_share: float
    fp8_share: float
    block_fp8_share: float
    fp4_share: float
    half_size: float
    attention_share: float
    elementwise_bytes: float
    host_s: float
    collective_latency_s: float
    pipelined_latency_s: float
    send_latency_s: float
    link_share: float
    network_share: float
    tensor_exposed: float
    data_exposed: float
    expert_share: float
    scan_share: float
    step_s: float
    replica_latency_s: float


CONSTANT_NAMES = tuple(field.name for field in fields(Constants))


@dataclass(frozen=True)
class SoftwareStack:
    """A row of stacks.yaml, which explains the fields."""

    name: str
    matches: str
    gradient_bytes: float
    balanced_stages: bool
    reduces_shares: bool
    interleaves: bool
    flash: bool
    sequence_parallel: bool
    network_bytes_per_s: float | None
    like: str | None
    """The stack whose constants its own are held to; None for the generic ones."""
    source: str


def read_catalogue(name: str) -> Any:
    text = (resources.files("planner") / "catalog" / name).read_text("utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@cache
def accelerators() -> tuple[Accelerator, ...]:
    """All rows, in the order in which they are tried."""
    return tuple(Accelerator(**row) for row in read_catalogue("networks.yaml"))


def find_accelerator(name: str) -> Accelerator | None:
    """The first row whose pattern a published name holds; None for none, for a mixture, and for a
    slice of a GPU, "NVIDIA A100-SXM4-40GB MIG 3g.20gb", whose rates are no whole one's."""
    if "+" in name or re.search(r"\bMIG\b", name):
        return None
    return next((a for a in accelerators() if re.search(a.matches, name, re.I)), None)


@cache
def stacks() -> tuple[SoftwareStack, ...]:
    """All rows, in the order in which they are tried; the last one matches everything."""
    return tuple(SoftwareStack(**row) for row in read_catalogue("stacks.yaml")["stacks"])


def find_stack(text: str) -> SoftwareStack:
    """The first row whose pattern a run's model, source and notes hold."""
    return next(stack for stack in stacks() if re.search(stack.matches, text))


Fitted = dict[str, dict[str, Constants]]
"""Constants by stack, then by accelerator; under "other" for those not named."""

GENERIC = "generic"
OTHER = "other"


@cache
def fitted_constants() -> Fitted:
    """What the catalogue holds."""
    constants = read_catalogue("stacks.yaml")["constants"]
    return {
        stack: {gpu: Constants(**values) for gpu, values in by_gpu.items()}
        for stack, by_gpu in constants.items()
    }


def constants_for(fitted: Fitted, stack: str, accelerator: str) -> Constants:
    """A stack's on that GPU; else the stack's on all its GPUs; else those of all stacks on that
    GPU; else of all stacks on all GPUs."""
    own, generic = fitted.get(stack, {}), fitted[GENERIC]
    for by_gpu, name in ((own, accelerator), (own, OTHER), (generic, accelerator)):
        if name in by_gpu:
            return by_gpu[name]
    return generic[OTHER]
