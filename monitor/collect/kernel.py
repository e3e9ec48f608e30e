"""Lines of the kernel's log that bear on a run, as they come; and Xids that NVML alone tells of."""

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, replace

from monitor.collect.host_sample import GpuSample, KernelLine
from smolplan.machine.kernel_log import KernelTail, kind_of
from smolplan.machine.xid_log import parse

MOST = 50
WAIT_S = 1.0
SAME_S = 10.0
"""NVML and the kernel's log tell of the same Xid, one shortly after the other."""

NEVER = float("-inf")


@dataclass(frozen=True)
class NvmlXid:
    """An Xid as NVML tells of it, which needs no right to read the kernel's log."""

    code: int
    pci: str


class KernelLines:
    """The newest lines, and how often each GPU had each Xid."""

    def __init__(self) -> None:
        self.lines: deque[KernelLine] = deque(maxlen=MOST)
        self.news = threading.Event()
        """Set when there is a new one: the end of all may be near."""
        self._tail: KernelTail | None = None
        self._xids: dict[str, Counter[str]] = {}
        self._last: dict[str, int] = {}
        self._from_log: dict[tuple[str, int], float] = {}
        self._from_nvml: dict[tuple[str, int], float] = {}

    def look(self) -> None:
        """Wait a second, or until something comes. Raises OSError."""
        if self._tail is None:
            self._tail = KernelTail()
        for _, text in self._tail.wait(WAIT_S):
            if kind := kind_of(text):
                self._take_line(kind, text)

    def _take_line(self, kind: str, text: str) -> None:
        xid = parse(text, 0.0) if kind == "xid" else None
        if xid and not xid.switch:
            key, now_s = (xid.pci, xid.code), time.monotonic()
            self._from_log[key] = now_s
            if now_s - self._from_nvml.pop(key, NEVER) > SAME_S:
                self._count(*key)
        self._keep(kind, text)

    def take_from_nvml(self, xid: NvmlXid) -> None:
        key, now_s = (xid.pci.partition(".")[0], xid.code), time.monotonic()
        if now_s - self._from_log.get(key, NEVER) <= SAME_S:
            return
        self._from_nvml[key] = now_s
        self._count(*key)
        self._keep("xid", f"NVRM: Xid (PCI:{key[0]}): {xid.code}, as NVML tells")

    def _count(self, pci: str, code: int) -> None:
        self._xids.setdefault(pci, Counter())[str(code)] += 1
        self._last[pci] = code

    def _keep(self, kind: str, text: str) -> None:
        self.lines.append(KernelLine(kind, time.time(), text[:400]))
        self.news.set()

    def with_xids(self, gpu: GpuSample) -> GpuSample:
        pci = gpu.pci_bus_id.partition(".")[0]
        return replace(gpu, last_xid=self._last.get(pci, 0), xids=dict(self._xids.get(pci, {})))
