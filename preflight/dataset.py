"""The spec's own text, tokenised by the trainer as the run will read it."""

import json
from typing import TYPE_CHECKING, Any

from preflight.once import INSTALL_TRAINER, ProbeError
from smolplan.rundir import RunDir, read_json, write_json, write_text
from smolplan.spec import dump_spec

if TYPE_CHECKING:
    from preflight.context import Context


class DataRefused(Exception):
    """trainer.data will not have the text, for a reason that the user can mend."""


def made(context: "Context") -> dict[str, Any] | None:
    """The dataset that was made of the text before, as its dataset.json has it; None if there is
    none. Reads all of the text. Raises DataRefused and ProbeError."""
    run = _run(context)
    answer: dict[str, Any] | None = json.loads(
        _call(context, ["-m", "preflight.probes.dataset", str(run)], timeout_s=280.0)
    )
    return answer


def prepare(context: "Context") -> dict[str, Any]:
    """That, or what trainer.data.prepare makes now. One that is damaged is handed back as it is: it
    would be made anew, and nobody would learn of the damage. Raises DataRefused and ProbeError."""
    found = context.dataset_made()
    if found is not None:
        return found
    run = _run(context)
    _call(context, ["-m", "trainer.data.prepare", str(run)], timeout_s=880.0)
    dataset = read_json(run.dataset)
    if dataset is None:
        raise ProbeError("it wrote no dataset.json")
    return dataset


def probe(
    context: "Context", name: str, what: str, *arguments: str, timeout_s: float
) -> dict[str, Any]:
    """What a probe of the dataset says. Raises DataRefused and ProbeError."""
    dataset, run = context.dataset(), _run(context)
    write_json(run.dataset, dataset, durable=False)
    module = f"preflight.probes.{name}"
    text = _call(context, ["-m", module, what, str(run), *arguments], timeout_s=timeout_s)
    answer: dict[str, Any] = json.loads(text)
    return answer


def _run(context: "Context") -> RunDir:
    """A run directory for the trainer's own data code, with the spec in it."""
    run = RunDir(context.folder())
    write_text(run.spec, dump_spec(context.spec), durable=False)
    return run


def _call(context: "Context", arguments: list[str], timeout_s: float) -> str:
    done = context.run(arguments, timeout_s)
    last = done.stderr.strip().rpartition("\n")[2].removeprefix("smolplan: ")
    if done.returncode == 2:
        raise DataRefused(last)
    if done.returncode:
        missing = "ModuleNotFoundError" in last
        raise ProbeError(last or f"exit code {done.returncode}", INSTALL_TRAINER if missing else "")
    return done.stdout
