"""PCI devices as the kernel lists them, whether or not a driver has them."""

from smolplan.machine.files import names_in, read_text

FOLDER = "/sys/bus/pci/devices"
NVIDIA, AMD = "0x10de", "0x1002"


def gpus(*vendors: str) -> list[str]:
    """Addresses of their display controllers (PCI's base class 3), as 0000:9b:00.0."""
    return [
        name
        for name in names_in(FOLDER)
        if (read_text(f"{FOLDER}/{name}/class") or "").startswith("0x03")
        and read_text(f"{FOLDER}/{name}/vendor") in vendors
    ]


def bridges() -> list[str]:
    """Addresses of bridges and switches between PCI buses (class 0x0604)."""
    return [
        name
        for name in names_in(FOLDER)
        if (read_text(f"{FOLDER}/{name}/class") or "").startswith("0x0604")
    ]


def short(address: str) -> str:
    """An address as the kernel writes it: NVML says 00000000:9B:00.0."""
    domain, _, rest = address.lower().partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}"
    except ValueError:
        return address
