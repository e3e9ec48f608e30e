"""torch's edge as the measuring program touches it, faked: one GPU as told in FAKE_TORCH (JSON),
whose kernels take no time to speak of. Nothing is faked of what several would need.

Tests put it where `import torch` finds it, so that the real program runs in its real process.
"""

import json
import math
import os
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

TOLD = json.loads(os.environ["FAKE_TORCH"])
__version__ = TOLD.get("version", "9.9.0+cu999")
bfloat16, float32 = "bfloat16", "float32"


distributed = MagicMock()
for _name in (
    *("", ".elastic", ".elastic.multiprocessing", ".elastic.multiprocessing.api"),
    *(".elastic.multiprocessing.errors", ".elastic.rendezvous", ".launcher", ".launcher.api"),
):
    sys.modules[f"torch.distributed{_name}"] = distributed


class OutOfMemoryError(RuntimeError):
    __module__ = "torch"


class _Tensor:
    def copy_(self, other: "_Tensor") -> "_Tensor":
        return self


def _make(*size: Any, **how: Any) -> _Tensor:
    if TOLD.get("full") or (len(size) == 2 and min(size) > TOLD.get("side", math.inf)):
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 1024.00 MiB.")
    return _Tensor()


def _compute(*of: Any, **how: Any) -> None:
    sum(range(200))


randn = empty = ones = _make
mm = add = _compute
nn = SimpleNamespace(functional=SimpleNamespace(scaled_dot_product_attention=_compute))
NAMES = TOLD.get("names", [TOLD.get("name", "NVIDIA H100 80GB HBM3")])
cuda = SimpleNamespace(
    is_available=lambda: TOLD.get("device", "cuda") == "cuda",
    synchronize=lambda: None,
    empty_cache=lambda: None,
    is_bf16_supported=lambda including_emulation=True: (
        including_emulation or TOLD.get("bf16", True)
    ),
    device_count=lambda: len(NAMES),
    get_device_name=lambda index: NAMES[index],
)
