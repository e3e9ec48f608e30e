"""Programs that measure one thing each and print a JSON object. They run as processes, since
what they touch (a network file system, a driver, a collective) can block for good."""

import signal
import sys

if sys.argv[0] == "-m":
    # `python -m preflight.probes.NAME` is at it to find that module, and this is the process of a
    # probe, not one that imports it: when it is told to end, it removes what it has made.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
