"""Scripts are read, never run: what would delete a run is named by line, what is sound is not."""

import json
import random
from pathlib import Path

import pytest

from planner.plan import make_plan
from preflight.checks.config_scripts import scripts
from preflight.context import Context
from preflight.scripts import lint
from preflight.scripts_places import places_of
from preflight.scripts_state import Problem
from preflight.shell import parse
from smolplan.errors import UserError
from smolplan.spec import load_preset
from tests.support import smolplan

SPEC = load_preset("tiny-cpu").model_copy(
    update={
        "data": load_preset("tiny-cpu").data.model_copy(
            update={"cache_dir": Path("/scratch/tokens")}
        )
    }
)
PLACES = places_of(SPEC, Path("/shared/runs"), Path("/home/me"))
SAFE = "#!/bin/bash\nset -euo pipefail\n"


def problems(text: str) -> list[Problem]:
    return lint(SAFE + text, "job.sh", PLACES)


GRAVE = [
    'rm -rf $CHECKPOINT_PATH',
    'rm -rf "$CKPT_DIR"',
    'rm -r "${OUTPUT_DIR}/checkpoints"',
    "rm -rf /shared/runs/smollm3",
    "rm -rf /shared/runs/",
    "rm -rf /shared",
    "rm -rf ../me/../../shared/runs",
    "rm -rf /",
    "rm -rf ~",
    'rm -rf "$HOME"/*',
    "rm -rf *",
    "rm -fr /scratch/tokens/*",
    "sudo rm -rf /shared/runs",
    "timeout 60 nice -n 10 rm -rf /shared/runs",
    'RUN=/shared/runs/a\nrm -rf "$RUN"',
    'RUN=${RUN:-/shared/runs/a}\nrm -rf "$RUN/checkpoints/step-10"',
    'bash -c "rm -rf /shared/runs"',
    "bash -lc 'rm -rf /shared/runs'",
    'ssh node1 "rm -rf /shared/runs"',
    "eval rm -rf /shared/runs",
    "trap 'rm -rf /shared/runs' EXIT",
    "sbatch <<EOF\n#!/bin/bash\nrm -rf /shared/runs\nEOF",
    "cat > job.sh <<'EOF'\n#!/bin/bash\nrm -rf /shared/runs\nEOF",
    "out=$(rm -rf /shared/runs 2>&1)",
    'if [ -d x ]; then rm -rf "$CKPT"; fi',
    'for s in /shared/runs/*; do rm -rf "$s"; done',
    'find "$CKPT_DIR" -mtime +3 -delete',
    "find /shared/runs -name '*.safetensors' -exec rm {} +",
    "find . -delete",
    'rsync -a --delete src/ "host:/backup/checkpoints/"',
    "rsync -a --remove-source-files /shared/runs/ host:/b/",
    "> /shared/runs/a/metrics.jsonl",
    "echo x | tee /shared/runs/a/events.jsonl",
    ": > checkpoints/step-10/manifest.json",
    "truncate -s 0 model.safetensors",
    "cp /dev/null /shared/runs/a/metrics.jsonl",
    "dd if=/dev/zero of=/dev/nvme0n1 bs=1M",
    "mkfs.ext4 /dev/nvme0n1",
    "git clean -fdx",
    "aws s3 rm --recursive s3://bucket/checkpoints/",
    "aws s3 rm s3://bucket --recursive",
    "aws s3 sync ./checkpoints s3://bucket/checkpoints --delete",
    "s5cmd rm 's3://bucket/*'",
    "gsutil -m rm -r gs://bucket/ckpt",
    "gsutil rsync -d -r ckpt gs://bucket/ckpt",
    "rclone sync checkpoints remote:backup/checkpoints",
    "rclone purge remote:backup/checkpoints",
    "hdfs dfs -rm -r /backup/checkpoints",
    "kubectl delete pvc runs",
    'ls -t "$CKPT" | tail -n +2 | xargs rm -rf',
    'ls "$CKPT" | head -n -2 | xargs -I{} rm -rf "$CKPT/{}"',
    'for d in $(ls -t "$CKPT" | head -n 3); do rm -rf "$CKPT/$d"; done',
    'ls -t "$CKPT" | tail -n 3 | while read -r d; do rm -rf "$CKPT/$d"; done',
    'ls -d "$CKPT"/step-* | xargs rm -rf',
    "pdsh -w node[1-4] 'rm -rf /shared/runs'",
    'command="train; rm -rf $CHECKPOINT_PATH/iter_100; train"\neval $command',
    'rm "$CKPT/model.safetensors"',
    'rm "$CKPT"/*',
]  # fmt: skip


@pytest.mark.parametrize("text", GRAVE)
def test_a_script_that_deletes_what_a_run_needs_is_refused(text: str) -> None:
    assert any(p.grave for p in problems(text)), problems(text)


SOUND = [
    "tmp=$(mktemp -d)\ntrap 'rm -rf \"$tmp\"' EXIT",
    'rm -rf "${SLURM_TMPDIR:?}/triton"',
    "rm -rf /tmp/build-42",
    "rm -f core.*",
    "find . -name __pycache__ -exec rm -rf {} +",
    "find . -name '*.pyc' -delete",
    "rsync -a --partial /shared/runs/ host:/backup/runs/",
    "aws s3 sync ./checkpoints s3://bucket/checkpoints",
    "aws s3 cp spec.yaml s3://bucket/spec.yaml",
    "git fetch && git checkout 1a2b3c",
    "git clean -n",
    "git clean -fdx build/",
    "echo started >> /shared/runs/a/notes.txt",
    "cat /shared/runs/a/metrics.jsonl | tail -n 3 > /tmp/last",
    "cat <<EOF\nrm -rf /shared/runs\nEOF",
    "# rm -rf /shared/runs",
    "echo 'rm -rf /shared/runs'",
    'grep -c "rm -rf" job.sh',
    "[[ $a > b && -d /shared/runs ]] && echo yes",
    "srun --kill-on-bad-exit=1 python -m torch.distributed.run train.py",
    "cd /work/code || exit 1\nmake",
    "mv report.txt /tmp/",
    'wait "$!"',
    'rm "$CKPT/notes.txt"',
    "rm -f /shared/runs/a/core.123",
]  # fmt: skip


@pytest.mark.parametrize("text", SOUND)
def test_a_sound_script_raises_no_alarm(text: str) -> None:
    assert problems(text) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('rm -rf "$DIR"/*', "where DIR is empty it deletes /*"),
        ('rm -rf "$A/$B"', "where A or B is empty it deletes /"),
        ("MODELS=$ROOT/models\nrm -r $MODELS", "where ROOT is empty it deletes /models"),
        ("cd $BUILD\nrm -rf out", "if 'cd $BUILD' of line 2 fails"),
        ('ls -t "$CKPT" | tail -n +2 | xargs rm -rf', "one is kept"),
        ('ls "$CKPT" | head -n -2 | xargs rm -rf', "sorted as text"),
        ('ls -t "$CKPT" | head -n 2 | xargs rm -rf', "the newest are deleted"),
        ('ls -t "$CKPT" | tail -n 3 | xargs rm -rf', "the 3 oldest go however few"),
        ('aws s3 cp --recursive "$CKPT" s3://b/c\nrm -rf "$CKPT"', "the upload of line 2"),
        ("clean() {\n rm -rf /shared/runs\n}\ntrap clean EXIT", "the trap of line 5"),
        ('find "$CKPT" -mtime +3 -delete', "after a pause all are old"),
    ],
)
def test_what_would_go_wrong_is_said(text: str, told: str) -> None:
    found = lint("#!/bin/bash\n" + text, "job.sh", PLACES)
    assert any(told in p.why for p in found), found


def test_a_guard_an_and_or_set_e_takes_the_alarm_away() -> None:
    assert "where DIR is empty" in str(lint('rm -rf "$DIR"/*', "x", PLACES))
    for guarded in ('rm -rf "${DIR:?}"/*', 'set -u\nrm -rf "$DIR"/*', "DIR=/tmp/x\nrm -rf $DIR/*"):
        assert "is empty" not in str(lint(guarded, "x", PLACES))
    for guarded in ("cd $X || exit 1\nrm -rf out", "set -e\ncd $X\nrm -rf out"):
        assert "fails, this deletes" not in str(lint(guarded, "x", PLACES))


def test_set_euo_pipefail_is_asked_for_where_a_script_deletes() -> None:
    (missing,) = [p for p in lint("rm -rf $A", "x", PLACES) if "pipefail" in p.why]
    assert missing.line == 1
    assert lint("echo a", "x", PLACES) == []
    assert lint("#!/bin/bash -eu\nset -o pipefail\nscancel -u me", "x", PLACES)[0].line == 3


def test_lines_are_those_of_the_file() -> None:
    text = 'echo "a\nb"\n\nfoo \\\n  bar\nx=$(\n  rm -rf /shared/runs\n)\nrm -rf /shared\n'
    assert [p.line for p in lint("set -euo pipefail\n" + text, "x", PLACES)] == [8, 10]


@pytest.mark.parametrize(
    ("text", "line"), [('a\nb "c\n', 2), ("a\n\nb $(c\n", 3), ("echo 'x", 1), ("echo ${x", 1)]
)
def test_a_quote_that_never_closes_is_an_error_with_its_line(text: str, line: int) -> None:
    with pytest.raises(UserError, match=rf"job.sh:{line}: the .* never closed"):
        parse(text, "job.sh")


def test_any_text_is_read_or_refused_and_never_crashes() -> None:
    draw = random.Random(7)
    bits = [
        *"'\"`$(){}[]<>|&;#\\\n ",
        "rm -rf ",
        "$X",
        "${X",
        "$((",
        "<<EOF\n",
        "EOF\n",
        "for d in ",
    ]
    for _ in range(400):
        text = "".join(
            draw.choices([*bits, "a", "for d in ", "if ", "; then ", "done", "trap '"], k=30)
        )
        try:
            lint(text, "x", PLACES)
        except UserError as error:
            assert "x:" in str(error)


def test_a_python_script_is_refused_and_not_misread() -> None:
    with pytest.raises(UserError, match="only shell scripts"):
        lint("#!/usr/bin/env python3\nimport os\n", "x.py", PLACES)


def test_a_script_that_evaluates_itself_has_an_end() -> None:
    assert lint('a="eval $a"\neval $a\n', "x", PLACES) == []


def test_nothing_of_a_script_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    lint(f"x=$(touch {mark})\n`touch {mark}`\ntouch {mark}\n", "x", PLACES)
    assert not mark.exists()


def test_the_check_names_file_and_line_and_fails(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.sh", tmp_path / "good one.sh"
    bad.write_text(f"{SAFE}python train.py\nrm -rf {tmp_path}/runs\n")
    good.write_text(f"{SAFE}python train.py\n")

    def checked(*paths: Path) -> tuple[str, str]:
        plan = make_plan(SPEC)
        found = scripts(Context(SPEC, plan, tmp_path / "runs", scripts=paths))
        return found.state, found.why + found.summary

    assert checked() == ("skipped", "no script was given by --script")
    assert checked(good)[0] == "pass"
    state, why = checked(good, bad)
    assert state == "fail"
    assert f"{bad}:4: rm -rf {tmp_path}"[:60] in why
    assert "/runs: the runs with all their checkpoints" in why
    with pytest.raises(UserError, match="No such file"):
        checked(tmp_path / "none.sh")


def test_the_command_reads_scripts_and_answers_by_its_exit_code(tmp_path: Path) -> None:
    script = tmp_path / "a job.sh"
    script.write_text(f"{SAFE}rm -rf checkpoints\n")
    asked = ("preflight", "tiny-cpu", "--only", "config.scripts", "--script", str(script))
    done = smolplan(*asked, "--json", SMOLPLAN_STATE=str(tmp_path / "state"))
    (result,) = json.loads(done.stdout)["results"]
    assert (done.returncode, result["state"]) == (1, "fail")
    assert "a job.sh:3: rm -rf checkpoints" in result["why"]
