"""The command `smolplan`: one file a command, each importing its own part only when it runs."""

import sys

import typer

from smolplan.errors import SmolplanError

app = typer.Typer(
    name="smolplan",
    help="From the question how many GPUs to a finished LLM training run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


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
