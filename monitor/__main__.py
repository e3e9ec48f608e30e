"""`python -m monitor`: the daemon, as launch and service managers start it."""

import argparse
import sys
from pathlib import Path

from monitor.service import serve
from smolplan.errors import SmolplanError

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Watch the active runs and restart them.")
    parser.add_argument("--until-idle", action="store_true", help="end when no run is active")
    parser.add_argument("--log", type=Path, help="file to log to; it is rotated")
    options = parser.parse_args()
    try:
        serve(port=None, until_idle=options.until_idle, log_file=options.log)
    except SmolplanError as error:
        sys.stderr.write(f"smolplan: {error}\n")
        sys.exit(int(error.exit_code))
