"""smolplan monitor rules and dashboard: what Prometheus and Grafana need to know of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from smolplan.rundir import RunDir

Output = Annotated[
    Path | None, typer.Option("--output", help="A file in place of the terminal, replaced whole.")
]


def rules(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN|SPEC", help="A run, or a spec: then for all runs of its name."),
    ],
    output: Output = None,
) -> None:
    """Print Prometheus alert rules, with thresholds from the run's plan.

    Example: `smolplan monitor rules smollm3-3b --output smolplan-rules.yml`
    """
    from monitor.rules import alert_rules
    from planner.plan import make_plan
    from smolplan.spec import load_spec, preset_names

    if Path(run).is_file() or run in preset_names():
        spec = load_spec(run)
        # As launch names them (launcher.create): the spec's name, the time, four random signs.
        label = f"{_literally(spec.name)}-[0-9]{{4}}-[0-9]{{6}}-[0-9a-f]{{4}}"
    else:
        folder = _folder(run)
        spec, label = load_spec(folder.spec), _literally(folder.path.name)
    give(alert_rules(spec, make_plan(spec), label), output)


def dashboard(output: Output = None) -> None:
    """Print the Grafana dashboard, as JSON to import or to provision.

    Example: `smolplan monitor dashboard --output smolplan.json`
    """
    import json

    from monitor.dashboard import dashboard as made

    give(json.dumps(made(), indent=1) + "\n", output)


def _folder(name: str) -> "RunDir":
    """Raises UserError for what is neither the name of a run nor, as it then seems, a spec."""
    from launcher import control
    from launcher.store import Store
    from smolplan.errors import UserError

    store = Store()
    try:
        return control.run_folder(store.find(name))
    except UserError as error:
        remedy = f"Give a run, a YAML file or a preset. {error.remedy}"
        raise UserError(error.what, where="RUN|SPEC", remedy=remedy) from None
    finally:
        store.close()


def _literally(name: str) -> str:
    """A run's name as a regular expression, and within quotes: of what a name may hold, the dot
    alone means something else there."""
    return name.replace(".", "[.]")


def give(text: str, output: Path | None) -> None:
    from smolplan.cli.options import say_written, write_file

    if output is None:
        print(text, end="")
    else:
        write_file("--output", output, text.encode(), force=True)
        say_written(output)
