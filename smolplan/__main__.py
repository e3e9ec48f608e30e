"""`python -m smolplan`: the command, where it is not on the path."""

from smolplan.cli.main import main

if __name__ == "__main__":
    main()
