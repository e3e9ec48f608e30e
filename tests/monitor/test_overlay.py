"""Curves of runs over each other, from run folders as a trainer and its restarts leave them."""

import json
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

from monitor.report.course import read_course
from monitor.report.overlay import (
    metrics_of,
    named,
    overlay_html,
    overlay_svg,
    panels,
    points,
)
from smolplan.rundir import RunDir, append_line, write_json
from smolplan.spec import RunSpec, dump_spec, load_preset
from tests.support import smolplan

SVG = "{http://www.w3.org/2000/svg}"
SPEC = load_preset("tiny-cpu")


def log(run: RunDir, steps: range, attempt: int, loss: float) -> None:
    for step in steps:
        line = {"step": step, "tokens": step * SPEC.global_batch_tokens, "attempt": attempt}
        append_line(
            run.metrics,
            line | {"loss": loss, "step_s": 2.0, "data_wait_s": 0.5, "tokens_per_s": 9.0},
        )


def make_run(folder: Path, spec: RunSpec = SPEC) -> RunDir:
    folder.mkdir()
    run = RunDir(folder)
    run.spec.write_text(dump_spec(spec))
    return run


@pytest.fixture
def restarted(tmp_path: Path) -> RunDir:
    """Killed after step 50; it went on from step 40."""
    run = make_run(tmp_path / "restarted")
    log(run, range(1, 51), 1, loss=3.0)
    log(run, range(41, 61), 2, loss=2.0)
    return run


def test_steps_done_again_are_drawn_once_as_the_newest_attempt_did_them(restarted: RunDir) -> None:
    course = read_course("r", restarted, SPEC)
    assert [p.step for p in course.points] == list(range(1, 61))
    losses = {p.step: p.values["loss"].mean for p in course.points}
    assert losses[40] == 3.0 and losses[41] == 2.0
    assert course.begins == [41 * SPEC.global_batch_tokens]
    assert course.points[0].values["data_wait_share"].mean == 0.25


def test_an_attempt_that_went_back_hides_only_the_steps_that_it_has_reached(
    restarted: RunDir,
) -> None:
    log(restarted, range(21, 31), 3, loss=1.0)
    course = read_course("r", restarted, SPEC)
    assert [p.step for p in course.points] == list(range(1, 61))
    seen = [(p.step, p.attempt) for p in course.points if p.step in (20, 21, 30, 31, 40, 41)]
    assert seen == [(20, 1), (21, 3), (30, 3), (31, 1), (40, 1), (41, 2)]


def test_a_spike_is_seen_in_a_long_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "long")
    log(run, range(1, 4001), 1, loss=2.0)
    log(run, range(4001, 4002), 1, loss=90.0)
    log(run, range(4002, 8001), 1, loss=2.0)
    course = read_course("r", run, SPEC)
    assert len(course.points) <= 600
    assert max(p.values["loss"].high for p in course.points) == 90.0


def test_runs_lie_over_each_other_at_equal_tokens(restarted: RunDir, tmp_path: Path) -> None:
    """Twice the batch is twice the tokens a step, so half the steps reach as far."""
    optim = SPEC.optim.model_copy(update={"global_batch_size": 2 * SPEC.optim.global_batch_size})
    large = SPEC.model_copy(update={"optim": optim})
    other = make_run(tmp_path / "b <&>", large)
    for step in range(1, 31):
        append_line(other.metrics, {"step": step, "attempt": 1, "loss": 4.0})
    for step in (10, 30):
        other.evals.mkdir(exist_ok=True)
        write_json(other.evals / f"step-{step}.json", {"step": step, "bits_per_byte": 1.5})
    courses = [read_course("r", restarted, SPEC), read_course("b <&>", other, large)]
    assert "bits_per_byte" in metrics_of(courses)
    (loss,) = panels(courses, ["loss"])
    assert loss.lines[0].rows[-1].x == loss.lines[1].rows[-1].x == 60 * SPEC.global_batch_tokens
    (scores,) = panels(courses, ["bits_per_byte"])
    root = ElementTree.fromstring(overlay_svg([loss, scores]))
    inner = root.findall(f"{SVG}svg")
    assert len(inner) == 2
    assert len(inner[0].findall(f"{SVG}polyline")) == 3  # two attempts of one run, and the other
    assert len(inner[0].findall(f"{SVG}line[@class='begin']")) == 1
    assert len(inner[1].findall(f"{SVG}circle")) == 2
    assert "b <&>" in "".join(root.itertext())


def log_sources(run: RunDir, **losses: float) -> None:
    """One of them is not in every step; and memory, which a checkpoint's copies raise."""
    for step in range(1, 31):
        of = losses if step % 2 else {name: losses[name] for name in list(losses)[:1]}
        memory = 4_000_000_000 if step > 20 else 3_000_000_000
        append_line(
            run.metrics,
            {"step": step, "attempt": 1, "loss": 2.0, "source_losses": of, "memory_bytes": memory},
        )
    run.evals.mkdir()
    for step in (10, 30):
        sources = {name: {"bits_per_byte": loss / 2} for name, loss in losses.items()}
        score = {"step": step, "bits_per_byte": 1.5, "sources": sources}
        write_json(run.evals / f"step-{step}.json", score)


def test_what_the_sources_of_a_run_have_is_one_panel_with_their_names(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mixed")
    log_sources(run, web=3.0, **{"code <c>": 1.0})
    course = read_course("mixed", run, SPEC)
    known = metrics_of([course])
    assert known[:3] == ["loss", "source_losses/web", "source_losses/code <c>"]
    assert named("source_losses", known) == known[1:3] and named("loss", known) == ["loss"]
    _, losses, memory, bits = panels([course], known)
    assert [line.name for line in losses.lines] == ["web", "code <c>"]
    assert [len(line.rows) for line in losses.lines] == [30, 15]
    assert len({line.colour for line in losses.lines}) == 2
    assert memory.lines[0].rows[-1].mean == 4.0 and memory.axes.y_label.startswith("GB")
    assert [line.name for line in bits.lines] == ["all", "web", "code <c>"]
    text = "".join(ElementTree.fromstring(overlay_svg([losses])).itertext())
    assert "code <c>" in text and "mixed" not in text
    assert b"<h1>mixed</h1>" in overlay_html([losses]) and b"One run" in overlay_html([losses])
    (told,) = points([course], ["memory_bytes", "source_losses/web"])
    assert told["metrics"]["memory_bytes"][-1]["mean"] == 4_000_000_000
    assert told["metrics"]["source_losses/web"][-1]["mean"] == 3.0


def test_of_several_runs_each_source_is_a_panel_of_its_own(tmp_path: Path) -> None:
    courses = []
    for name in ("a", "b"):
        run = make_run(tmp_path / name)
        log_sources(run, web=3.0, code=1.0)
        courses.append(read_course(name, run, SPEC))
    drawn = panels(courses, named("source_losses", metrics_of(courses)))
    assert [panel.axes.title for panel in drawn] == ["Loss by source: web", "Loss by source: code"]
    assert all([line.name for line in panel.lines] == ["a", "b"] for panel in drawn)


def test_many_names_stand_in_rows_and_lie_on_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "many")
    log_sources(run, **{f"a-source-with-a-long-name-{n}": float(n) for n in range(9)})
    course = read_course("many", run, SPEC)
    drawn = panels([course], named("source_losses", metrics_of([course])))
    root = ElementTree.fromstring(overlay_svg([*drawn, *drawn]))
    of_first, of_second = root.findall(f"{SVG}g")
    places = [(float(r.get("x", 0)), float(r.get("y", 0))) for r in of_first.iter(f"{SVG}rect")]
    assert len(set(places)) == 9 and max(x for x, _ in places) < 560
    first, _ = root.findall(f"{SVG}svg")
    assert float(first.get("y", 0)) >= max(y for _, y in places)
    assert of_first.get("transform") != of_second.get("transform")


@pytest.mark.parametrize("suffix", ["html", "svg", "png"])
def test_the_command_draws_a_file(restarted: RunDir, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"curves.{suffix}"
    done = smolplan("plot", str(restarted.path), "--to", str(file))
    if suffix == "png" and find_spec("matplotlib") is None:
        assert done.returncode == 2 and "pip install 'smolplan[plot]'" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    content = file.read_bytes()
    assert content.startswith(b"\x89PNG") if suffix == "png" else b"<polyline" in content


def test_what_cannot_be_drawn_is_said(restarted: RunDir, tmp_path: Path) -> None:
    for arguments, said in [
        (["--to", "a.gif"], "--to"),
        (["--metric", "los", "--to", str(tmp_path / "a.svg")], "loss"),
    ]:
        done = smolplan("plot", str(restarted.path), *arguments)
        assert done.returncode == 2 and said in done.stderr
        assert "Traceback" not in done.stderr


def test_the_points_are_told_as_json_and_nothing_is_drawn(
    restarted: RunDir, tmp_path: Path
) -> None:
    append_line(restarted.metrics, {"step": 61, "attempt": 2, "loss": float("inf")})
    picture = tmp_path / "loss.svg"
    words = ("plot", str(restarted.path), "--to", str(picture), "--metric", "loss")
    done = smolplan(*words, "--json")
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)
    assert told["run"] == "restarted" and list(told["metrics"]) == ["loss"]
    rows = told["metrics"]["loss"]
    assert rows[40] == {
        "tokens": 41 * SPEC.global_batch_tokens,
        **dict.fromkeys(("mean", "low", "high"), 2.0),
        "attempt": 2,
    }
    assert all(row["mean"] is None or row["mean"] < 4 for row in rows)
    assert not picture.exists()
