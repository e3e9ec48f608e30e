"""The loss of each source of a mixture."""

from pathlib import Path

import pytest

from preflight.small_run_layouts import with_parts
from tests.support import make_spec
from tests.trainer.test_resume import make_run, train


@pytest.mark.slow
def test_the_sources_losses_together_are_the_steps_and_each_is_its_own(
    tmp_path: Path, data_cache: Path
) -> None:
    sources = []
    for name, text in (("hard", "".join(map(chr, range(33, 127)))), ("easy", "a b ")):
        (tmp_path / name).mkdir()
        # Of the hard one each document is another turn of the same signs.
        for number in range(90):
            turned = text[number % len(text) :] + text[: number % len(text)]
            (tmp_path / name / f"{number}.txt").write_text(turned * 30)
        weight = 0.75 if name == "hard" else 0.25
        sources.append({"path": str(tmp_path / name), "name": name, "weight": weight})
    spec = with_parts(
        make_spec(data_cache, steps=12, ranks=2, rate=1e-2),
        data={"sources": sources, "max_epochs": 1000, "cache_dir": str(tmp_path / "cache")},
        optim={"global_batch_size": 8},
    )
    run = make_run(tmp_path / "run", spec)
    assert train(run, 1, 2) == 0
    lines = run.read_metrics()
    assert len(lines) == 12
    for line in lines:
        counts, losses = line["sources"], line["source_losses"]
        assert counts == {"hard": 6, "easy": 2} and losses.keys() == counts.keys()
        total = sum(counts[name] * losses[name] for name in counts)
        assert total / 8 == pytest.approx(line["loss"], rel=1e-12)
    assert lines[-1]["source_losses"]["easy"] < lines[-1]["source_losses"]["hard"]
