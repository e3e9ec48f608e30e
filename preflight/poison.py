"""Environment variables that are left over from looking for an error, or break a run outright.

From memory of the manuals of CUDA, NCCL ("Environment Variables") and torch.distributed; the first
four also stand in the list that gpud refuses (components/…/bad-envs).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from preflight.expected import Planned
from preflight.oddity import Oddity
from smolplan.units import count_of

Holds = Callable[[str], bool]


def _on(value: str) -> bool:
    return value.strip().lower() not in ("", "0", "false", "no", "off", "n")


def _off(value: str) -> bool:
    return value.strip().lower() in ("0", "false", "no", "off", "n")


def _any(value: str) -> bool:
    return True


def _one_of(*words: str) -> Holds:
    return lambda value: value.strip().upper() in words


@dataclass(frozen=True)
class Poison:
    name: str
    holds: Holds
    why: str
    grave: bool = False
    gpu_only: bool = True


def _by_torchrun(name: str) -> Poison:
    return Poison(
        name,
        _any,
        "torchrun sets it for each rank, and one value for all of them makes them all one rank",
        grave=True,
        gpu_only=False,
    )


POISONS = (
    Poison(
        "CUDA_LAUNCH_BLOCKING",
        _on,
        "each kernel is waited for before the next is sent: nothing overlaps",
    ),
    Poison(
        "NCCL_DEBUG",
        _one_of("INFO", "TRACE"),
        "every rank writes a line for each channel (TRACE: for each call) into its log",
    ),
    Poison(
        "TORCH_DISTRIBUTED_DEBUG",
        _one_of("DETAIL"),
        "every collective is checked by another one before it",
        gpu_only=False,
    ),
    Poison("NCCL_P2P_DISABLE", _on, "GPUs of a node talk through host memory, not over NVLink"),
    Poison("NCCL_SHM_DISABLE", _on, "ranks of a node talk over the network"),
    Poison(
        "NCCL_NVLS_ENABLE",
        _off,
        "all-reduce in a node loses NVLink SHARP: 360 GB/s instead of 480 on 8 H100",
    ),
    Poison("NCCL_CUMEM_ENABLE", _off, "NCCL cannot register memory for NVLink SHARP"),
    Poison("NCCL_ALGO", _any, "the algorithm is pinned for all sizes, NCCL's own choice is off"),
    Poison("NCCL_PROTO", _any, "the protocol is pinned for all sizes, NCCL's own choice is off"),
    Poison("TORCH_NCCL_BLOCKING_WAIT", _on, "the host waits for each collective: nothing overlaps"),
    Poison("NCCL_BLOCKING_WAIT", _on, "the host waits for each collective: nothing overlaps"),
    Poison(
        "TORCH_NCCL_ASYNC_ERROR_HANDLING",
        _off,
        "a broken collective hangs for ever, where it should end the rank",
    ),
    Poison(
        "NCCL_ASYNC_ERROR_HANDLING",
        _off,
        "a broken collective hangs for ever, where it should end the rank",
    ),
    Poison("PYTORCH_NO_CUDA_MEMORY_CACHING", _on, "each tensor is a cudaMalloc: many times slower"),
    Poison("NVIDIA_TF32_OVERRIDE", _any, "it overrides what torch is told of TF32"),
    Poison("TORCHDYNAMO_DISABLE", _on, "nothing is compiled", gpu_only=False),
    Poison("TORCH_COMPILE_DEBUG", _on, "each compilation writes a folder", gpu_only=False),
    Poison(
        "TORCH_CPP_LOG_LEVEL",
        _one_of("INFO"),
        "each collective is a line in the log",
        gpu_only=False,
    ),
    Poison(
        "CUBLAS_WORKSPACE_CONFIG",
        lambda value: value not in (":4096:8", ":16:8", ":4096:2:16:8"),
        "cuBLAS is not deterministic with it: the trainer refuses to compute",
        grave=True,
    ),
    Poison("LD_PRELOAD", _any, "a library is put before all others in every rank", gpu_only=False),
    *map(_by_torchrun, ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")),
)

ACROSS = (
    Poison("NCCL_IB_DISABLE", _on, "nodes talk over TCP, not over InfiniBand or RoCE"),
    Poison("NCCL_NET_GDR_LEVEL", _one_of("0", "LOC"), "the network goes through host memory"),
    Poison("NCCL_NET_GDR_DISABLE", _on, "the network goes through host memory"),
    Poison("NCCL_NET", _one_of("SOCKET"), "nodes talk over TCP, not over InfiniBand or RoCE"),
    Poison("NCCL_SOCKET_IFNAME", _one_of("LO", "=LO"), "no other node can be reached", grave=True),
    Poison(
        "GLOO_SOCKET_IFNAME",
        _one_of("LO"),
        "no other node can be reached",
        grave=True,
        gpu_only=False,
    ),
)
"""What matters once there is more than one node."""

SECRETS = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "API_KEY", "ACCESS_KEY", "PRIVATE_KEY")


def spec_oddities(run: Planned) -> Iterator[Oddity]:
    """What launch.environment of the spec has that it should not."""
    given = run.spec.launch.environment
    yield from environment_oddities(run, given, "launch.environment.{}", "Remove {} from the spec.")
    for name, value in given.items():
        if value and any(word in name.upper() for word in SECRETS):
            yield Oddity(
                f"launch.environment.{name}",
                "(not shown)",
                "a secret in the spec is copied into every run folder, log and checkpoint",
                f"Remove {name} from the spec, and set it in the shell that launches.",
            )
    threads = given.get("OMP_NUM_THREADS", "")
    if threads and threads != str(run.spec.launch.threads_per_rank):
        yield Oddity(
            "launch.environment.OMP_NUM_THREADS",
            threads,
            f"it contradicts launch.threads_per_rank {run.spec.launch.threads_per_rank}",
            "Set launch.threads_per_rank only.",
        )
    connections = given.get("CUDA_DEVICE_MAX_CONNECTIONS", "")
    parallel = run.spec.parallel
    if connections == "1" and parallel.tensor_parallel * parallel.context_parallel == 1:
        yield Oddity(
            "launch.environment.CUDA_DEVICE_MAX_CONNECTIONS",
            "1",
            "it orders the kernels of tensor parallelism, of which there is none, and keeps FSDP's "
            "transfers from overlapping",
            "Remove CUDA_DEVICE_MAX_CONNECTIONS from the spec.",
        )


def environment_oddities(
    run: Planned, environment: Mapping[str, str], field: str, remedy: str
) -> Iterator[Oddity]:
    """What an environment has that it should not; `field` and `remedy` with {} for the name."""
    cluster = run.spec.cluster
    for poison in (*POISONS, *(ACROSS if cluster.nodes > 1 else ())):
        value = environment.get(poison.name)
        if value is None or not poison.holds(value) or (poison.gpu_only and cluster.gpu == "cpu"):
            continue
        yield Oddity(
            field.format(poison.name), value, poison.why, remedy.format(poison.name), poison.grave
        )
    devices = environment.get("CUDA_VISIBLE_DEVICES")
    if devices is not None and cluster.gpu != "cpu":
        count = len([name for name in devices.split(",") if name.strip()])
        if count < cluster.gpus_per_node:
            yield Oddity(
                field.format("CUDA_VISIBLE_DEVICES"),
                devices or '""',
                f"a rank sees {count_of(count, 'GPU')} where cluster.gpus_per_node is "
                f"{cluster.gpus_per_node}",
                remedy.format("CUDA_VISIBLE_DEVICES"),
                grave=True,
            )
