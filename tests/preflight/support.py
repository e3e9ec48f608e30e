"""What the tests of preflight share."""

import os
from pathlib import Path

import pytest

from preflight.report import Result
from preflight.runner import run
from smolplan.spec import RunSpec


def only(name: str, spec: RunSpec, runs_dir: Path) -> Result:
    """The result of one check."""
    (result,) = run(spec, runs_dir, only=[name]).results
    return result


def with_part(spec: RunSpec, part: str, **changes: object) -> RunSpec:
    return spec.model_copy(update={part: getattr(spec, part).model_copy(update=changes)})


def put_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes started from now on import from this folder before all others."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONPATH", path)
