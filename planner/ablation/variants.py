"""Variants of a run: one choice of its spec taken back, or fields set; all else as it was."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from smolplan.errors import UserError
from smolplan.spec import RunSpec

BASE = "base"

Fields = dict[str, Any]
"""Fields of a spec by dotted name, and what they are to be."""

FIXED = {
    "name": "it names the runs",
    "seed": "it pairs the runs; see --seeds",
    "eval": "all variants are measured alike",
    "data.sources": "all variants are measured on the same text",
    "data.held_out_fraction": "all variants are measured on the same text",
}
"""Fields, and parts, that no variant sets; and why."""


@dataclass(frozen=True)
class Switch:
    fields: Callable[[RunSpec], Fields]
    """What it sets in a spec; empty where it would change nothing."""
    told: str
    """What the model has then."""
    idle: str
    """What is so where it changes nothing."""


def _gqa(spec: RunSpec) -> Fields:
    grouped = _attention(spec) and spec.model.kv_heads < spec.model.heads
    return {"model.kv_heads": spec.model.heads} if grouped else {}


def _rnope(spec: RunSpec) -> Fields:
    bare = any(not spec.model.uses_rope(layer) for layer in _attention(spec))
    return {"model.no_rope_every": 0} if bare else {}


def _document_masking(spec: RunSpec) -> Fields:
    return {"model.intra_document_mask": False} if spec.model.intra_document_mask else {}


def _tied_embeddings(spec: RunSpec) -> Fields:
    return {"model.tied_embeddings": False} if spec.model.tied_embeddings else {}


def _embedding_decay(spec: RunSpec) -> Fields:
    spared = spec.optim.weight_decay and not spec.optim.embedding_decay
    return {"optim.embedding_decay": True} if spared else {}


def _schedule(spec: RunSpec) -> Fields:
    """With it goes what is wsd's alone."""
    cosine = {"optim.schedule": "cosine", "optim.decay_steps": 0, "optim.decay_shape": "linear"}
    return cosine if spec.optim.schedule == "wsd" else {}


def _attention(spec: RunSpec) -> list[int]:
    """Layers that attend, from 0."""
    return [number for number, kind in enumerate(spec.model.layer_kinds) if kind in "AaWw"]


SWITCHES: dict[str, Switch] = {
    "gqa": Switch(
        _gqa, "keys and values for every head (MHA)", "every head has keys and values of its own"
    ),
    "rnope": Switch(
        _rnope, "rotary embedding on all layers", "all layers that attend have rotary embedding"
    ),
    "document_masking": Switch(
        _document_masking, "attention across documents", "tokens attend across documents"
    ),
    "tied_embeddings": Switch(
        _tied_embeddings, "an output head of its own", "the output head is one of its own"
    ),
    "embedding_decay": Switch(
        _embedding_decay,
        "weight decay on the embedding too",
        "the embedding is decayed as all else is, or weight_decay is 0",
    ),
    "schedule": Switch(
        _schedule, "a cosine behind the warm-up (no WSD)", "the learning rate's schedule is not wsd"
    ),
}
"""The choices of SmolLM3, each by the name of what it chose."""


@dataclass(frozen=True)
class Variant:
    name: str
    fields: Fields = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"variant": self.name, "fields": to_jsonable_python(self.fields)}

    def spec(self, base: RunSpec, seed: int) -> RunSpec:
        """Of its run with that seed. Raises UserError for one that cannot be."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name)[:30]
        name = f"{base.name[:40]}-{slug}-seed{seed}"
        return with_fields(base, {**self.fields, "name": name, "seed": seed}, self.name)


def variants(
    spec: RunSpec, switches: Sequence[str], settings: Mapping[str, Fields]
) -> tuple[Variant, ...]:
    """The spec as it is, then one with each switch and one with each setting (what was written →
    its fields); with every switch that changes something if none of either is named. Raises
    UserError for a switch that there is not, and for what changes nothing."""
    asked = list(dict.fromkeys(switches))
    if not asked and not settings:
        asked = [name for name, switch in SWITCHES.items() if switch.fields(spec)]
    found = [Variant(BASE), *(_switched(spec, name) for name in asked)]
    for written, fields in settings.items():
        for name in fields:
            _settable(name)
        if with_fields(spec, fields, f"--set {written}") == spec:
            raise UserError(
                "it changes nothing",
                where=f"--set {written}",
                remedy="Give another value than the spec's.",
            )
        found.append(Variant(written, fields))
    if len(found) == 1:
        raise UserError(
            "no switch changes anything for this spec",
            where=spec.name,
            remedy="Name a field to compare by --set FIELD=VALUE.",
        )
    return tuple(found)


def _switched(spec: RunSpec, name: str) -> Variant:
    if name not in SWITCHES:
        raise UserError(
            f"there is no switch {name!r}",
            where="--switch",
            remedy=f"Known: {', '.join(SWITCHES)}; any fields of the spec by --set FIELD=VALUE.",
        )
    fields = SWITCHES[name].fields(spec)
    if not fields:
        raise UserError(
            f"the switch {name} changes nothing for {spec.name}: {SWITCHES[name].idle}",
            where="--switch",
            remedy="Leave it out.",
        )
    return Variant(name, fields)


def _settable(name: str) -> None:
    for fixed, why in FIXED.items():
        if name == fixed or name.startswith(f"{fixed}."):
            raise UserError(
                f"{name} is no variant's own: {why}", where="--set", remedy="Change the spec."
            )


def with_fields(spec: RunSpec, fields: Fields, where: str) -> RunSpec:
    """The spec with these set. Raises UserError, which begins with `where`, if they contradict the
    others."""
    content = spec.model_dump()
    for name, value in fields.items():
        *parts, last = name.split(".")
        inner = content
        for part in parts:
            inner[part] = inner.get(part) or {}
            inner = inner[part]
        inner[last] = value
    try:
        return RunSpec.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        why = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"{place}: {why}" if place else why, where=where) from None
