import errno
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from smolplan.cli.main import app
from smolplan.cli.options import write_file
from smolplan.errors import UserError
from smolplan.spec import dump_spec, load_preset, load_spec
from tests.support import smolplan


def planned(*arguments: str) -> dict[str, Any]:
    done = smolplan("plan", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    return content


@pytest.mark.parametrize(
    "arguments",
    [
        ("smollm3-3b", "--explain"),
        ("smollm3-3b", "--restrict", "pp>1,vp>1,recompute!=none", "--by", "energy"),
        ("smollm3-3b", "--gpus", "8-1024", "--by", "cost"),
        ("llama3-8b", "--explain", "--stack", "nemo"),
    ],
)
def test_the_answer_fits_80_columns_and_is_plain_when_piped(arguments: tuple[str, ...]) -> None:
    done = smolplan("plan", *arguments)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    assert "examined" in done.stdout and "MFU: exact FLOPs" in done.stdout


def test_the_winner_is_set_against_the_second_cause_by_cause() -> None:
    done = smolplan("plan", "smollm3-3b", "--restrict", "zero=0,vp=1")
    assert done.stdout.startswith("DP 192 × TP 2, MBS 3, ZeRO-0 on 384 × h100")
    assert "Against the second, DP 96 × TP 2 × CP 2" in done.stdout
    assert "context parallel" in done.stdout and "in all" in done.stdout


def test_the_specs_own_layout_is_set_beside_the_best() -> None:
    free = smolplan("plan", "smollm3-3b").stdout
    assert "The spec's own, DP 192 × TP 2, MBS 3, ZeRO-0: " in free
    as_then = smolplan("plan", "smollm3-3b", "--restrict", "zero=0,schedule=1f1b").stdout
    assert "The spec's own, DP 192 × TP 2, MBS 3, ZeRO-0, is the best" in as_then
    assert "The spec's own" not in smolplan("plan", "smollm3-3b", "--gpus", "64").stdout
    own = planned("smollm3-3b")["spec_layout"]
    restricted = planned("smollm3-3b", "--restrict", "zero=0,vp=1")
    assert own["step_s"] == pytest.approx(restricted["best"]["step_s"])
    assert own["memory_bytes"] == restricted["best"]["memory_bytes"]


def test_what_a_restriction_costs_is_told() -> None:
    term = ("--restrict", "zero=0,schedule=1f1b")
    then = planned("smollm3-3b", *term)
    free = planned("smollm3-3b")
    assert then["without_restriction"]["step_s"] == free["best"]["step_s"]
    assert free["without_restriction"] is None
    gain = then["best"]["step_s"] / free["best"]["step_s"] - 1
    text = " ".join(smolplan("plan", "smollm3-3b", *term).stdout.split())
    assert f"would be {gain:.1%} faster" in text
    whole = smolplan("plan", "smollm3-3b", "--restrict", "dp>=1").stdout
    assert "Without --restrict: nothing is faster" in whole


def test_what_a_restriction_costs_is_told_by_what_is_ranked_by() -> None:
    asked = ("smollm3-3b", "--restrict", "zero=0,pp=1", "--by", "energy")
    content = planned(*asked)
    gain = content["best"]["kwh"] / content["without_restriction"]["kwh"] - 1
    assert gain > 0
    assert f"would be {gain:.1%} thriftier" in " ".join(smolplan("plan", *asked).stdout.split())


def test_a_zero_bubble_schedule_goes_into_the_spec(tmp_path: Path) -> None:
    out = tmp_path / "planned.yaml"
    content = planned("smollm3-3b", "--restrict", "pp=4,vp=1", "--out", str(out))
    assert content["best"]["layout"]["schedule"] == "zero-bubble"
    assert load_spec(out).parallel.schedule == "zero-bubble"
    own = planned(str(out))["spec_layout"]
    assert own["step_s"] == pytest.approx(content["best"]["step_s"])
    assert "zero-bubble" in smolplan("plan", str(out), "--restrict", "pp=4").stdout


def test_json_holds_the_search_and_the_lines_of_the_best() -> None:
    content = planned("smollm3-3b", "--top", "3")
    (one,) = content["searches"]
    assert len(one["best"]) == 3
    assert one["legal"] + sum(r["layouts"] for r in one["rejections"]) == one["examined"]
    best = content["best"]
    assert best["layout"] == one["best"][0]["layout"]
    memory = sum(line["value"] for line in best["memory_lines"])
    assert memory == best["memory_bytes"]
    gap = one["best"][1]["step_s"] - best["step_s"]
    told = sum(row["runner_up_s"] - row["best_s"] for row in best["against_runner_up"])
    assert told == pytest.approx(gap, abs=1e-3)


def test_several_numbers_of_gpus_make_a_front_and_a_plot(tmp_path: Path) -> None:
    plot = tmp_path / "front.svg"
    content = planned("smollm3-3b", "--gpus", "64,128,192,216", "--plot", str(plot))
    front = {point["gpus"]: point for point in content["front"]}
    assert [front[n]["pareto"] for n in (64, 128, 192, 216)] == [True, True, True, False]
    assert front[64]["days"] > front[192]["days"]
    assert front[64]["dollars"] < front[192]["dollars"]
    circles = ElementTree.fromstring(plot.read_text()).findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 4


def test_a_page_shows_every_number_of_gpus_and_what_the_figures_rest_on(tmp_path: Path) -> None:
    plot = tmp_path / "front.html"
    content = planned("smollm3-3b", "--gpus", "64,128", "--plot", str(plot))
    page = plot.read_text()
    for one in content["searches"]:
        tokens = f"{one['best'][0]['tokens_per_s_per_gpu']:,.0f}"
        assert f"<td>{tokens}</td>" in page
    assert "per GPU-hour" in page and "stack generic" in page


def test_a_png_without_matplotlib_is_refused_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planner.plot_png.can_draw_png", lambda: False)
    plot = tmp_path / "front.png"
    asked = ["plan", "smollm3-3b", "--gpus", "64,128", "--plot", str(plot)]
    with pytest.raises(UserError, match=r"not installed.*pip install 'smolplan\[plot\]'"):
        CliRunner().invoke(app, asked, catch_exceptions=False)
    assert not plot.exists()


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_a_png_of_the_front_is_drawn(tmp_path: Path) -> None:
    plot = tmp_path / "front.png"
    done = smolplan("plan", "smollm3-3b", "--gpus", "64,128", "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_cost_picks_few_gpus_and_time_picks_many() -> None:
    assert planned("smollm3-3b", "--gpus", "64,384", "--by", "cost")["best"]["gpus"] == 64
    assert planned("smollm3-3b", "--gpus", "64,384", "--by", "time")["best"]["gpus"] == 384


def test_the_network_that_is_told_is_what_is_priced_and_noted() -> None:
    slow = smolplan("plan", "smollm3-3b", "--network", "2x100Gb/s", "--oversubscription", "3")
    assert slow.returncode == 0, slow.stderr
    told = " ".join(slow.stdout.split())
    assert "3.125 GB/s of network a GPU, beyond a node oversubscribed by 3" in told
    before = planned("smollm3-3b")["best"]["step_s"]
    after = planned("smollm3-3b", "--network", "2x100Gb/s")["best"]["step_s"]
    worst = planned("smollm3-3b", "--network", "2x100Gb/s", "--oversubscription", "3")
    assert before < after < worst["best"]["step_s"]


def test_a_price_scales_the_dollars() -> None:
    cheap = planned("smollm3-3b", "--price", "1")["best"]["dollars"]
    assert planned("smollm3-3b", "--price", "$2.50")["best"]["dollars"] == pytest.approx(
        2.5 * cheap
    )


def test_out_writes_a_spec_that_loads_and_holds_the_best_layout(tmp_path: Path) -> None:
    out = tmp_path / "planned.yaml"
    content = planned("smollm3-3b", "--gpus", "128", "--out", str(out))
    written, layout = load_spec(out), content["best"]["layout"]
    assert written.cluster.gpus == written.parallel.ranks == 128
    given = written.parallel.model_dump()
    assert given == {name: layout[name] for name in given}
    before = load_preset("smollm3-3b")
    assert written.model == before.model and written.optim == before.optim


def test_files_are_replaced_only_when_forced(tmp_path: Path) -> None:
    out = tmp_path / "planned.yaml"
    out.write_text("mine")
    done = smolplan("plan", "smollm3-3b", "--out", str(out))
    assert done.returncode == 2
    assert "--force" in done.stderr and out.read_text() == "mine"
    assert smolplan("plan", "smollm3-3b", "--out", str(out), "--force").returncode == 0
    assert load_spec(out).name == "smollm3-3b"


def test_the_trainers_layouts_are_ones_that_it_runs(tmp_path: Path) -> None:
    out = tmp_path / "planned.yaml"
    done = smolplan("plan", "smollm3-3b", "--gpus", "64", "--trainer", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert load_spec(out).unsupported_by_trainer() == []
    assert "fp32 weights" in done.stdout


def test_no_legal_layout_ends_with_the_closest_miss_and_code_2(tmp_path: Path) -> None:
    spec = load_preset("smollm3-3b")
    small = spec.cluster.model_copy(update={"nodes": 192, "gpus_per_node": 2, "gpu": "l40s"})
    file = tmp_path / "run.yaml"
    file.write_text(dump_spec(spec.model_copy(update={"cluster": small})))
    done = smolplan("plan", str(file), "--gpus", "1", "--top", "1")
    assert done.returncode == 2
    assert "no layout is legal" in done.stderr
    assert "closest: one GPU, MBS 1, ZeRO-0, full recompute needs" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["smollm3-3b", "--restrict", "tq=1"], "Did you mean tp"),
        (["smollm3-3b", "--by", "beauty"], "time, cost or energy"),
        (["smollm3-3b", "--stack", "nemmo"], "Did you mean nemo"),
        (["smollm3-3b", "--gpus", "many"], "not a number of GPUs"),
        (["smollm3-3b", "--gpus", "0"], "from 1 to 1,000,000"),
        (["smollm3-3b", "--gpus", "12"], "Give 8 or 16"),
        (["smollm3-3b", "--gpus", "9-15"], "no whole nodes of 8"),
        (["smollm3-3b", "--gpus", "8-1M"], "more than 200"),
        (["smollm3-3b", "--price", "free"], "--price"),
        (["smollm3-3b", "--price", "0"], "no price"),
        (["smollm3-3b", "--plot", "x.svg"], "several numbers of GPUs"),
        (["smollm3-3b", "--plot", "x.gif"], "End the name in .svg, .png, .html"),
        (["smollm3-3b", "--plot", "x"], "End the name in .svg, .png, .html"),
        (["gpt-oss-20b", "--trainer"], "--trainer"),
        (["smollm3-3b", "--network", "400"], "Write 400GB/s"),
        (["smollm3-3b", "--network", "0x400Gb/s"], "adapters like 8x400Gb/s"),
        (["smollm3-3b", "--network", "ax400Gb/s"], "adapters like 8x400Gb/s"),
        (["smollm3-3b", "--network", "8x0GB/s"], "not more than zero"),
        (["smollm3-3b", "--links", "fast"], "--links"),
        (["smollm3-3b", "--oversubscription", "0.5"], "from 1 to 1000"),
        (["smollm3-3b", "--oversubscription", "nan"], "from 1 to 1000"),
        (["smollm3-3b", "--pod", "0"], "no number of nodes"),
        (["smollm3-3b", "--storage", "-1GB/s"], "--storage"),
        (["tiny-cpu"], "CPU"),
        (["no-such.yaml"], "cannot read the spec"),
        (["smollm3-3b", "--out", "/no/such/folder/run.yaml"], "cannot write it"),
        (["smollm3-3b", "--out", "/proc/run.yaml"], "cannot write it"),
        (["smollm3-3b", "--out", "x" * 300], "File name too long. Name a file"),
        (["smollm3-3b", "--gpus", "8,16", "--plot", "x" * 300 + ".svg"], "File name too long"),
        (["smollm3-3b", "--out", "/tmp", "--force"], "it is a folder"),
    ],
)
def test_nonsense_ends_with_a_sentence_and_code_2(arguments: list[str], said: str) -> None:
    done = smolplan("plan", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_cannot_be_written_is_refused_before_the_search_and_the_other_is_not_written(
    tmp_path: Path,
) -> None:
    plot = tmp_path / "front.svg"
    done = smolplan(
        "plan", "smollm3-3b", "--gpus", "8,16", "--plot", str(plot), "--out", str(tmp_path)
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_can_be_and_the_file_behind_a_link_are_written(tmp_path: Path) -> None:
    longest, link = tmp_path / ("x" * 255), tmp_path / "link"
    write_file("--out", longest, b"one", force=False)
    link.symlink_to(longest)
    write_file("--out", link, b"two", force=True)
    assert longest.read_bytes() == b"two" and link.is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_disk_that_fills_up_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("mine")

    def fill_up(path: Path, content: bytes) -> int:
        with path.open("wb") as half:
            half.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(UserError, match="No space left"):
        write_file("--out", file, b"another", force=True)
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]
