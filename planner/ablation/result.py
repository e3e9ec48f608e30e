"""What an ablation has found: its runs' figures, variant by variant beside the base."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from planner.ablation.intervals import LEVEL, Difference, Mean
from planner.ablation.variants import Variant
from planner.params import parameter_count
from smolplan.spec import RunSpec


@dataclass(frozen=True)
class Trained:
    """One finished run, evaluated after its last step."""

    run: str
    path: str
    seed: int
    bits_per_byte: float
    tokens_per_s: float
    """Median over its steps."""
    batches: tuple[int, ...]
    """A checksum a step."""

    def to_json(self) -> dict[str, Any]:
        names = ("run", "path", "seed", "bits_per_byte", "tokens_per_s")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Row:
    """A variant over all seeds."""

    variant: Variant
    parameters: int
    bits_per_byte: Mean
    difference: Difference | None
    """From the base; None of the base itself."""
    tokens_per_s: float
    same_batches: bool
    """Whether each run read, step by step, what the base's of its seed did."""
    runs: tuple[Trained, ...]
    """In the order of the seeds."""

    @property
    def verdict(self) -> str:
        """Bits per byte are the better the fewer they are."""
        if self.difference is None or self.difference.within_noise is None:
            return ""
        if self.difference.within_noise:
            return "noise"
        return "worse" if self.difference.mean > 0 else "better"

    def to_json(self) -> dict[str, Any]:
        return {
            **self.variant.to_json(),
            "parameters": self.parameters,
            "bits_per_byte": {
                "mean": self.bits_per_byte.value,
                "standard_error": self.bits_per_byte.standard_error,
            },
            "difference": self.difference
            and {
                "mean": self.difference.mean,
                "interval": self.difference.interval,
                "pairs": self.difference.pairs,
                "within_noise": self.difference.within_noise,
            },
            "tokens_per_s": self.tokens_per_s,
            "same_batches": self.same_batches,
            "runs": [run.to_json() for run in self.runs],
        }


@dataclass(frozen=True)
class Ablation:
    spec: RunSpec
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    """The base's first."""

    @staticmethod
    def of(
        spec: RunSpec, seeds: Sequence[int], found: Sequence[tuple[Variant, Sequence[Trained]]]
    ) -> "Ablation":
        """`found`: the base's first; runs in the order of the seeds."""
        base = found[0][1]
        rows = (_row(spec, variant, runs, base) for variant, runs in found)
        return Ablation(spec, tuple(seeds), tuple(rows))

    def to_json(self) -> dict[str, Any]:
        return {
            "spec": self.spec.name,
            "spec_hash": self.spec.content_hash(),
            "steps": self.spec.steps,
            "tokens": self.spec.tokens,
            "seeds": list(self.seeds),
            "level": LEVEL,
            "variants": [row.to_json() for row in self.rows],
        }


def _row(spec: RunSpec, variant: Variant, runs: Sequence[Trained], base: Sequence[Trained]) -> Row:
    scores, of_base = ([run.bits_per_byte for run in of] for of in (runs, base))
    apart = None if runs is base else Difference.of(of_base, scores)
    return Row(
        variant=variant,
        parameters=parameter_count(variant.spec(spec, runs[0].seed).model),
        bits_per_byte=Mean.of(scores),
        difference=apart,
        tokens_per_s=Mean.of([run.tokens_per_s for run in runs]).value,
        same_batches=all(a.batches == b.batches for a, b in zip(runs, base, strict=True)),
        runs=tuple(runs),
    )
