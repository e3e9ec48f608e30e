"""What a dataset holds, and what a run draws of it, counted on the real order."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from smolplan.mixture import uses
from smolplan.spec import RunSpec
from trainer.data.dataset import Dataset, DatasetSource
from trainer.data.loader import Loader

EXCERPT_TOKENS = 64


def inspect(spec: RunSpec, dataset: Dataset, steps: int, show: int) -> dict[str, Any]:
    """Of each source what it is and how often it is read; of each stage its shares as planned, and
    as drawn in `steps` batches spread over it; of each source `show` beginnings of documents.
    Raises UserError for weights that cannot be."""
    loader = Loader.of(spec, dataset)
    used = uses(spec, loader.mixture, loader.sequences)
    tokenizer = Tokenizer.from_file(str(dataset.tokenizer_path)) if show else None
    sources = []
    for source, use in zip(dataset.sources, used, strict=True):
        told: dict[str, Any] = {
            **{name: getattr(source, name) for name in ("documents", "tokens", "bytes")},
            **{name: getattr(source, name) for name in ("held_out_documents", "held_out_tokens")},
            "left_out": source.left_out,
            "told_of_left_out": source.told_of_left_out,
            **asdict(use),
            "epochs": use.epochs if use.sequences or not use.drawn else None,
            "too_often": use.too_often,
        }
        if tokenizer is not None:
            told["excerpts"] = list(_excerpts(dataset, source, tokenizer, show))
        sources.append(told)
    return {
        "dataset": dataset.fingerprint,
        "folder": dataset.folder,
        "seq_len": spec.data.seq_len,
        "steps": spec.steps,
        "sequences_drawn": spec.batches.sequences(spec.steps),
        "sources": sources,
        "stages": list(_stages(spec, loader, steps)),
    }


def _stages(spec: RunSpec, loader: Loader, steps: int) -> Iterator[dict[str, Any]]:
    mixture, batches = loader.mixture, spec.batches
    starts = [batches.steps(stage.first_position) for stage in mixture.stages]
    for stage, start, end in zip(mixture.stages, starts, [*starts[1:], spec.steps], strict=True):
        last = max(start, min(end, spec.steps))
        looked_at = min(steps, last - start)
        drawn = [0] * len(mixture.names)
        for number in range(looked_at):
            step = start + number * (last - start) // looked_at
            for position in range(batches.sequences(step), batches.sequences(step + 1)):
                drawn[mixture.at(position)[0]] += 1
        total = sum(drawn)
        yield {
            "name": stage.name,
            "first_step": start + 1,
            "steps": last - start,
            "planned": {n: float(s) for n, s in zip(mixture.names, stage.mix.shares, strict=True)},
            "drawn": {n: c / total for n, c in zip(mixture.names, drawn, strict=True) if total},
            "sequences_looked_at": total,
        }


def _excerpts(
    dataset: Dataset, source: DatasetSource, tokenizer: Tokenizer, count: int
) -> Iterator[str]:
    """How documents begin, from all over the source."""
    files = len(source.document_ends)  # none in a dataset of an earlier smolplan
    count = min(count, files and source.documents)
    for number in range(count):
        file = number * files // count
        path = Path(dataset.folder) / source.document_ends[file]
        ends = np.memmap(path, dtype="<i8", mode="r")
        document = number * len(ends) // count
        start = int(ends[document - 1]) if document else 0
        before = sum(dataset.files[n].bytes for n in source.train[:file]) // dataset.token_bytes
        stop = min(int(ends[document]) - 1, start + EXCERPT_TOKENS)
        ids = dataset.train(source).read(before + start, before + stop)
        yield " ".join(tokenizer.decode(ids.tolist()).split())
