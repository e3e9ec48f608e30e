"""Loss, gradient norm, data wait, evaluations and stragglers."""

import math
import random
from collections.abc import Callable

import pytest

from monitor.collect.evaluations import Curves, Score, curves
from monitor.collect.rows import StepRow
from monitor.detect.evaluations import Evaluations
from monitor.detect.series import RunSeries
from monitor.detect.straggler import Stragglers
from monitor.replay import Looks, tellings
from monitor.view import RankView


def found(rows: list[StepRow]) -> list[tuple[str, float, float | None]]:
    """(kind, told at, over at)"""
    watch = RunSeries()

    def looks() -> Looks:
        for row in rows:
            watch.take(row)
            yield row.at, watch.findings

    return [(one.finding.kind, one.at, one.over_at) for one in tellings(looks())]


def losses(seed: int, rows: int, more: Callable[[int], float] = lambda step: 0.0) -> list[StepRow]:
    """A power law like that of a small model, with the noise of batches."""
    rng = random.Random(seed)
    return [
        StepRow(s, loss=1.7 + 9 * (s + 50) ** -0.3 + rng.gauss(0, 0.03) + more(s))
        for s in range(1, rows)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_loss_that_falls_as_it_should_raises_nothing(seed: int) -> None:
    assert found(losses(seed, 6000)) == []


def test_a_loss_that_is_no_number_is_told_at_once_and_over_after_ordinary_rows() -> None:
    rows = losses(0, 1000)
    rows[500] = StepRow(501, loss=math.nan)
    rows[501] = StepRow(502, loss=math.inf)
    assert found(rows) == [("loss_not_finite", 501, 522)]


def test_a_spike_is_told_even_if_it_lasts_one_step() -> None:
    assert found(losses(0, 1000, lambda s: 1.0 if s == 700 else 0.0)) == [("loss_spike", 700, 720)]


@pytest.mark.parametrize("jump", [0.6, 3.0])
def test_a_spike_stays_once_fifty_rows_have_not_brought_it_back_and_is_over_when_it_is(
    jump: float,
) -> None:
    told = found(losses(0, 1000, lambda s: jump if 700 <= s < 780 else 0.0))
    ((_, at, over),) = [one for one in told if one[0] == "loss_spike_stays"]
    assert at == 749  # the 50th row since the jump
    assert over is not None and 780 <= over <= 800


@pytest.mark.parametrize("rows", [1, 5, 30])
def test_a_spike_that_comes_back_by_itself_does_not_stay(rows: int) -> None:
    told = found(losses(0, 1000, lambda s: 3.0 if 700 <= s < 700 + rows else 0.0))
    assert [kind for kind, _, _ in told if kind != "loss_climbs"] == ["loss_spike"]


def test_a_loss_that_jumps_less_than_a_spike_never_stays() -> None:
    told = found(losses(0, 1500, lambda s: 0.15 if s >= 700 else 0.0))
    assert "loss_spike_stays" not in {kind for kind, _, _ in told}


def test_a_loss_that_climbs_is_told_while_it_does() -> None:
    ((kind, at, over),) = found(losses(0, 3000, lambda s: max(0, s - 2000) * 0.001))
    assert kind == "loss_climbs"
    assert 2050 < at < 2400
    assert over is None


def test_a_loss_that_stands_still_is_told_of_for_information() -> None:
    rng = random.Random(0)
    rows = [
        StepRow(s, loss=max(2.5, 1.7 + 9 * (s + 50) ** -0.3) + rng.gauss(0, 0.03))
        for s in range(1, 10_000)
    ]
    assert [kind for kind, _, _ in found(rows)] == ["loss_plateau"]


def test_a_gradient_norm_that_drifts_upwards_is_told_and_single_bursts_are_not() -> None:
    def rows(level: Callable[[int], float]) -> list[StepRow]:
        rng = random.Random(0)
        return [StepRow(s, grad_norm=level(s) * math.exp(rng.gauss(0, 0.3))) for s in range(3000)]

    assert found(rows(lambda s: 0.3 + 10 * math.exp(-s / 50) + 20 * (s % 97 == 0))) == []
    ((kind, at, _),) = found(rows(lambda s: 0.3 * math.exp(max(0, s - 1000) / 1000)))
    assert kind == "gradient_norm_drift"
    assert 2000 < at < 2500


def test_steps_that_wait_for_data_are_told_of() -> None:
    rows = [
        StepRow(s, step_s=1.0, data_wait_s=0.3 if 500 <= s < 900 else 0.001) for s in range(1200)
    ]
    ((kind, at, over),) = found(rows)
    assert kind == "data_wait"
    assert 500 < at < 600
    assert over is not None and 900 < over < 1000


def scores(seed: int, deficit: float, points: int = 20) -> Curves:
    """Six tasks of different noise, better with tokens."""
    rng = random.Random(seed)
    return curves(
        (f"task{t}", Score(1e9 * n, 0.3 + 0.05 * math.log(n) - deficit + rng.gauss(0, 0.002 * t)))
        for n in range(1, points)
        for t in range(1, 7)
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_run_as_good_as_its_reference_is_not_behind(seed: int) -> None:
    watch = Evaluations(scores(seed + 100, 0.0), "older")
    run = scores(seed, 0.0)
    for last in range(1, 20):
        watch.look({task: known[:last] for task, known in run.items()})
        assert watch.findings == ()


@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_is_worse_in_all_tasks_is_behind_after_a_few_checkpoints(seed: int) -> None:
    watch = Evaluations(scores(seed + 100, 0.0), "older")
    run = scores(seed, 0.012)
    watch.look({task: known[:10] for task, known in run.items()})
    (finding,) = watch.findings
    assert finding.kind == "evaluations_behind"
    assert finding.evidence["tasks"].keys() == run.keys()


def kinds(watch: Evaluations) -> list[str]:
    return [finding.kind for finding in watch.findings]


def test_of_perplexities_the_lower_is_the_better() -> None:
    def perplexity(level: float) -> Curves:
        points = (Score(1e9 * n, level + 10 / n, 0.05) for n in range(1, 9))
        return curves(("wiki perplexity", score) for score in points)

    watch = Evaluations(perplexity(12.0), "older")
    watch.look(perplexity(11.0))
    assert kinds(watch) == []
    watch.look(perplexity(13.0))
    assert kinds(watch) == ["evaluations_behind"]


def test_evaluations_beyond_the_references_tokens_are_not_guessed_at() -> None:
    reference = {task: known[:4] for task, known in scores(1, 0.0).items()}
    watch = Evaluations(reference, "older")
    watch.look({task: known[5:] for task, known in scores(2, 0.2).items()})
    assert watch.findings == ()


def test_a_rank_that_is_slower_than_the_others_for_long_is_named_with_its_host() -> None:
    watch = Stragglers()
    for step in range(40):
        took_s = {0: 1.0, 1: 1.0, 2: 1.3 if step > 5 else 1.0, 3: 1.0}
        views = {r: RankView(r, step, "training", 0.0, t) for r, t in took_s.items()}
        watch.look(views, lambda rank: f"host{rank // 2}")
    (finding,) = watch.findings
    assert (finding.kind, finding.key) == ("straggler", "2")
    assert "host1" in finding.summary
