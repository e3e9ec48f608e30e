"""`python -m trainer.data.prepare RUN`: tokenise what RUN/spec.yaml names; write dataset.json."""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from smolplan.errors import SmolplanError, UserError
from smolplan.mixture import Mixture
from smolplan.rundir import RunDir, write_json
from smolplan.spec import RunSpec, load_spec
from smolplan.units import count_of, format_bytes
from trainer.data.cache import Advance, CachedSource, Say
from trainer.data.dataset import TOKENIZER, Dataset
from trainer.data.digests import cache_folder
from trainer.data.drawn import check_goes_on
from trainer.data.given import GivenTokens
from trainer.data.locks import alone
from trainer.data.pieces import cut
from trainer.data.share import Share
from trainer.data.sources import Listing, check_named, list_files
from trainer.data.tokenizer import read_tokenizer, tokenizer_file, train_tokenizer

Source = CachedSource | GivenTokens


@dataclass(frozen=True)
class Left:
    """What of a source is done, and what is left."""

    name: str
    pieces: int
    left: int
    left_bytes: int
    """Of text, about."""
    elsewhere: int
    """Pieces of this part that another process is making now."""

    def told(self) -> str:
        """A line."""
        done = f"{self.name}: {self.pieces - self.left:,} of {self.pieces:,} pieces are done"
        if not self.left:
            return done
        return f"{done}, {self.left:,} ({format_bytes(self.left_bytes)} of text) are left"


def prepare(
    spec: RunSpec,
    say: Say = lambda line: None,
    advance: Advance = lambda source, done, total: None,
) -> Dataset:
    """The tokenised dataset of a spec, made now or found as made before. Raises UserError."""
    sources, tokenizer, separator = _begun(spec, say)
    with _write_errors(spec):
        for source in sources:
            source.make(say, advance)
    return _prepared(spec, sources, tokenizer, separator, say)


def prepare_share(
    spec: RunSpec,
    share: Share,
    say: Say = lambda line: None,
    advance: Advance = lambda source, done, total: None,
) -> Dataset | list[Left]:
    """Tokenise a share of the pieces; the dataset where all others are done too, else what is left
    of each source. Raises UserError."""
    sources, tokenizer, separator = _begun(spec, say, share)
    texts = [source for source in sources if isinstance(source, CachedSource)]
    shares = list(share.of([[p.bytes for p in source.pieces] for source in texts]))
    with _write_errors(spec):
        for given in sources:
            if isinstance(given, GivenTokens):
                given.make(say, advance)
        for source, mine in zip(texts, shares, strict=True):
            if source.begin():
                source.tokenise(mine, say, advance, wait=False)
        say("looking for what is left")
        # At the end: while this part was at the last source, another may have done the first.
        are_whole = [source.finish() for source in texts]
    if all(are_whole):
        return _prepared(spec, sources, tokenizer, separator, say)
    return [_left(source, mine) for source, mine in zip(texts, shares, strict=True)]


def _left(source: CachedSource, mine: list[int]) -> Left:
    left = source.left()
    return Left(
        source.name,
        len(source.pieces),
        len(left),
        sum(source.pieces[number].bytes for number in left),
        len({*left} & {*mine}),
    )


def _begun(
    spec: RunSpec, say: Say, share: Share | None = None
) -> tuple[list[Source], Tokenizer, str]:
    """All sources, nothing of which is made yet; the tokeniser, and what ends a document."""
    say("reading the text")
    with suppress(OSError):  # it is said below
        cache_folder(spec).mkdir(parents=True, exist_ok=True)
    listed = _listed(spec, share)
    with _write_errors(spec):
        path, known = _tokenizer_file(spec, listed)
        if spec.tokenizer is None and not path.exists():
            _train(spec, path, listed, say)
    tokenizer, separator = read_tokenizer(spec, path, known)
    return _sources(spec, listed, tokenizer, separator), tokenizer, separator


def _prepared(
    spec: RunSpec, sources: list[Source], tokenizer: Tokenizer, separator: str, say: Say
) -> Dataset:
    dataset = _dataset(spec, sources, tokenizer, separator)
    assert dataset is not None
    mixture_of(spec, dataset)
    for made in dataset.sources:
        if told := made.told_of_left_out:
            say(told)
    say(f"{dataset.tokens:,} tokens of {count_of(dataset.documents, 'document')}")
    return dataset


@contextmanager
def _write_errors(spec: RunSpec) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the tokenised text: {error.strerror}",
            where=str(cache_folder(spec)),
            remedy="Name a writable folder with room by data.cache_dir.",
        ) from None


def find(spec: RunSpec) -> Dataset | None:
    """The dataset that was made of a spec's text, whatever became of its files. Reads what of the
    text has changed, and writes nothing but, where there is a cache, what it then knows of the
    files. Raises UserError."""
    listed = _listed(spec)
    path, known = _tokenizer_file(spec, listed)
    if spec.tokenizer is None and not path.exists():
        return None
    tokenizer, separator = read_tokenizer(spec, path, known)
    return _dataset(spec, _sources(spec, listed, tokenizer, separator), tokenizer, separator)


def mixture_of(spec: RunSpec, dataset: Dataset) -> Mixture:
    """Raises UserError."""
    sequences = [source.sequences(spec.data.seq_len) for source in dataset.sources]
    return Mixture.of(spec, [source.name for source in dataset.sources], sequences)


def _listed(spec: RunSpec, share: Share | None = None) -> list[Listing | GivenTokens]:
    """What there is of each source."""
    check_named(spec)
    return [
        list_files(spec, number, share) if source.tokens is None else GivenTokens(spec, number)
        for number, source in enumerate(spec.data.sources)
    ]


def _tokenizer_file(spec: RunSpec, listed: list[Listing | GivenTokens]) -> tuple[Path, str | None]:
    """Where the tokeniser is, or would be once it is trained; and what ends a document, if it came
    with tokens. They cannot be made anew, so theirs is the run's."""
    given = next((one for one in listed if isinstance(one, GivenTokens)), None)
    if spec.tokenizer is None and given is not None:
        return given.folder / TOKENIZER, given.separator
    files = [one.files for one in listed if isinstance(one, Listing)]
    return tokenizer_file(spec, cache_folder(spec), files), None


def _train(spec: RunSpec, path: Path, listed: list[Listing | GivenTokens], say: Say) -> None:
    pieces = [
        piece
        for source, one in zip(spec.data.sources, listed, strict=True)
        if isinstance(one, Listing)
        for piece in cut(one.files, source.text_field)
    ]
    with alone(path):  # one of several trains it, and the others find it
        if not path.exists():
            train_tokenizer(spec, path, pieces, say)


def _sources(
    spec: RunSpec, listed: list[Listing | GivenTokens], tokenizer: Tokenizer, separator: str
) -> list[Source]:
    """Raises UserError where given tokens are not the run's."""
    sources = list[Source]()
    for number, one in enumerate(listed):
        if isinstance(one, GivenTokens):
            one.check(tokenizer, separator)
            sources.append(one)
        else:
            sources.append(CachedSource(spec, number, one, tokenizer, separator))
    first = sources[0]
    for number, source in enumerate(sources):
        if source.token_bytes != first.token_bytes:
            raise UserError(
                f"tokens of {source.name} have {source.token_bytes} bytes, those of {first.name} "
                f"{first.token_bytes}",
                where=f"data.sources.{number}",
                remedy="Tokenise all sources with one model.vocab_size, or with those up to 65,536 "
                "(2 bytes) or above it (4).",
            )
    return sources


def _dataset(
    spec: RunSpec, sources: list[Source], tokenizer: Tokenizer, separator: str
) -> Dataset | None:
    """Of all sources; None if one has not been made."""
    parts = [part for source in sources if (part := source.found()) is not None]
    if len(parts) < len(sources):
        return None
    number = tokenizer.token_to_id(separator)
    assert number is not None  # separator_of has looked
    made = tuple(source for source, _ in parts)
    told = [(source.name, source.fingerprint) for source in made]
    return Dataset(
        folder=str(cache_folder(spec)),
        fingerprint=hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32],
        tokens=sum(source.tokens for source in made),
        documents=sum(source.documents for source in made),
        held_out_tokens=sum(source.held_out_tokens for source in made),
        held_out_bytes=sum(source.held_out_bytes for source in made),
        vocab_size=tokenizer.get_vocab_size(),
        separator=number,
        token_bytes=sources[0].token_bytes,
        tokenizer=f"{sources[0].prefix}/{TOKENIZER}",
        files={name: entry for _, files in parts for name, entry in files.items()},
        sources=made,
        separator_token=separator,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Tokenise the text of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--progress", action="store_true", help="say what is done, on stderr")
    arguments = parser.parse_args()

    def say(line: str) -> None:
        if arguments.progress:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    run = RunDir(arguments.run)
    try:
        spec = load_spec(run.spec)
        write_dataset(run, spec, prepare(spec, say))
    except SmolplanError as error:
        sys.stderr.write(f"smolplan: {error}\n")
        return int(error.exit_code)
    return 0


def write_dataset(run: RunDir, spec: RunSpec, dataset: Dataset) -> None:
    """Raises UserError, also where the run has checkpoints that read other text."""
    check_goes_on(run, spec, dataset)
    sequences = sum(source.sequences(spec.data.seq_len) for source in dataset.sources)
    try:
        write_json(run.dataset, {**dataset.to_json(), "sequences": sequences})
    except OSError as error:
        raise UserError(
            f"cannot write it: {error.strerror}",
            where=str(run.dataset),
            remedy="Make the run directory writable.",
        ) from None


if __name__ == "__main__":
    sys.exit(main())
