"""A peer as benchmarks.peers.serve runs it: six FLOPs a parameter and token at a share of 1e15."""

import sys
from typing import Any

from benchmarks.peers.serve import serve


def price(run: dict[str, Any], efficiency: float | None) -> tuple[float, bool]:
    sys.stdout.write("a peer that talks\n")
    if run["gpu"] == "a100":
        raise ValueError("no such GPU")
    tokens = run["seq_len"] * run["micro_batch"] * run["accumulation"] * run["dp"]
    flops = 6.0 * run["parameters"] * tokens
    return flops / (run["gpus"] * 1e15 * (efficiency or 0.5)), run["tp"] > 1


if __name__ == "__main__":
    serve("1.2.3", price)
