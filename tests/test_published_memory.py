import csv
from pathlib import Path

import numpy as np
import pytest

from benchmarks import memory

COLUMNS = [
    *("model", "params_b", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "seq_len"),
    *("global_batch_tokens", "gpu", "gpus", "tp", "pp", "micro_batch", "dp_or_zero", "recompute"),
    *("tokens_per_s_per_gpu", "source", "mem_gib_per_gpu"),
]
CELLS = """llama-1b 1.2 16 2048 16 16 8192 32768 4096
1048576 h100 8 1 1 2 zero1 none 9000 x 40"""
SMALL = dict(zip(COLUMNS, CELLS.split(), strict=True))


def written(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    return path


def test_published_peaks_are_printed_beside_predictions_and_the_rest_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "runs.csv", SMALL, SMALL | {"recompute": "full"})
    assert memory.main([str(file)]) == 0
    out = capsys.readouterr().out
    assert "1 rows, error median" in out
    assert "for 40.0 GiB" in out
    assert "1 not counted: recompute is full" in out


def test_a_file_without_a_usable_row_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "runs.csv", SMALL | {"layers": ""})
    assert memory.main([str(file)]) == 2
    assert "no row can be predicted" in capsys.readouterr().err
    assert memory.main([str(tmp_path / "none.csv")]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_a_fit_finds_the_constants_that_made_the_peaks() -> None:
    random = np.random.default_rng(3)
    parts = random.uniform(0.1, 2.0, size=(300, 2, 5))
    parts[..., -1] = 1.0
    constants = np.array([9.0, 7.0, 2.0, 3.0])
    found = memory.fit(parts, memory.predicted_gib(parts, constants))
    assert found == pytest.approx(constants, rel=0.05)
