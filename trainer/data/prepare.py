"""`python -m trainer.data.prepare RUN`: tokenise what RUN/spec.yaml names; write dataset.json."""

import argparse
import sys
from pathlib import Path

from smolplan.errors import SmolplanError, UserError
from smolplan.rundir import RunDir, write_json
from smolplan.spec import load_spec
from trainer.data.loader import sequences_in
from trainer.data.tokenise import prepare


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
        dataset = prepare(spec, say)
        sequences = sequences_in(dataset.tokens, spec.data.seq_len)
        try:
            write_json(run.dataset, {**dataset.to_json(), "sequences": sequences})
        except OSError as error:
            raise UserError(
                f"cannot write it: {error.strerror}",
                where=str(run.dataset),
                remedy="Make the run directory writable.",
            ) from None
    except SmolplanError as error:
        sys.stderr.write(f"smolplan: {error}\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
