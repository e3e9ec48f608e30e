"""The command `smolplan`: one file a command, each importing its own part only when it runs."""

import errno
import io
import os
import sys
from typing import Annotated

import typer

from smolplan.cli.usage import UsageError, is_help, told
from smolplan.errors import SmolplanError

app = typer.Typer(
    name="smolplan",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
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
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows ASCII only gets a ? for a ×, and its answer.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
            code = app(prog_name="smolplan", standalone_mode=False)
        except UsageError as error:
            if is_help(error):
                error.show()
                raise SystemExit(int(error.exit_code)) from None
            raise told(error) from None
        finally:
            if sys.stdout is not None:  # as it is after >&-
                sys.stdout.flush()
    except SmolplanError as error:
        print(f"smolplan: {error}", file=sys.stderr)
        raise SystemExit(int(error.exit_code)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; that is its right.
        _give_up_output()
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG):
            raise
        print(f"smolplan: cannot write the output: {error.strerror}", file=sys.stderr)
        _give_up_output()
        raise SystemExit(1) from None
    raise SystemExit(code)


def _give_up_output() -> None:
    """Have Python not try once more to write what is left, and complain, at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _register() -> None:
    from smolplan.cli import (
        ablate,
        budget,
        calibrate,
        data,
        demo,
        estimate,
        evaluate,
        export,
        fork,
        goodput,
        hosts,
        import_model,
        log,
        monitor,
        object_store,
        plan,
        plot,
        predict,
        preflight,
        profile,
        report,
        run,
        scale,
        spec,
        top,
    )

    # In the order of a run's life, as --help lists them.
    for command in (
        estimate.estimate,
        plan.plan,
        goodput.goodput,
        budget.budget,
        scale.scale,
        predict.predict,
        calibrate.calibrate,
        preflight.preflight,
        hosts.hosts,
        demo.demo,
    ):
        app.command()(command)
    run.register(app)
    app.command()(fork.fork)
    app.command()(top.top)
    evaluate.register(app)
    app.command()(ablate.ablate)
    app.command()(export.export)
    import_model.register(app)
    app.command()(object_store.upload)
    app.command()(object_store.restore)
    app.command()(log.log)
    app.command()(profile.profile)
    app.command()(report.report)
    app.command()(plot.plot)
    app.add_typer(data.app, name="data")
    app.add_typer(monitor.app, name="monitor")
    app.add_typer(spec.app, name="spec")


_register()
