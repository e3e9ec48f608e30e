import socket
from pathlib import Path

import pytest

from smolplan import ports
from smolplan.ports import free_port


def test_a_port_for_later_is_none_that_a_connection_may_be_given() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(ports.FIRST <= free_port() < first for _ in range(50))


def test_one_that_somebody_has_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        monkeypatch.setattr(ports, "_of_no_connections", lambda: [taken])
        assert free_port() != taken


def test_it_is_of_the_address_that_is_told() -> None:
    assert free_port("127.0.0.2") > 0
    with pytest.raises(OSError):
        free_port("192.0.2.1")  # of no machine (RFC 5737)
