"""The command `smolplan`: one file a command, each importing its own part only when it runs."""

import sys
from typing import Annotated

import typer

from smolplan.errors import SmolplanError

app = typer.Typer(
    name="smolplan",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"smolplan {version('smolplan')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit."),
    ] = False,
) -> None:
    """From the question how many GPUs to a finished LLM training run.

    Example: `smolplan estimate --params 3B --tokens 11T --deadline 4w --gpu h100`
    """


def main() -> None:
    """Run the command; a mistake of the user ends in a sentence, not in a traceback."""
    try:
        app()
    except SmolplanError as error:
        print(f"smolplan: {error}", file=sys.stderr)
        raise SystemExit(int(error.exit_code)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; that is its right.
        sys.stderr.close()
        raise SystemExit(141) from None


def _register() -> None:
    from smolplan.cli import demo, estimate, preflight, run, spec

    app.command()(estimate.estimate)
    app.command()(preflight.preflight)
    app.command()(demo.demo)
    run.register(app)
    app.add_typer(spec.app, name="spec")


_register()
