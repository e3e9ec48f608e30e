"""--runs-dir, the same for all commands."""

from pathlib import Path
from typing import Annotated

import typer

RunsDir = Annotated[
    Path | None,
    typer.Option(
        # Typer's own reading of a path touches it, and would hang where its mount does
        # (launcher.create.runs_folder asks first).
        parser=Path,
        metavar="PATH",
        help="Folder of the run directories (default: ./runs).",
    ),
]
