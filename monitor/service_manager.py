"""What systemd is told of the daemon (sd_notify(3)): a datagram to the socket that $NOTIFY_SOCKET
names; nothing where there is none."""

import os
import socket
from contextlib import suppress


def tell(state: str) -> None:
    """`state`: READY=1, WATCHDOG=1, STOPPING=1."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # the abstract namespace, which the kernel writes as NUL
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.sendto(state.encode(), address)
