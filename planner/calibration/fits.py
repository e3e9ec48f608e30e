"""A machine's measured times → the constants that the step-time model takes.

Every fit minimises squared relative errors, so that a short time
counts as much as a long one.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.kernels import attention_forward_s, matmul_s


@dataclass(frozen=True)
class Matmul:
    """An m×k by k×n product."""

    precision: str
    m: int
    n: int
    k: int
    seconds: float


@dataclass(frozen=True)
class Attention:
    """One forward of causal attention in bf16."""

    batch: int
    heads: int
    head_dim: int
    seq_len: int
    seconds: float


@dataclass(frozen=True)
class Memory:
    """A kernel that streams through memory: bytes read and written in all."""

    kind: str
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Collective:
    """`bytes` on each rank: the whole of what is reduced or gathered."""

    kind: str
    bytes: int
    ranks: int
    seconds: float


@dataclass(frozen=True)
class Calibration:
    """What was measured, where and when."""

    date: str
    """UTC, ISO 8601."""
    device: str
    """cuda or cpu."""
    machine: str
    """The GPU's name, or the CPU's model."""
    torch: str
    matmul: tuple[Matmul, ...]
    attention: tuple[Attention, ...]
    memory: tuple[Memory, ...]
    collective: tuple[Collective, ...]
    driver: str = ""
    """NVIDIA's version; empty on a CPU, where NVML does not tell, and in files older than it."""

    @property
    def gpus(self) -> int:
        """That collectives were measured among; 1 where none were."""
        return max((one.ranks for one in self.collective), default=1)

    @property
    def slice_of_gpu(self) -> bool:
        """Whether it is a part of a GPU, which CUDA calls "NVIDIA A100-SXM4-40GB MIG 3g.20gb"."""
        return bool(re.search(r"\bMIG \d+g\.", self.machine))


@dataclass(frozen=True)
class Line:
    """y = fixed + slope·x, and how far off it is."""

    fixed: float
    slope: float
    residual: float
    """Root mean square of (fitted − measured)/measured."""
    samples: int


@dataclass(frozen=True)
class MatmulFit:
    """The two constants of planner.kernels.matmul_s."""

    flops_per_s: float
    """What large products reach."""
    half_size: float
    residual: float
    samples: int


@dataclass(frozen=True)
class RateFit:
    """One rate: bytes/s or FLOP/s."""

    per_s: float
    residual: float
    samples: int


@dataclass(frozen=True)
class LinkFit:
    """t = latency + moved bytes/bandwidth, moved as nccl-tests counts it (planner/comms.py)."""

    bytes_per_s: float
    latency_s: float
    residual: float
    samples: int


@dataclass(frozen=True)
class Fits:
    """None where there was nothing to fit, or no positive rate explains it."""

    matmul: MatmulFit | None
    """In bf16."""
    matmul_fp32: MatmulFit | None
    attention: RateFit | None
    memory: RateFit | None
    links: dict[str, LinkFit]
    """By collective."""
    link: LinkFit | None
    """All collectives on one line: what a plan takes."""


def fit_line(points: Sequence[tuple[float, float]]) -> Line | None:
    """Least squares of relative errors, neither coefficient below zero. None without two
    x that differ, or where no line rises. Points need y > 0."""
    if len({x for x, _ in points}) < 2:
        return None
    # Weights 1/y: of the rows (1/y, x/y) against 1.
    aa = sum((1 / y) ** 2 for _, y in points)
    ab = sum(x / y**2 for x, y in points)
    bb = sum((x / y) ** 2 for x, y in points)
    a = sum(1 / y for _, y in points)
    b = sum(x / y for x, y in points)
    determinant = aa * bb - ab * ab
    if determinant <= 0:  # x so close together that nothing is left of their difference
        return None
    fixed = (bb * a - ab * b) / determinant
    slope = (aa * b - ab * a) / determinant
    if fixed < 0:
        fixed, slope = 0.0, b / bb
    if slope < 0:
        fixed, slope = a / aa, 0.0
    errors = _rms((fixed + slope * x) / y - 1 for x, y in points)
    return Line(fixed, slope, errors, len(points))


def fit_rate(points: Sequence[tuple[float, float]]) -> RateFit | None:
    """The rate of t = work/rate, from (work, t)."""
    if not points:
        return None
    inverse = sum(work / t for work, t in points) / sum((work / t) ** 2 for work, t in points)
    errors = _rms(inverse * work / t - 1 for work, t in points)
    return RateFit(1 / inverse, errors, len(points))


def _rms(errors: Iterable[float]) -> float:
    squares = [error * error for error in errors]
    return math.sqrt(sum(squares) / len(squares))


def fit_matmul(
    samples: Sequence[Matmul], *, element_bytes: float, bytes_per_s: float | None
) -> MatmulFit | None:
    """Peak F and half size s of t⁴ = c⁴ + (bytes/B)⁴, c = 2mnk/F·(1 + s·(1/m + 1/n + 1/k)), with
    the memory's part taken off each time first: c/(2mnk) is then a line in 1/m + 1/n + 1/k.
    Samples that memory alone explains say nothing of F and are left out."""
    bandwidth = math.inf if bytes_per_s is None else bytes_per_s
    points, used = [], []
    for one in samples:
        m, n, k = one.m, one.n, one.k
        memory_s = element_bytes * (m * k + k * n + m * n) / bandwidth
        if one.seconds > memory_s:
            compute_s = (one.seconds**4 - memory_s**4) ** 0.25
            points.append((1 / m + 1 / n + 1 / k, compute_s / (2.0 * m * n * k)))
            used.append(one)
    line = fit_line(points)
    if line is None or line.fixed <= 0:
        return None
    flops_per_s, half_size = 1 / line.fixed, line.slope / line.fixed
    residual = _rms(
        float(
            matmul_s(
                one.m,
                one.n,
                one.k,
                flops_per_s=flops_per_s,
                hbm_bytes_per_s=bandwidth,
                half_size=half_size,
                element_bytes=element_bytes,
            )
        )
        / one.seconds
        - 1
        for one in used
    )
    return MatmulFit(flops_per_s, half_size, residual, len(used))


def attention_work(one: Attention) -> float:
    """FLOPs that planner.kernels.attention_forward_s counts: half of the scores are masked, and
    narrow heads pay for their exponentials."""
    work = attention_forward_s(
        one.batch * one.seq_len,
        one.seq_len,
        one.heads * one.head_dim,
        one.heads,
        flash=1.0,
        flops_per_s=1.0,
        hbm_bytes_per_s=1.0,
    )
    return float(work)


def moved_bytes(one: Collective) -> float:
    """Over each rank's link, by a ring (planner/comms.py); busbw is this over the time."""
    passes = 2.0 if one.kind == "all_reduce" else 1.0
    return passes * (one.ranks - 1) / one.ranks * one.bytes


def fit_link(samples: Sequence[Collective]) -> LinkFit | None:
    line = fit_line([(moved_bytes(one), one.seconds) for one in samples if one.ranks > 1])
    if line is None or line.slope <= 0:
        return None
    return LinkFit(1 / line.slope, line.fixed, line.residual, line.samples)


def fit(measured: Calibration) -> Fits:
    memory = fit_rate([(float(one.bytes), one.seconds) for one in measured.memory])
    bandwidth = None if memory is None else memory.per_s

    def products(precision: str, element_bytes: float) -> MatmulFit | None:
        chosen = [one for one in measured.matmul if one.precision == precision]
        return fit_matmul(chosen, element_bytes=element_bytes, bytes_per_s=bandwidth)

    links = {}
    for kind in dict.fromkeys(one.kind for one in measured.collective):
        line = fit_link([one for one in measured.collective if one.kind == kind])
        if line is not None:
            links[kind] = line
    return Fits(
        matmul=products("bf16", 2.0),
        matmul_fp32=products("fp32", 4.0),
        attention=fit_rate([(attention_work(one), one.seconds) for one in measured.attention]),
        memory=memory,
        links=links,
        link=fit_link(measured.collective),
    )
