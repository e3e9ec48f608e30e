"""`python -m preflight.probes.dataset RUN`: the dataset that was made of the text of RUN/spec.yaml,
as its dataset.json has it, whatever became of its files; null if there is none."""

import json
import sys

from smolplan.errors import SmolplanError
from smolplan.rundir import RunDir
from smolplan.spec import load_spec
from trainer.data.prepare import find


def main() -> int:
    try:
        dataset = find(load_spec(RunDir(sys.argv[1]).spec))
    except SmolplanError as error:
        sys.stderr.write(f"smolplan: {error}\n")
        return int(error.exit_code)
    sys.stdout.write(json.dumps(dataset.to_json() if dataset else None) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
