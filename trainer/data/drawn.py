"""What the sequences that a checkpoint has read follow from: its position means the same wherever
that is the same, whatever sources and stages come behind it."""

from dataclasses import dataclass
from typing import Any

from smolplan.errors import UserError
from smolplan.mixture import Mixture
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader
from trainer.manifest import Manifest, read_manifest, steps_present


@dataclass(frozen=True)
class Order:
    """Which sequence stands at which position."""

    dataset: str
    """Fingerprint of all sources."""
    sources: tuple[str, ...]
    """Their own. The order within one is keyed by its number, so that none may move."""
    mixture: Mixture
    seq_len: int
    seed: int

    @staticmethod
    def of(dataset: Dataset, loader: Loader) -> "Order":
        sources = tuple(source.fingerprint for source in dataset.sources)
        return Order(dataset.fingerprint, sources, loader.mixture, loader.seq_len, loader.seed)

    def before(self, position: int) -> dict[str, Any]:
        """All that the sequences below a position follow from, as JSON: each source that one is
        of, by number, and each stage that began, with its shares as fractions."""
        counts = self.mixture.counts(position)
        return {
            "seed": self.seed,
            "seq_len": self.seq_len,
            "sources": {str(n): self.sources[n] for n, count in enumerate(counts) if count},
            "stages": [
                [
                    stage.first_position,
                    {str(n): str(s) for n, s in enumerate(stage.mix.shares) if s},
                ]
                for stage in self.mixture.stages
                if stage.first_position < position
            ],
        }

    def refusal(self, run: RunDir, manifest: Manifest) -> str:
        """Why the position of a checkpoint means nothing in a run of this order; empty if it means
        the same."""
        why = self.differs(manifest.dataset, manifest.drawn, manifest.data_position)
        return why and (
            f"{run.dataset} names other data ({self.dataset}) than checkpoint {manifest.step} was "
            f"trained on ({manifest.dataset}), {why}: its position in the data means nothing here"
        )

    def differs(self, dataset: str, drawn: dict[str, Any], position: int) -> str:
        """Of a checkpoint that was trained on `dataset`, and says to have `drawn` this."""
        if dataset == self.dataset:
            return ""
        if not drawn:
            return "and does not say what it has read of them"
        now = self.before(position)
        for name in ("seed", "seq_len"):
            if drawn.get(name) != now[name]:
                return f"and its {name} was {drawn.get(name)}, not {now[name]}"
        if drawn.get("stages") != now["stages"]:
            return f"and the stages or weights up to its position {position:,} were others"
        for number, fingerprint in drawn.get("sources", {}).items():
            if now["sources"].get(number) != fingerprint:
                return (
                    f"and of data.sources.{number} it has read other tokens: its text or the "
                    f"tokeniser changed, or it stands elsewhere now"
                )
        return ""


def check_goes_on(run: RunDir, spec: RunSpec, dataset: Dataset) -> None:
    """Raises UserError where the newest checkpoint of a run cannot be gone on from with a dataset,
    so that the one that it has read is not written over."""
    for step in steps_present(run):
        try:
            manifest = read_manifest(run.checkpoint(step))
        except ValueError:
            continue
        order = Order.of(dataset, Loader.of(spec, dataset))
        if problem := order.refusal(run, manifest):
            raise UserError(
                problem,
                where=f"checkpoint {step}",
                remedy="Put back what it has read; append sources and stages behind it.",
            )
        return
