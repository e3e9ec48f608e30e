"""`python -m monitor`: the daemon, as launch starts it and as a service manager would."""

import argparse

from monitor.service import serve

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Watch the active runs and restart them.")
    parser.add_argument("--until-idle", action="store_true", help="end when no run is active")
    serve(port=None, until_idle=parser.parse_args().until_idle)
