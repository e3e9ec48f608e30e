"""Files of a machine, to plant faults in: checks read them under SMOLPLAN_SYSTEM_ROOT."""

import struct
import time
from pathlib import Path


class Machine:
    """Files of a machine that look like a sound one's until something is planted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("/proc/meminfo", MEMINFO)
        self.write("/proc/self/cgroup", "0::/")
        self.write("/proc/sys/kernel/core_pattern", "|/usr/share/apport/apport -p%p")
        self.write("/proc/cpuinfo", "flags\t\t: fpu vme")
        for node in (0, 1):
            self.write(
                f"/sys/devices/system/node/node{node}/meminfo",
                f"Node {node} MemTotal:       1056000000 kB",
            )
        for cpu in range(4):
            self.write(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", "performance")
        clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        self.write(clock, "tsc")
        self.write("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
        for count in ("ce_count", "ue_count"):
            self.write(f"/sys/devices/system/edac/mc/mc0/{count}", "0")
        for what in ("memory", "io"):
            self.write(f"/proc/pressure/{what}", "full avg10=0.00 avg60=0.10 avg300=0.00 total=1")
        self.log("usb 1-1: new device")
        self.process(4242, "python3", "S")
        self.device("0000:00:01.0", "0x060400", "0x8086", config(acs=0))
        for gpu in range(2):
            self.device(f"0000:0{gpu + 3}:00.0", "0x030200", "0x10de", b"")
            self.write(f"/sys/bus/pci/devices/0000:0{gpu + 3}:00.0/numa_node", str(gpu))
        self.write("/sys/class/infiniband/mlx5_0/node_desc", "mlx5_0")

    def write(self, path: str, text: str) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n")

    def log(self, *lines: str) -> None:
        """The kernel's log: each line a minute old."""
        at_us = int((time.clock_gettime(time.CLOCK_MONOTONIC) - 60) * 1e6)
        records = (f"4,{n},{at_us + n},-;{line}" for n, line in enumerate(lines))
        self.write("/dev/kmsg", "\n".join(records))

    def process(self, pid: int, name: str, state: str) -> None:
        fields = f"{state} 1 {pid} {pid} 0 -1 0 0 0 0 0 7 3 0 0 20 0 1 0 100 4096 2500"
        self.write(f"/proc/{pid}/stat", f"{pid} ({name}) {fields} 0 0")

    def device(self, name: str, kind: str, vendor: str, content: bytes) -> None:
        folder = f"/sys/bus/pci/devices/{name}"
        self.write(f"{folder}/class", kind)
        self.write(f"{folder}/vendor", vendor)
        (self.root / folder.lstrip("/") / "config").write_bytes(content)


MEMINFO = """\
MemTotal:       2113000000 kB
MemFree:        2000000000 kB
MemAvailable:   2010000000 kB
SwapTotal:        8388604 kB
SwapFree:         8388604 kB
HugePages_Total:       0
HugePages_Free:        0
Hugepagesize:       2048 kB"""


def config(*, acs: int) -> bytes:
    """Of a bridge's configuration space: an advanced error capability, then ACS's."""
    space = bytearray(4096)
    struct.pack_into("<I", space, 0x100, 0x148 << 20 | 1 << 16 | 0x0001)
    struct.pack_into("<IHH", space, 0x148, 1 << 16 | 0x000D, 0x001F, acs)
    return bytes(space)
