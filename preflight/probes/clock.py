"""`python -m preflight.probes.clock`: the time, once for each line of its input."""

import json
import sys
import time


def main() -> None:
    for _ in sys.stdin:
        sys.stdout.write(json.dumps({"time_ns": time.time_ns()}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
