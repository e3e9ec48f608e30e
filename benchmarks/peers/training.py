"""What benchmarks.trainer_cpu and the trainers that it starts tell each other by, in a folder: to
them model/, sequences.npy and training.json, and from each rank its losses."""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any


def told(doc: str | None) -> tuple[Path, dict[str, Any]]:
    """The folder that the command line names, and its training.json."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("folder", type=Path, help="with model/, sequences.npy and training.json")
    folder: Path = parser.parse_args().folder
    return folder, json.loads((folder / "training.json").read_text())


class Lines:
    """NAME-RANK.jsonl: the loss in nats, and the time, after each step."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = (folder / f"{name}-{os.environ['RANK']}.jsonl").open("w")

    def add(self, step: int, loss: float) -> None:
        self._file.write(json.dumps({"step": step, "loss": loss, "time": time.time()}) + "\n")
        self._file.flush()
