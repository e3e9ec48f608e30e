"""`python -m preflight.probes.network_names NAME…`: the addresses that each name has here."""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

from smolplan.lifetime import die_with_parent


def addresses(name: str) -> list[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return sorted({str(entry[4][0]) for entry in found})


def main() -> None:
    die_with_parent()
    names = sys.argv[1:]
    # At once: a resolver that does not answer costs seconds a name.
    with ThreadPoolExecutor(64) as pool:
        found = dict(zip(names, pool.map(addresses, names), strict=True))
    json.dump({"names": found}, sys.stdout)


if __name__ == "__main__":
    main()
