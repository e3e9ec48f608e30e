"""Copies of a rank's tensors, in the host's memory, made beside what computes."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from trainer.between_ranks import local


class HostCopies:
    """Of what the rank itself holds of each tensor, by name. They are kept: the next copies, of
    tensors of the same names and shapes, take their places. On a GPU's host they are pinned, and
    made on a stream of their own.

    torch's DefaultStager would do, but up to 2.12 it serves once only: it closes itself."""

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        # A thread begins on GPU 0, to which torch would go back after each copy: that takes half a
        # gigabyte of it, of each rank on this host.
        set_device = partial(torch.cuda.set_device, device) if on_gpu else None
        self._thread = ThreadPoolExecutor(1, "copies", initializer=set_device)
        self._stream = torch.cuda.Stream(device) if on_gpu else None
        self._kept: dict[str, Tensor] = {}

    def begin(self, tensors: Mapping[str, Tensor]) -> Future[Mapping[str, Tensor]]:
        """Of the tensors as they are by all that was queued before. They may not be changed until
        it is done."""
        own = {name: local(tensor) for name, tensor in tensors.items()}
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        return self._thread.submit(self._copy, own)

    def _copy(self, own: dict[str, Tensor]) -> Mapping[str, Tensor]:
        stream = nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with torch.no_grad(), stream:
            for name, tensor in own.items():
                if name not in self._kept:
                    self._kept[name] = self._room_for(tensor)
                self._kept[name].copy_(tensor, non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()
        return self._kept

    def _room_for(self, tensor: Tensor) -> Tensor:
        room = torch.empty(tensor.shape, dtype=tensor.dtype)
        if self._stream is not None and room.nbytes:
            # torch's own pinned memory is rounded up to a power of two.
            cudart = torch.cuda.cudart()
            torch.cuda.check_error(cudart.cudaHostRegister(room.data_ptr(), room.nbytes, 0))
        return room
