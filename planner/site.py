"""From a run spec to what is searched: the job, and the site with its hardware and prices."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from planner import calibration
from planner.architecture import architecture_of
from planner.catalog import find_gpu, prices
from planner.energy import node_power
from planner.legality import Job
from planner.memory import (
    BUNDLED_TRAINER,
    FP32_STATE,
    GENERIC,
    MIXED_FP32_GRADIENTS_STATE,
    MIXED_STATE,
    MUON_STATE,
    StateBytes,
    find_conventions,
)
from planner.number_format import peak_flops
from planner.predict.catalog import Accelerator, SoftwareStack, find_accelerator, stacks
from planner.restrict import Restriction
from planner.stalls import DEFAULT_STORAGE, Storage
from planner.step_time import HBM_SHARE
from smolplan.errors import UserError

if TYPE_CHECKING:
    from smolplan.spec import RunSpec
    from smolplan.spec.optim import Precision

DEFAULT_STACK = "generic"
MEASURED = "measured"
"""The stack whose constants are the generic one's but for what `smolplan calibrate` measured."""
RACK = 8
"""Beyond so many GPUs the fast links join several of what a spec calls a node."""


@dataclass(frozen=True)
class Measured:
    """What a calibration puts in place of the catalogue's; None where it has nothing."""

    date: str
    machine: str
    matmul_share: float | None
    half_size: float | None
    attention_share: float | None
    link_share: float | None
    hbm_bytes_per_s: float | None
    """As a datasheet would have to say it: step times take HBM_SHARE of it."""


@dataclass(frozen=True)
class Fabric:
    """What joins the GPUs, where the user says so; None: as the catalogue has it."""

    link_bytes_per_s: float | None = None
    """Of one GPU to those that the fast links join, one direction."""
    node_network_bytes_per_s: float | None = None
    """Of all network adapters (rails) of a node, which its GPUs share."""
    oversubscription: float = 1.0
    """Bandwidth of a pod's nodes over that of its way out."""
    pod_nodes: int = 1
    """Nodes that the network's lowest switches join at full bandwidth."""


@dataclass(frozen=True)
class Site:
    """Where it runs: hardware, software, and what they cost."""

    accelerator: Accelerator
    stack: SoftwareStack
    peak_flops: float
    """FLOP/s, dense, of one GPU in the format of `precision`: the denominator of MFU."""
    hbm_bytes: float
    waiting_w: float
    """Of a GPU that waits, with its share of the node."""
    busy_w: float
    """Of one that always works, likewise."""
    power_source: str
    price_per_gpu_hour: float | None
    price_source: str
    measured: Measured | None = None
    fabric: Fabric = Fabric()
    storage: Storage = DEFAULT_STORAGE
    gpus_per_node: int = RACK
    precision: "Precision" = "bf16"

    @property
    def peak_text(self) -> str:
        """ "989.4 TFLOP/s" of bf16, "1,979 TFLOP/s of fp8"."""
        of = " of fp8" if self.precision == "fp8" else ""
        return f"{self.peak_flops / 1e12:,.4g} TFLOP/s{of}"

    def nodes(self, gpus: int) -> int:
        return -(-gpus // self.gpus_per_node)

    @property
    def link_bytes_per_s(self) -> float:
        """Of one GPU, one direction."""
        return self.fabric.link_bytes_per_s or self.accelerator.link_bytes_per_s

    @property
    def network_bytes_per_s(self) -> float:
        """One GPU's share of its node's network."""
        if self.fabric.node_network_bytes_per_s is not None:
            return self.fabric.node_network_bytes_per_s / self.gpus_per_node
        return self.stack.network_bytes_per_s or self.accelerator.network_bytes_per_s


def measured_of(stored: calibration.Calibration, accelerator: Accelerator) -> Measured:
    """A calibration as shares of the catalogue's figures for that GPU. Raises UserError if another
    device was measured."""
    if stored.device == "cpu":
        raise UserError(
            f"the stored calibration is of a CPU ({stored.machine}), which prices no GPU",
            where="--stack",
            remedy=f"Run smolplan calibrate on a machine with {accelerator.name} GPUs.",
        )
    if stored.slice_of_gpu:
        raise UserError(
            f"the stored calibration is of {stored.machine}, a part of a GPU, which prices no "
            f"whole one",
            where="--stack",
            remedy=f"Run smolplan calibrate on a whole {accelerator.name}.",
        )
    there = find_accelerator(stored.machine)
    if there is None or there.name != accelerator.name:
        raise UserError(
            f"the stored calibration is of {stored.machine}, not of {accelerator.name}",
            where="--stack",
            remedy=f"Run smolplan calibrate on a machine with {accelerator.name} GPUs.",
        )
    fits, peak = calibration.fit(stored), accelerator.peak_bf16_flops
    return Measured(
        date=stored.date,
        machine=stored.machine,
        matmul_share=None if fits.matmul is None else fits.matmul.flops_per_s / peak,
        half_size=None if fits.matmul is None else fits.matmul.half_size,
        attention_share=None if fits.attention is None else fits.attention.per_s / peak,
        link_share=None
        if fits.link is None
        else fits.link.bytes_per_s / accelerator.link_bytes_per_s,
        hbm_bytes_per_s=None if fits.memory is None else fits.memory.per_s / HBM_SHARE,
    )


def _measured_stack(measured: Measured) -> SoftwareStack:
    """The generic stack under a name that says which constants are not its own."""
    found = {
        "products": measured.matmul_share,
        "attention": measured.attention_share,
        "HBM": measured.hbm_bytes_per_s,
        "links": measured.link_share,
    }
    names = ", ".join(name for name, value in found.items() if value is not None) or "nothing"
    origin = f"{names} measured on {measured.machine}, {measured.date[:10]}"
    return replace(
        find_software(DEFAULT_STACK),
        name=f"{MEASURED} ({origin}; the rest as {DEFAULT_STACK})",
        source=f"smolplan calibrate: {origin}",
    )


def find_software(name: str) -> SoftwareStack:
    """A stack of the catalogue by name. Raises UserError with the near names."""
    for stack in stacks():
        if stack.name == name.strip().lower():
            return stack
    from smolplan.spec.parse import suggestion

    raise UserError(
        f"the software stack {name!r} is not in the catalogue",
        where="--stack",
        remedy=suggestion(name, [*(stack.name for stack in stacks()), MEASURED]),
    )


def site_of(
    spec: "RunSpec",
    *,
    stack: str = DEFAULT_STACK,
    price: float | None = None,
    stored: Path | None = None,
    fabric: Fabric = Fabric(),
    storage: Storage = DEFAULT_STORAGE,
) -> Site:
    """`stored`: the file of the calibration that the stack "measured" is read from.
    Raises UserError for a GPU whose links the catalogue does not know, for one without fp8 where
    that is asked of it, and for a calibration that is not there or not of that GPU."""
    if spec.cluster.gpu == "cpu":
        raise UserError(
            "how fast a CPU trains is not modelled",
            where="cluster.gpu",
            remedy="Name a GPU of the catalogue, such as h100.",
        )
    gpu = find_gpu(spec.cluster.gpu, where="cluster.gpu")
    accelerator = find_accelerator(gpu.name)
    if accelerator is None:
        raise UserError(
            f"the links of {gpu.name} are not in the catalogue (planner/catalog/networks.yaml)",
            where="cluster.gpu",
            remedy="Plan for another GPU.",
        )
    measured = None
    if stored is not None and stack.strip().lower() == MEASURED:
        measured = measured_of(calibration.read(stored), accelerator)
    source = "--price"
    if price is None and spec.cluster.price_per_gpu_hour is not None:
        price, source = spec.cluster.price_per_gpu_hour, "cluster.price_per_gpu_hour"
    if price is None and (row := prices().get(gpu.name)) is not None:
        price = row.low
        source = f"low end of ${row.low:.2f} to ${row.high:.2f}, {row.source}, {row.date}"
    waiting, busy = (node_power(gpu, utilisation=share) for share in (0.0, 1.0))
    return Site(
        accelerator=accelerator,
        stack=find_software(stack) if measured is None else _measured_stack(measured),
        peak_flops=peak_flops(spec.optim.precision, gpu),
        hbm_bytes=gpu.hbm_bytes,
        waiting_w=waiting.total_w,
        busy_w=busy.total_w,
        power_source=busy.source + ("; assumed of this GPU" if busy.assumed else ""),
        price_per_gpu_hour=price,
        price_source="none is known" if price is None else source,
        measured=measured,
        fabric=fabric,
        storage=storage,
        gpus_per_node=spec.cluster.gpus_per_node,
        precision=spec.optim.precision,
    )


def state_of(stack: SoftwareStack, *, trainer: bool, muon: bool = False) -> StateBytes:
    """The bundled trainer keeps all in fp32; a stack whose conventions are known as it does;
    another one bf16 weights, and gradients as it reduces them."""
    if trainer:
        return MUON_STATE if muon else FP32_STATE
    if (known := find_conventions(stack.name)).name != GENERIC.name:
        return known.state
    return MIXED_FP32_GRADIENTS_STATE if stack.gradient_bytes >= 4 else MIXED_STATE


def job_of(
    spec: "RunSpec",
    site: Site,
    *,
    gpus: int | None = None,
    restrictions: tuple[Restriction, ...] = (),
    trainer: bool = False,
    tensor_across_domains: bool = False,
    uneven_stages: bool = False,
) -> Job:
    """The spec's model, sequence and batch on its own GPUs, or on others. Raises UserError for
    GPUs that are no whole nodes."""
    if spec.optim.precision == "fp32":
        raise UserError(
            "step times are known for bf16 and fp8 only",
            where="optim.precision",
            remedy="Set it to bf16, or to fp8 where the GPUs have it, to plan for them.",
        )
    per_node = spec.cluster.gpus_per_node
    gpus = spec.cluster.gpus if gpus is None else gpus
    if gpus > per_node and gpus % per_node:
        raise UserError(
            f"{gpus:,} GPUs are no whole nodes of {per_node} (cluster.gpus_per_node)",
            where="--gpus",
            remedy=f"Give {gpus // per_node * per_node:,} or {-(-gpus // per_node) * per_node:,}.",
        )
    domain = site.accelerator.gpus_per_domain
    muon = spec.optim.optimizer == "muon"
    return Job(
        architecture=architecture_of(spec.model),
        seq_len=spec.data.seq_len,
        global_batch_size=spec.optim.global_batch_size,
        gpus=gpus,
        domain=domain if domain > RACK else min(domain, per_node),
        hbm_bytes=site.hbm_bytes,
        state=state_of(site.stack, trainer=trainer, muon=muon),
        tensor_across_domains=tensor_across_domains,
        conventions=BUNDLED_TRAINER if trainer else find_conventions(site.stack.name),
        trainer=trainer,
        fp8=spec.optim.precision == "fp8",
        muon=muon,
        uneven_stages=uneven_stages or spec.parallel.uneven_stages,
        checkpoint_every_steps=spec.checkpoint.every_steps,
        restrictions=restrictions,
    )
