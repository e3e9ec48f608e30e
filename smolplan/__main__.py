"""The command `smolplan`, also by `python -m smolplan` where it is not on the path."""

import signal


def main() -> None:
    """Run the command. Ctrl-C while its imports load ends it without a traceback."""
    python_listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if python_listens:  # nohup and the like have it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from smolplan.cli.main import main as command

    if python_listens:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


if __name__ == "__main__":
    main()
