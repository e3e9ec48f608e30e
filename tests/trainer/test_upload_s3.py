"""Checkpoints in S3, by a real server and s3fs, and processes that are killed. No torch."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error

from smolplan.lock import is_held
from smolplan.rundir import RunDir
from smolplan.uploads import Uploads
from tests.lab.s3 import BUCKET, S3Lab, s3_lab
from tests.support import wait_until
from tests.trainer.checkpoints import contents, make_checkpoint, make_run
from trainer import object_store
from trainer.object_store import ObjectStore, content_of
from trainer.store_errors import told

FILES = 16


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Lab]:
    with s3_lab() as lab:
        yield lab


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / tmp_path.name, f"s3://{BUCKET}/runs")


def start(module: str, run: RunDir, s3: S3Lab, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(run)],
        env={**os.environ, **s3.environment, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(module: str, run: RunDir, s3: S3Lab) -> str:
    process = start(module, run, s3)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    return said


def test_an_upload_killed_in_the_middle_is_gone_on_with_and_nothing_half_is_restored(
    run: RunDir, s3: S3Lab
) -> None:
    older = contents(make_checkpoint(run, 4))
    finish("trainer.upload", run, s3)
    newest = contents(make_checkpoint(run, 8, files=FILES))
    prefix = f"runs/{run.path.name}/step-8/"

    def arrived() -> dict[str, object]:
        return {k: o.last_modified for k, o in s3.objects.items() if k.startswith(prefix)}

    process = start("trainer.upload", run, s3)
    wait_until(lambda: len(arrived()) >= FILES // 4)
    process.kill()
    process.communicate()
    half = arrived()
    assert len(half) < FILES and f"{prefix}manifest.json" not in half
    assert not is_held(run.upload_lock)

    # A new cluster that looks now gets the older one.
    elsewhere = RunDir(run.path.parent / "elsewhere" / run.path.name)
    elsewhere.path.mkdir(parents=True)
    shutil.copy(run.spec, elsewhere.spec)
    finish("trainer.restore", elsewhere, s3)
    assert {p.name: contents(p) for p in elsewhere.checkpoints.iterdir()} == {"step-4": older}

    finish("trainer.upload", run, s3)
    whole = arrived()
    assert len(whole) == FILES + 1 and half.items() <= whole.items()  # none was sent twice

    shutil.rmtree(run.checkpoints)
    process = start("trainer.restore", run, s3)
    partial = run.checkpoints / ".fetching" / "step-8"
    wait_until(lambda: partial.is_dir() and len(list(partial.iterdir())) >= FILES // 4)
    process.kill()
    process.communicate()
    assert not run.checkpoint(8).exists()
    finish("trainer.restore", run, s3)
    assert {p.name: contents(p) for p in run.checkpoints.iterdir()} == {"step-8": newest}


def test_two_uploads_of_a_run_are_one(run: RunDir, s3: S3Lab) -> None:
    make_checkpoint(run, 4, files=FILES)
    first = start("trainer.upload", run, s3)
    wait_until(lambda: is_held(run.upload_lock) is True)
    first.send_signal(signal.SIGSTOP)  # so that it is not done before the second begins
    assert "another process" in finish("trainer.upload", run, s3)
    first.send_signal(signal.SIGCONT)
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert [e["kind"] for e in run.read_events()] == ["checkpoint_uploaded"]


def test_a_byte_that_flips_in_the_store_is_refused_and_named(run: RunDir, s3: S3Lab) -> None:
    make_checkpoint(run, 4)
    finish("trainer.upload", run, s3)
    shutil.rmtree(run.checkpoints)
    s3.alter(f"runs/{run.path.name}/step-4/shard-00001.safetensors")
    process = start("trainer.restore", run, s3)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and "no whole checkpoint" in said
    (told,) = [e for e in run.read_events() if e["kind"] == "restore_refused"]
    assert told["step"] == 4 and "shard-00001.safetensors" in told["reason"]
    assert not run.checkpoint(4).exists()


def test_what_is_wrong_is_named_and_no_secret_is_written(run: RunDir, s3: S3Lab) -> None:
    make_checkpoint(run, 4)
    process = start("trainer.upload", run, s3, AWS_ENDPOINT_URL="http://127.0.0.1:9")

    def trouble() -> bool:
        return Uploads.read(run, f"s3://{BUCKET}/runs/{run.path.name}").trouble is not None

    try:
        wait_until(trouble)
    finally:
        process.kill()
        said = process.communicate()[1]
    record = Uploads.read(run, f"s3://{BUCKET}/runs/{run.path.name}").trouble
    assert record is not None and "cannot be reached" in record.reason
    written = said + run.uploads.read_text() + run.events.read_text()
    assert "test-secret-key" not in written and "test-key-id" not in written


def test_a_large_file_goes_in_parts_and_its_hash_is_the_stores_own(
    s3: S3Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_store, "PART_BYTES", 5 * 2**20)  # S3's least
    large = tmp_path / "large"
    large.write_bytes(os.urandom(11 * 2**20))
    content, store = content_of(large), ObjectStore(f"s3://{BUCKET}/parts")
    store.put(large, "large", content)
    assert s3.objects["parts/large"].etag.strip('"') == content.etag and "-" in content.etag
    monkeypatch.setattr(store, "_sha256", lambda name: pytest.fail("it was read back"))
    assert store.holds("large", content)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("AccessDenied", "permission denied"),
        ("RequestTimeTooSkewed", "clock"),
        ("InvalidAccessKeyId", "access key is unknown"),
        ("SignatureDoesNotMatch", "secret key"),
        ("ExpiredToken", "expired"),
        ("PermanentRedirect", "another region"),
    ],
)
def test_an_answer_of_s3_is_put_in_words_with_what_to_do(code: str, reason: str) -> None:
    response = {"Error": {"Code": code, "Message": "of AKIASECRET"}}
    error = translate_boto_error(ClientError(response, "PutObject"))
    known = told(error)
    assert known is not None and reason in known[0] and known[1]
    assert "AKIASECRET" not in "".join(known)
