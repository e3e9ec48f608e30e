"""The blocks' linear layers in fp8 (optim.precision: fp8), put on the model from outside.

By torchao's float8 training. Weights are kept, gathered and reduced as for bf16; each of a layer's
three products casts what it multiplies, activations and weights to e4m3 and gradients to e5m2, by
one scale a tensor, which is taken of its largest element at that moment. One a tensor rather than
one a row: it is torchao's default and its fastest (Llama 3 8B on H100s: 7,190 tokens/s a GPU, with
one a row 6,649, in bf16 6,019; pytorch/ao, pull request 1793), and where torchtitan calls it
stable, it calls the other alpha (its docs/float8.md). One a row bears outliers better.

What stays in bf16 is what DeepSeek-V3 kept (arXiv 2412.19437, section 3.3.1): embedding, head,
router, norms, attention itself; and, unlike there, the stacked experts.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import TypeGuard

import torch
from torch import nn

from smolplan.errors import ExitCode, NamedExit
from smolplan.spec import RunSpec
from smolplan.spec.fp8 import CAPABILITY, SIDES
from trainer.model.block import Block

log = logging.getLogger("trainer")

KEPT = "in_proj_ba"
"""Of gated DeltaNet: a few columns, by which its state forgets and is written to."""


def multiply_in_fp8(blocks: Sequence[Block], spec: RunSpec, device_type: str) -> None:
    """Names of parameters stay. Raises NamedExit BAD_SPEC where the device has no fp8, or torchao
    is not installed."""
    emulated = spec.cluster.gpu == "cpu"
    if not emulated:
        check_device(device_type)
    level = logging.getLogger("torchao").level
    logging.getLogger("torchao").setLevel(logging.ERROR)  # it warns of kernels not used here
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise NamedExit(
            ExitCode.BAD_SPEC,
            f"optim.precision is fp8, which needs torchao ({error}): pip install 'smolplan[fp8]', "
            f"or make it bf16",
        ) from None
    finally:
        logging.getLogger("torchao").setLevel(level)
    config = Float8LinearConfig(emulate=emulated)
    tensor = spec.parallel.tensor_parallel
    taken = 100 * share(blocks, tensor)
    takes = partial(takes_fp8, tensor_parallel=tensor)
    for block in blocks:
        convert_to_float8_training(block, module_filter_fn=takes, config=config)
    log.info("%.1f %% of the blocks' matrix parameters multiply in fp8", taken)
    if emulated:
        log.warning("fp8 is emulated on the CPU: for tests and small runs, and slow")


def takes_fp8(module: nn.Module, name: str, tensor_parallel: int = 1) -> TypeGuard[nn.Linear]:
    """Whether a module of a block, of that name within it, multiplies in fp8: so that a
    tensor-parallel rank's share of either side will do."""
    sides = SIDES * tensor_parallel
    return (
        isinstance(module, nn.Linear)
        and not name.endswith(KEPT)
        and all(side % sides == 0 for side in module.weight.shape)
    )


def share(blocks: Sequence[Block], tensor_parallel: int = 1) -> float:
    """Of the blocks' matrix parameters, those that multiply in fp8."""
    takes = partial(takes_fp8, tensor_parallel=tensor_parallel)
    matrices = taken = 0
    for block in blocks:
        matrices += sum(p.numel() for p in block.parameters() if p.dim() > 1)
        taken += sum(m.weight.numel() for n, m in block.named_modules() if takes(m, n))
    return taken / matrices if matrices else 0.0


def check_device(device_type: str) -> None:
    """Raises NamedExit BAD_SPEC where this rank's device does not multiply in fp8."""
    if device_type != "cuda":
        raise NamedExit(
            ExitCode.BAD_SPEC,
            "optim.precision is fp8, and there is no GPU here: start the run on GPUs that have it "
            "(H100, L40S and newer), or make it bf16; on CPUs it is emulated only where "
            "cluster.gpu is cpu",
        )
    capability = torch.cuda.get_device_capability()
    if capability < CAPABILITY:
        raise NamedExit(
            ExitCode.BAD_SPEC,
            f"optim.precision is fp8, and {torch.cuda.get_device_name()} has compute capability "
            f"{'.'.join(map(str, capability))}: fp8 takes "
            f"{'.'.join(map(str, CAPABILITY))} or more (H100, L40S and newer), so make it "
            f"bf16",
        )
