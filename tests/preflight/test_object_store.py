"""The object store as preflight sees it: one that works, and ones that do not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from preflight.checks.config_checkpoints import interval_oddities
from preflight.checks.storage.object_store import judge_upload_speed
from preflight.report import Result
from smolplan.spec import RunSpec, load_preset
from tests.lab.s3 import BUCKET, S3Lab, s3_lab
from tests.preflight.support import only, with_part
from tests.support import make_spec


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Lab]:
    with s3_lab() as lab:
        yield lab


def uploading(to: str) -> RunSpec:
    return with_part(load_preset("tiny-cpu"), "checkpoint", upload_to=to)


def asked(to: str, folder: Path, name: str = "storage.object_store") -> Result:
    return only(name, uploading(to), folder)


@pytest.mark.parametrize("check", ["storage.object_store", "storage.upload_speed"])
def test_a_store_that_works_passes_and_nothing_is_left_there(
    check: str, s3: S3Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    found = asked(f"s3://{BUCKET}/runs", tmp_path, check)
    assert found.state == "pass", found
    assert s3.objects == {} and all(value > 0 for value in found.measured.values())


@pytest.mark.parametrize(
    ("bucket", "changes", "why"),
    [
        ("no-such-bucket", {}, "no such bucket"),
        (BUCKET, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "cannot be reached"),
        (BUCKET, {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials"),
    ],
)
def test_what_is_wrong_with_a_store_is_named(
    bucket: str,
    changes: dict[str, str],
    why: str,
    s3: S3Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name, value in {**s3.environment, **changes}.items():
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)
    found = asked(f"s3://{bucket}/runs", tmp_path)
    assert found.state == "fail" and why in found.why and found.remedy, found


def test_a_folder_that_is_not_there_and_a_package_that_is_missing_are_named(tmp_path: Path) -> None:
    missing = asked(f"file://{tmp_path}/none", tmp_path)
    assert missing.state == "fail" and "is no folder" in missing.why
    package = asked("gs://bucket/runs", tmp_path)
    assert package.state == "fail" and "pip install gcsfs" in package.remedy


def test_without_upload_to_it_is_skipped(tmp_path: Path) -> None:
    found = only("storage.object_store", load_preset("tiny-cpu"), tmp_path)
    assert found.state == "skipped"


@pytest.mark.slow
def test_a_checkpoint_that_was_lost_comes_back_and_is_gone_on_from(
    data_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    spec = with_part(make_spec(data_cache), "checkpoint", upload_to=f"file://{tmp_path}/store")
    found = only("checkpoint.upload", spec, tmp_path / "runs")
    assert found.state == "pass", found
    assert found.measured["steps_done_again"] > 0
    assert list((tmp_path / "store").iterdir()) == []


def test_an_upload_that_takes_longer_than_the_interval_is_warned_of() -> None:
    told = {"write_bytes_per_s": 1e8, "read_bytes_per_s": 1e8}
    assert judge_upload_speed(told, 48e9, 481.0).state == "pass"
    slow = judge_upload_speed(told, 48e9, 479.0)
    assert slow.state == "warn" and "8 min" in slow.why
    assert judge_upload_speed(told, 48e9, None).state == "pass"


def test_an_interval_that_no_common_link_can_follow_is_warned_of() -> None:
    from planner.plan import make_plan

    class Asked:
        def __init__(self, every: int, to: str | None) -> None:
            preset = load_preset("smollm3-3b")
            self.spec = with_part(preset, "checkpoint", every_steps=every, upload_to=to)
            self.plan = make_plan(self.spec)

    def told(every: int, to: str | None) -> bool:
        return any("upload_to" in oddity.why for oddity in interval_oddities(Asked(every, to)))

    assert told(5, "s3://b/runs")
    assert not told(5, None) and not told(2000, "s3://b/runs")
