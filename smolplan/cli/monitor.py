"""smolplan monitor: the daemon, its detectors on a recorded series, and what Prometheus and
Grafana need to know of it."""

from typing import Annotated

import typer

from smolplan.cli.alerting import dashboard, rules
from smolplan.cli.replay import replay
from smolplan.cli.unit import unit

app = typer.Typer(invoke_without_command=True)


@app.callback()
def monitor(
    context: typer.Context,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the page and metrics (default 9847)."),
    ] = None,
    web_host: Annotated[
        str,
        typer.Option(help="Address or name to serve them on; beyond loopback with a token."),
    ] = "127.0.0.1",
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End once no run is active.")
    ] = False,
) -> None:
    """Watch the active runs: see dead and hung ranks, and restart from the newest checkpoint.

    Launch starts one in the background. Any number may run: for each run exactly one acts.

    Example: `smolplan monitor --port 9847`
    """
    if context.invoked_subcommand is not None:
        return
    from monitor.service import serve

    serve(port=port, until_idle=until_idle, host=web_host)


app.command()(rules)
app.command()(dashboard)
app.command()(replay)
app.command()(unit)
