"""A run that begins with a checkpoint of another: which one, what of the spec may be another than
the parent's, and how the new run comes by the files. Needs no torch.

Its first attempt resumes the checkpoint as an attempt of the parent would, and does not know the
parent. So whatever a resumption refuses, or cannot see, is refused here, before there is a run.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from smolplan.errors import NamedExit, UserError
from smolplan.origin import Origin
from smolplan.roll_back import read_roll_backs, superseded
from smolplan.rundir import MANIFEST, RunDir, sync_folder, write_text
from smolplan.skipped import Skipped
from smolplan.spec import RunSpec
from smolplan.spec.fields import SpecPart
from smolplan.uploads import Uploads, store_folder
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.drawn import Order
from trainer.data.loader import Loader, open_loader
from trainer.manifest import Manifest, dump, read_manifest, steps_present, verify, wrong_sizes

FIXED = {
    "seed": "the order of the data follows from it",
    "model": "the checkpoint holds the weights of this very model",
    "data.seq_len": "the checkpoint's position in the data counts sequences of that length",
    "data.sources": "the checkpoint's position in the data counts in this text",
    "data.tokenizer": "the weights know the tokens of this one",
    "data.held_out_fraction": "some of the held-out text would have been trained on",
    "data.cache_dir": "a fork reads the tokens of its parent",
    "optim.optimizer": "the checkpoint holds the moments of this one",
}
"""Fields, and parts, that a fork has of its parent; and why."""

BEFORE_THE_FIRST = 0
"""The attempt that the manifest in the fork names: roll-backs and fencing compare it with the
fork's own, which begin at 1."""


@dataclass(frozen=True)
class Fork:
    parent: RunDir
    spec: RunSpec
    """Of the fork."""
    manifest: Manifest
    """As the fork is to have it."""
    origin: Origin

    @property
    def source(self) -> Path:
        return self.parent.checkpoint(self.manifest.step)

    def verify(self) -> None:
        """Read all of the checkpoint. Raises UserError if it is not whole."""
        try:
            verify(self.source)
        except ValueError as error:
            raise self._not_whole(str(error)) from None

    def fill(self, run: RunDir, on_progress: Callable[[str], None] = lambda line: None) -> None:
        """Put into a run folder that is being built what the fork has of its parent. Raises
        UserError."""
        own = run.checkpoint(self.manifest.step)
        try:
            run.checkpoints.mkdir()
            own.mkdir()
            for name in self.manifest.files:
                on_progress(f"taking {name}")
                _take(self.source / name, own / name)
            write_text(own / MANIFEST, dump(self.manifest))
            sync_folder(run.checkpoints)
            for path in (self.parent.dataset, self.parent.initial):
                if path.exists():
                    write_text(run.path / path.name, path.read_text("utf-8"))
            self.origin.write(run)
        except FileNotFoundError:
            raise self._not_whole("it was removed meanwhile") from None
        except OSError as error:
            raise UserError(
                f"the checkpoint cannot be taken: {error.strerror}",
                where=str(error.filename2 or error.filename or run),
                remedy="Free space there, or name another folder by --runs-dir.",
            ) from None
        on_progress("verifying the checkpoint")
        try:
            # What is here now: until a moment ago the parent could have removed or replaced it.
            verify(own)
        except ValueError as error:
            raise self._not_whole(str(error)) from None

    def _not_whole(self, why: str) -> UserError:
        return UserError(
            f"checkpoint {self.manifest.step} of {self.origin.run} is not whole: {why}",
            where="--step",
            remedy=_others(self.parent, self.manifest.step),
        )


def fork_of(parent: RunDir, name: str, old: RunSpec, new: RunSpec, step: int | None) -> Fork:
    """Of the parent's checkpoint of `step`, or its newest one that is there in full length, by a
    spec that may differ. `name`, `old`: the parent's. Raises UserError, and SmolplanError where a
    roll-back of the parent cannot be read."""
    found = _checkpoint(parent, name, old, step)
    try:
        dataset = open_dataset(parent)
    except NamedExit as error:
        raise UserError(str(error), where=name) from None
    if problem := Order.of(dataset, Loader.of(old, dataset)).refusal(parent, found):
        raise UserError(problem, where=name)
    _check_change(old, new, found, dataset)
    # As for a resumption of the parent: what was decided since the checkpoint was saved counts.
    skipped = Skipped.of(found.skipped)
    for one in read_roll_backs(parent, parent.latest_attempt()):
        skipped |= one.skip
    manifest = replace(found, attempt=BEFORE_THE_FIRST, skipped=skipped.to_json())
    changed = tuple(field for field in changed_fields(old, new) if field != "name")
    return Fork(parent, new, manifest, Origin(name, str(parent), found.step, skipped, changed))


def _checkpoint(parent: RunDir, name: str, spec: RunSpec, step: int | None) -> Manifest:
    roll_backs = read_roll_backs(parent, parent.latest_attempt())
    present = steps_present(parent)
    why = ""
    for number in present if step is None else {step}.intersection(present):
        folder = parent.checkpoint(number)
        try:
            manifest = read_manifest(folder)
            if superseded(roll_backs, number, manifest.attempt):
                raise ValueError("the run was rolled back behind it")
            if problem := wrong_sizes(folder, manifest):
                raise ValueError(problem)
        except ValueError as error:
            why = why or f" ({number}: {error})"
        else:
            return manifest
    asked = "" if step is None else f" of step {step}"
    raise UserError(
        f"{name} has no whole checkpoint{asked} in {parent.checkpoints}{why}",
        where="RUN" if step is None else "--step",
        remedy=_fetch(parent, name, spec, step) or _others(parent, step),
    )


def _fetch(parent: RunDir, name: str, spec: RunSpec, step: int | None) -> str:
    """How to get it from the object store; empty if it is not there."""
    upload_to = spec.checkpoint.upload_to
    if upload_to is None:
        return ""
    arrived = Uploads.read(parent, store_folder(upload_to, parent)).arrived
    if step not in (*arrived, None) or not arrived:
        return ""
    which = "" if step is None else f" --step {step}"
    return f"It is in the object store; fetch it by: smolplan restore {name}{which}"


def _others(parent: RunDir, step: int | None) -> str:
    others = [str(other) for other in sorted(steps_present(parent)) if other != step]
    return f"Others are of steps {', '.join(others)}." if others else ""


def changed_fields(old: SpecPart, new: SpecPart, prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two specs differ."""
    found = []
    for name in type(old).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            continue
        if isinstance(before, SpecPart) and isinstance(after, type(before)):
            found += changed_fields(before, after, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


def _check_change(old: RunSpec, new: RunSpec, begin: Manifest, dataset: Dataset) -> None:
    """Raises UserError for a spec that the run cannot go on by from `begin`."""
    for name in changed_fields(old, new):
        if name == "data.sources" and _text(old) == _text(new):
            continue
        for fixed, why in FIXED.items():
            if name == fixed or name.startswith(f"{fixed}."):
                raise UserError(
                    f"{name} cannot change in a fork: {why}",
                    where="--set",
                    remedy="Leave it as it is, or launch a run of its own.",
                )
    step, position = begin.step, begin.data_position
    if new.steps <= step:
        raise UserError(
            f"the fork would end with step {new.steps}, and it begins behind step {step}",
            where="--set",
            remedy="Raise optim.steps, or fork at an earlier step.",
        )
    if _batches_until(step, old) != _batches_until(step, new):
        raise UserError(
            f"batches of steps up to {step} would be of another size, and these are done",
            where="--set",
            remedy=f"Keep them in optim.batch_warmup, the last with until_step: {step}.",
        )
    try:
        mixture = open_loader(new, dataset).mixture
    except NamedExit as error:  # the text is too short for it
        raise UserError(str(error), where="--set") from None
    before = Loader.of(old, dataset).mixture
    if [(s.first_position, s.mix) for s in before.stages if s.first_position < position] != [
        (s.first_position, s.mix) for s in mixture.stages if s.first_position < position
    ]:
        raise UserError(
            f"the mixture of data that was read up to step {step} would be another",
            where="--set",
            remedy="Keep data.stages as they are, and begin new ones with step "
            f"{1 + new.batches.steps(position)} or later.",
        )


def _text(spec: RunSpec) -> list[SpecPart]:
    """The sources but for how often each is read."""
    often = {"weight": None, "max_epochs": None}
    return [source.model_copy(update=often) for source in spec.data.sources]


def _batches_until(step: int, spec: RunSpec) -> list[tuple[int, int]]:
    return [(p.steps_before, p.size) for p in spec.batches.phases if p.steps_before < step]


def _take(source: Path, target: Path) -> None:
    """Link a file that nobody writes to any more; it lives until all its names are gone. Raises
    OSError."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, one without such links, or somebody else's file
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
