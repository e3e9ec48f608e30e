"""smolplan monitor unit: the daemon as a service."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from smolplan.cli.alerting import Output, give


class Kind(StrEnum):
    systemd = "systemd"
    slurm = "slurm"
    kubernetes = "kubernetes"


def unit(
    spec: Annotated[
        str | None, typer.Argument(help="kubernetes: whose image, volumes and account it takes.")
    ] = None,
    kind: Annotated[Kind, typer.Option(help="Who is to run it.")] = Kind.systemd,
    state: Annotated[
        Path | None, typer.Option(help="Folder of the record of runs; by default the one in use.")
    ] = None,
    output: Output = None,
) -> None:
    """Print what runs the monitor as a service: a systemd unit, an sbatch script, a Deployment.

    Example: `smolplan monitor unit --output smolplan-monitor.service`
    """
    from launcher.store import state_folder
    from monitor.units import kubernetes_deployment, slurm_script, systemd_unit
    from smolplan.errors import UserError
    from smolplan.spec import load_spec

    folder = (state or state_folder()).expanduser().absolute()
    if kind is Kind.systemd:
        text = systemd_unit(folder)
    elif kind is Kind.slurm:
        text = slurm_script(folder)
    elif spec is None:
        raise UserError(
            "a Deployment takes its image and volumes from a spec",
            where="SPEC",
            remedy="smolplan monitor unit run.yaml --kind kubernetes --state /shared/state",
        )
    else:
        text = kubernetes_deployment(load_spec(spec), folder)
    give(text, output)
