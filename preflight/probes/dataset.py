"""`python -m preflight.probes.dataset RUN`: the dataset that was made of the text of RUN/spec.yaml,
as its dataset.json has it, whatever became of its files; null if there is none."""

import json
import sys

from smolplan.errors import SmolplanError
from smolplan.rundir import RunDir, read_json
from smolplan.spec import load_spec
from trainer.data.dataset import Dataset
from trainer.data.tokenise import dataset_folder


def main() -> int:
    try:
        folder = dataset_folder(load_spec(RunDir(sys.argv[1]).spec))
    except SmolplanError as error:
        sys.stderr.write(f"smolplan: {error}\n")
        return int(error.exit_code)
    content = read_json(folder / "dataset.json")
    if content is not None:
        try:
            content = {**Dataset.from_json(content).to_json(), "folder": str(folder)}
        except ValueError:
            content = None
    sys.stdout.write(json.dumps(content) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
