"""Which paths of a script hold what must not be lost: the spec's own folders, and what its words
and variables are called."""

import os.path
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smolplan.spec import RunSpec

Kind = Literal["everything", "runs", "checkpoints", "data"]

WHAT: dict[Kind, str] = {
    "everything": "everything there",
    "runs": "the runs with all their checkpoints",
    "checkpoints": "checkpoints",
    "data": "the text or its tokens",
}

_EVERYTHING = {
    *("/", "/*", "~", "~/", "~/*", "$HOME", "$HOME/", "$HOME/*", ".", "./", "./*", "*", "./.*"),
    *("..", "../", "../*", ".*", "$PWD", "$PWD/", "$PWD/*", "/home", "/mnt", "/data", "/root"),
}
_CHECKPOINTS = re.compile(
    r"ckpt|checkpoint|(global_)?step[-_]\*?\d*(/|$|\*)|iter_\*?\d*(/|$|\*)|\.safetensors|\.distcp"
    r"|\.pt$|\.pth$|epoch[-_]?[\d*]",
    re.IGNORECASE,
)
_RUNS = re.compile(
    r"\$(\w*(RUN|RUNS|OUT|OUTPUT|OUTPUTS|SAVE|EXP|EXPERIMENT|RESULTS?)_?(DIR|PATH|ROOT|FOLDER)"
    r"|RUN|RUNS|OUTPUT)\b",
    re.IGNORECASE,
)
_DATA = re.compile(
    r"\$\w*(DATA|DATASET|TOKENS?|TOKENIZED|CORPUS)(_?(DIR|PATH|ROOT|FOLDER))?\b", re.IGNORECASE
)
_PASSING = re.compile(
    r"^(/tmp|/var/tmp|\$TMPDIR|\$TMP|\$TEMP|\$SLURM_TMPDIR|\$MKTEMP)(/|$)"
    r"|__pycache__|\.pyc$|\.lock$|\.pid$|\.sock$|\.tmp$|\.part$|/\.cache/|^\.cache/|^core(\.|$)"
    r"|triton_cache|inductor_cache|\.pytest_cache|\.ruff_cache|\.mypy_cache|\.o$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Places:
    """Folders of a run, absolute, with what is in them."""

    folders: tuple[tuple[Path, Kind], ...]
    script_folder: Path

    def kind(self, text: str) -> Kind | None:
        """What is lost with a path: given as a script has it, its unknown variables as $NAME."""
        text = re.sub(r"/+", "/", text)
        if text in _EVERYTHING:
            return "everything"
        base = re.sub(r"(/\.)?/?[^/]*[*?\[][^/]*(/.*)?$", "", text)
        if "$" not in text and "…" not in text:
            path = Path(os.path.normpath(self.script_folder / Path(base or ".").expanduser()))
            for folder, kind in self.folders:
                if path == folder or path in folder.parents or folder in path.parents:
                    return kind
        if _PASSING.search(text):
            return None
        if _CHECKPOINTS.search(text):
            return "checkpoints"
        if _RUNS.search(text):
            return "runs"
        return "data" if _DATA.search(text) else None


def is_checkpoint(name: str) -> bool:
    """Whether a name is that of a checkpoint, or of a file of one."""
    return bool(_CHECKPOINTS.search(name)) and not _PASSING.search(name)


def places_of(spec: RunSpec, runs_dir: Path, script_folder: Path) -> Places:
    folders: list[tuple[Path, Kind]] = [(runs_dir.expanduser().absolute(), "runs")]
    for source in spec.data.sources:
        if source.place is not None:
            folders.append((source.place.expanduser().absolute(), "data"))
    for path in (spec.data.cache_dir, spec.tokenizer):
        if path is not None:
            folders.append((path.absolute(), "data"))
    return Places(tuple(folders), script_folder.absolute())
