"""Steps that are recorded on request."""

import gzip
import json
from pathlib import Path

import pytest

from smolplan.profile_request import ProfileRequest, request_profile
from smolplan.rundir import RunDir
from tests.support import make_spec
from tests.trainer.test_resume import make_run, train


def losses(run: RunDir) -> list[tuple[int, float, float]]:
    return [(line["step"], line["loss"], line["grad_norm"]) for line in run.read_metrics()]


@pytest.mark.slow
def test_a_rank_is_recorded_for_the_steps_asked_for_and_training_is_the_same_bit_for_bit(
    tmp_path: Path, data_cache: Path
) -> None:
    spec = make_spec(data_cache, steps=6, every=6)
    plain, recorded = make_run(tmp_path / "plain", spec), make_run(tmp_path / "recorded", spec)
    asked = request_profile(recorded, 2, (1,))
    assert asked is not None
    assert train(plain, 1, 2) == 0 and train(recorded, 1, 2) == 0
    assert losses(recorded) == losses(plain)
    (event,) = [e for e in recorded.read_events() if e["kind"] == "profiled"]
    assert event["request"] == asked.id and event["troubles"] == {}
    assert (event["first_step"], event["last_step"]) == (2, 3)
    assert event["files"] == ["profiles/step-2-rank-1.json.gz"]
    assert [file.name for file in recorded.profiles.iterdir()] == ["step-2-rank-1.json.gz"]
    with gzip.open(recorded.path / event["files"][0]) as file:
        names = {entry.get("name") for entry in json.load(file)["traceEvents"]}
    assert "aten::mm" in names
    assert not recorded.profile_request.exists()


def test_one_profile_is_asked_for_at_a_time_and_none_that_is_too_long(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert ProfileRequest.read(run) is None
    asked = request_profile(run, 3, (0, 2))
    assert asked is not None and ProfileRequest.read(run) == asked
    assert request_profile(run, 3, (0,)) is None and ProfileRequest.read(run) == asked
    for content in ('{"id": "a", "steps": 100, "ranks": [0]}', '{"id": "a"}', "half"):
        run.profile_request.write_text(content)
        assert ProfileRequest.read(run) is None
