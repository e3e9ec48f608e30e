"""A run spec in the making: every field put into it says where it came from."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from smolplan.errors import UserError
from smolplan.importers.options import Options, spec_fields
from smolplan.importers.result import Assumed, Imported, NotTaken, Taken
from smolplan.importers.source import Source, brief, count, plain
from smolplan.spec import ModelSpec, RunSpec
from smolplan.spec.fields import ADDED_LATER
from smolplan.units import count_of

T = TypeVar("T")

HELD = "What a run spec can say of a model: docs/spec.md, model."
UNKNOWN = "unknown here: a run spec has no such field"
USUAL_GPUS_PER_NODE = 8


class Draft:
    """Collects fields of the spec with where they come from, and what is left behind with why."""

    def __init__(self, format_name: str, source: Source, options: Options) -> None:
        self.format, self.source, self.options = format_name, source, options
        self._values: dict[str, Any] = {}
        self._taken: list[Taken] = []
        self._not_taken: list[NotTaken] = []
        self._assumed: list[Assumed] = []

    def put(self, name: str, value: T, *sources: str) -> T:
        """Set a field of the spec, unless --set has it. Returns the value that holds."""
        if name in self.options.overrides:
            return cast(T, self.options.overrides[name])
        self._values[name] = value
        self._taken.append(Taken(name, " × ".join(sources), plain(value)))
        return value

    def assume(self, name: str, value: T, why: str) -> T:
        """Set a field that the file says nothing of, unless --set has it."""
        if name in self.options.overrides:
            return cast(T, self.options.overrides[name])
        self._values[name] = value
        self._assumed.append(Assumed(name, plain(value), why))
        return value

    def take(
        self,
        name: str,
        convert: Callable[[Any], T],
        *sources: str,
        default: T | None = None,
        why: str = "",
    ) -> T:
        """Set a field from the first of these fields of the file; from the default, where it has
        none; and raise UserError, where there is no default either."""
        found = self.source.find(*sources)
        if name in self.options.overrides:
            self.source.get(found or sources[0])
            return cast(T, self.options.overrides[name])
        if found is not None:
            return self.put(name, self.source.read(found, convert), found)
        if default is not None:
            return self.assume(name, default, why)
        raise self.source.missing(sources[0], name)

    def value(self, name: str, default: T) -> T:
        """What a field of the spec has been set to so far."""
        return cast(T, {**self._values, **self.options.overrides}.get(name, default))

    def take_steps(self, *sources: str, default: int | None = None, why: str = "") -> int:
        """Steps of the run, from the file; or of the tokens that --set gives in their place."""
        tokens: int | None = self.options.overrides.get("optim.tokens")
        if tokens is None:
            return self.take("optim.steps", count, *sources, default=default, why=why)
        for name in sources:
            self.source.get(name)
        batch = self.value("optim.global_batch_size", 1) * self.value("data.seq_len", 1)
        return math.ceil(tokens / batch)

    def model(self) -> ModelSpec:
        """The model as it has been set so far. Raises UserError where it is none."""
        values = {**self._values, **self.options.overrides}
        try:
            return ModelSpec.model_validate(_nested(values)["model"])
        except ValidationError as error:
            raise self._explain(error) from None

    def leave(self, name: str, value: Any, why: str) -> None:
        """Say that a field of the file cannot be taken over."""
        self._not_taken.append(NotTaken(name, plain(value), why))

    def leave_if_there(self, name: str, why: str, *, unless: Sequence[Any] = ()) -> None:
        """The same for a field that the file may have; values of `unless` change nothing."""
        value = self.source.get(name)
        if value is not None and value not in unless:
            self.leave(name, value, why)

    def leave_rest(self, reasons: Sequence[tuple[str, str]]) -> None:
        """Whatever of the file was not asked for, with the reason of the first pattern that its
        name begins with."""
        for name, value in self.source.unused():
            why = next((why for pattern, why in reasons if re.match(pattern, name)), None)
            self.leave(name, value, why or UNKNOWN)

    def refuse(self, name: str, what: str) -> UserError:
        """The error for a model that no run spec can hold."""
        return self.source.error(name, what, remedy=HELD)

    def name_run(self, wanted: Any, source: str, *, otherwise: str = "") -> None:
        """The run's name, with what no folder can hold replaced; the file's own, if none is given.

        nanotron fills in %date and %jobid of a name when the run starts; here they fall away."""
        if isinstance(wanted, str) and (named := _folder_name(re.sub("%(date|jobid)", "", wanted))):
            self.put("name", named, source)
        else:
            named = _folder_name(otherwise or Path(self.source.where).stem) or "imported"
            self.assume("name", named, "the file's name: no run is named in it")

    def spread(self, ranks: int, *sources: str, per_node: tuple[int, str] | None = None) -> None:
        """Nodes for that many ranks: as large as the file says, and by which of its fields; else
        of eight GPUs, or the most that divides."""
        given = self.options.gpus
        if given is not None and given != ranks:
            raise UserError(
                f"{' × '.join(sources)} make {count_of(ranks, 'rank')}, --gpus says {given:,}",
                where=self.source.where,
                remedy="Leave --gpus out, or change a degree by --set, "
                "such as --set parallel.data_parallel=N.",
            )
        if per_node is not None:
            size = self.put("cluster.gpus_per_node", *per_node)
        else:
            most = min(USUAL_GPUS_PER_NODE, ranks)
            usual = next(n for n in range(most, 0, -1) if ranks % n == 0)
            why = f"{count_of(ranks, 'rank')} in nodes of at most {USUAL_GPUS_PER_NODE}"
            size = self.assume("cluster.gpus_per_node", usual, why)
        if ranks % size:
            raise UserError(
                f"{ranks:,} ranks do not fill nodes of {size} GPUs",
                where=self.source.where,
                remedy="Give --set cluster.gpus_per_node=N, which divides them.",
            )
        self.put("cluster.nodes", ranks // size, *sources)

    def finish(self) -> Imported:
        """The spec with its report. Raises UserError that names the fields of the file."""
        overrides = self.options.overrides
        values = {**self._values, **overrides}
        if "optim.steps" in overrides and "optim.tokens" not in overrides:
            values.pop("optim.tokens", None)  # the spec holds one of the two
        try:
            spec = RunSpec.model_validate(_nested(values))
        except ValidationError as error:
            raise self._explain(error) from None
        taken = [entry for entry in self._taken if entry.field in values]
        taken += [Taken(name, "--set", plain(value)) for name, value in overrides.items()]
        return Imported(
            self.format,
            spec,
            tuple(taken),
            tuple(self._not_taken),
            (*(a for a in self._assumed if a.field in values), *self._defaults(spec, values)),
        )

    def _defaults(self, spec: RunSpec, values: dict[str, Any]) -> list[Assumed]:
        """Fields of the parts that an import concerns which nothing has set."""
        found = []
        for name in spec_fields():
            value: Any = spec
            *parts, last = name.split(".")
            for part in parts:
                value = getattr(value, part, None)
            if value is None or ADDED_LATER in type(value).model_fields[last].metadata:
                continue
            value = getattr(value, last)
            concerned = not name.startswith(("launch.", "monitor.", "eval."))
            if concerned and name not in values and value is not None:
                shown = list(value) if isinstance(value, tuple) else plain(value)
                found.append(Assumed(name, shown, "the run spec's default"))
        return found

    def _explain(self, error: ValidationError) -> UserError:
        sentences = []
        origin = {entry.field: entry.source for entry in self._taken}
        origin |= {entry.field: f"assumed: {entry.why}" for entry in self._assumed}
        origin |= dict.fromkeys(self.options.overrides, "--set")
        for problem in error.errors():
            message = problem["msg"].removeprefix("Value error, ")
            loc = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "missing":
                message = f"missing; give --set {loc}=VALUE"
            named = {loc} | set(re.findall(r"\b[a-z]+\.[a-z_0-9]+\b", message))
            if loc == "model":
                named |= {f"model.{word}" for word in re.findall(r"\w+", message)}
            read = [f"{name} ← {origin[name]}" for name in sorted(named) if name in origin]
            given = problem["input"]
            shown = "" if isinstance(given, dict | BaseModel) else f", got {brief(given)}"
            sentences.append(
                f"{self.source.where}: {loc + ': ' if loc else ''}{message}{shown}"
                + (f" ({'; '.join(read)})" if read else "")
            )
        return UserError("\n".join(sentences), remedy="Change the file, or give --set FIELD=VALUE.")


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    """{"optim.steps": 5} → {"optim": {"steps": 5}}."""
    content: dict[str, Any] = {}
    for name, value in values.items():
        *parts, last = name.split(".")
        node = content
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = value
    return content


def _folder_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100]


def take_vocabulary(draft: Draft, name: str, divisor: int, divisor_source: str) -> None:
    """Rows of the embedding: the vocabulary, rounded up to a multiple of the divisor × tensor
    parallel, as both nanotron and Megatron do."""
    if draft.source.find(name) is None or "model.vocab_size" in draft.options.overrides:
        draft.take("model.vocab_size", count, name)
        return
    size = draft.source.read(name, count)
    multiple = divisor * draft.value("parallel.tensor_parallel", 1)
    padded = math.ceil(size / multiple) * multiple
    sources = [name] if padded == size else [name, f"padded to a multiple of {divisor_source}"]
    draft.put("model.vocab_size", padded, ", ".join(sources))
