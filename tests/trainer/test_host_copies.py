"""Copies of a GPU's tensors, as far as they can be looked at without one."""

import threading
from contextlib import nullcontext
from unittest.mock import MagicMock

import pytest
import torch

from trainer.host_copies import HostCopies


def test_the_thread_that_copies_stands_on_its_rank_s_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On GPU 0, where a thread begins, each rank of a host would take memory for a context."""
    stood: list[tuple[str, torch.device]] = []

    def set_device(device: torch.device) -> None:
        stood.append((threading.current_thread().name, device))

    gpu = MagicMock()
    for name in ("Stream", "current_stream", "cudart", "check_error"):
        monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    device = torch.device("cuda", 3)
    copies = HostCopies(device).begin({"weight": torch.ones(2)}).result()
    assert copies["weight"].tolist() == [1.0, 1.0]
    assert stood == [("copies_0", device)]
