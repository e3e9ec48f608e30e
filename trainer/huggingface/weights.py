"""Weights in a Hugging Face folder: what is called how there, written and read tensor by tensor."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from smolplan.errors import UserError
from trainer.huggingface.families import Family

SHARD_BYTES = 5 * 10**9
"""Of fp32 in one file at most, unless one tensor has more: Hugging Face's files have 5 GB."""

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

_STACKED = re.compile(r"(.*\.mlp\.experts)\.(\w+)")


@dataclass(frozen=True)
class Piece:
    """Part of one of our parameters, as it is stored there."""

    name: str
    expert: int | None = None
    """Which of our stacked matrices, (in, out), it is, stored as (out, in); None: all of it."""
    less: float = 0.0
    """What the stored values are less than ours."""

    def shape(self, whole: Sequence[int]) -> tuple[int, ...]:
        """As it is stored, of a parameter of that shape."""
        return tuple(whole) if self.expert is None else tuple(reversed(whole[1:]))

    def of(self, whole: Tensor) -> Tensor:
        part = whole if self.expert is None else whole[self.expert].T
        return part - self.less if self.less else part


def pieces(name: str, shape: Sequence[int], family: Family) -> list[Piece]:
    """Where a parameter of ours lies."""
    less = 1.0 if family.zero_centred and _is_zero_centred(name) else 0.0
    found = [Piece(name, less=less)]
    if stacked := _STACKED.fullmatch(name):
        layer, matrix = stacked.groups()
        found = [Piece(f"{layer}.{i}.{matrix}.weight", i) for i in range(shape[0])]
    return [Piece(_renamed(piece.name, family), piece.expert, piece.less) for piece in found]


def _is_zero_centred(name: str) -> bool:
    return name.endswith("norm.weight") and "linear_attn" not in name


def _renamed(name: str, family: Family) -> str:
    for ours, theirs in family.renamed:
        name = name.replace(ours, theirs)
    return name


def write_weights(
    folder: Path,
    family: Family,
    shapes: dict[str, torch.Size],
    load: Callable[[list[str]], dict[str, Tensor]],
    dtype: torch.dtype,
) -> list[str]:
    """Write the weights of a model, whose names and shapes are `shapes`, as safetensors; the names
    of the files. `load` gives tensors by our names, SHARD_BYTES of them at a time."""
    groups = list(_groups(shapes))
    files: dict[str, tuple[str, int]] = {}
    for number, names in enumerate(groups, 1):
        file = (
            SINGLE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        )
        loaded = load(names)
        stored: dict[str, Tensor] = {}
        for name in names:
            whole = loaded.pop(name)
            for piece in pieces(name, whole.shape, family):
                stored[piece.name] = piece.of(whole).to(dtype).contiguous()
        save_file(stored, folder / file, metadata={"format": "pt"})
        files |= {name: (file, part.nbytes) for name, part in stored.items()}
    if len(groups) > 1:
        index = {
            "metadata": {"total_size": sum(size for _, size in files.values())},
            "weight_map": {name: file for name, (file, _) in sorted(files.items())},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return sorted({file for file, _ in files.values()})


def _groups(shapes: dict[str, torch.Size]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for name, shape in shapes.items():
        added = 4 * shape.numel()
        if group and size + added > SHARD_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += added
    yield group


class StoredWeights:
    """The weights of a folder. Raises UserError for a folder that has none, or other ones than a
    model of those names and shapes has in that family."""

    def __init__(self, folder: Path, family: Family, shapes: dict[str, torch.Size]) -> None:
        self._folder, self._family = folder, family
        self._files = _files_of(folder)
        wanted = {
            piece.name: piece.shape(shape)
            for name, shape in shapes.items()
            for piece in pieces(name, shape, family)
        }
        absent = sorted(wanted.keys() - self._files.keys())
        # A tied head may be stored all the same, and old files hold tables of the rotary embedding.
        ignored = ("lm_head.weight", "rotary_emb.inv_freq")
        strange = sorted(n for n in self._files.keys() - wanted.keys() if not n.endswith(ignored))
        if absent or strange:
            told = f"lacks {absent[0]}" if absent else f"holds {strange[0]}"
            raise UserError(
                f"it {told}, and {len(absent) + len(strange) - 1} more are amiss: these are not "
                f"the weights of a {family.architecture} of this shape",
                where=str(folder),
            )
        self.tensors, self.architecture = len(wanted), family.architecture
        self._check_shapes(wanted)

    def _check_shapes(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """By the files' headers: no weight is read."""
        for of in self.files:
            with _open(self._folder / of) as file:
                for name in (n for n, where in self._files.items() if where == of and n in wanted):
                    found = tuple(file.get_slice(name).get_shape())
                    if found != wanted[name]:
                        raise UserError(
                            f"{name} is {found} there, and {wanted[name]} by the spec",
                            where=str(self._folder / of),
                        )

    @property
    def files(self) -> list[str]:
        return sorted(set(self._files.values()))

    def read(self, name: str, shape: torch.Size) -> Tensor:
        """A parameter of ours, whole, in fp32. Raises UserError."""
        parts = []
        for piece in pieces(name, shape, self._family):
            stored = self._tensor(piece.name).float() + piece.less
            parts.append(stored if piece.expert is None else stored.T)
        return torch.stack(parts) if len(parts) > 1 or parts[0].dim() < len(shape) else parts[0]

    def _tensor(self, name: str) -> Tensor:
        path = self._folder / self._files[name]
        with _open(path) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """A safetensors file. Raises UserError, of what is read from it too."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read it: {error}", where=str(path)) from None


def _files_of(folder: Path) -> dict[str, str]:
    """Name of each stored tensor → its file. Raises UserError."""
    index = folder / INDEX
    try:
        if index.exists():
            listed = json.loads(index.read_text("utf-8"))["weight_map"]
            # A name with a path in it would read outside the folder.
            return {str(name): Path(str(file)).name for name, file in listed.items()}
        with safe_open(folder / SINGLE, framework="pt") as file:
            return dict.fromkeys(file.keys(), SINGLE)
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"cannot read its weights: {error}",
            where=str(folder),
            remedy=f"It needs {SINGLE}, or {INDEX} and the files that it names.",
        ) from None
