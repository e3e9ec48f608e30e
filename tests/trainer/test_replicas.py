"""Ranks that no longer hold the same."""

import os
from pathlib import Path

import pytest

from launcher import control
from launcher.store import Store
from monitor.detect.replicas import replicas_differ
from monitor.policy import decide
from smolplan.errors import ExitCode
from smolplan.rundir import RunDir
from tests.monitor.test_policy import PLACED, attempt, view
from tests.support import events, start
from tests.trainer.test_tensor_parallel import a_spec

FLIPS = """
import os, pathlib, sys

if {{"trainer", "launcher.forge.server"}} & set(sys.orig_argv):  # a rank, or what forks them
    import torch
    from trainer import replicas

    real, marker = replicas.digests, pathlib.Path({marker!r})

    def digests(model, optimizer, step, position, mesh):
        if step == 20 and os.environ.get("RANK") == "1" and not marker.exists():
            marker.touch()
            model.model.norm.weight.data.to_local().view(torch.int32)[0] ^= 1  # the lowest bit
        return real(model, optimizer, step, position, mesh)

    replicas.digests = digests
"""


@pytest.mark.slow
def test_one_flipped_bit_of_a_copy_ends_the_attempt_before_it_is_saved(
    store: Store, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python runs this file in every process that it starts.
    (tmp_path / "sitecustomize.py").write_text(FLIPS.format(marker=str(tmp_path / "flipped")))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    run = start(a_spec(data_cache, 2), store, tmp_path, monitored=True)
    assert control.await_end(store, run.id, 300).state == "finished"
    first, second = store.attempts(run.id)
    assert first.exit_code == ExitCode.REPLICAS_DIFFER or "ranks 0, 1 differ" in first.cause
    (event,) = events(run, "replicas_differ")
    assert event["ranks"] == [0, 1] and event["by_majority"] is False  # of two, either may be it
    assert event["what"] == "weights or their moments of shard 0"
    assert [e["step"] for e in events(run, "checkpoint_saved")] == [10, 20, 30, 40]
    assert [e["step"] for e in events(run, "resumed")] == [10]
    assert second.step_at_end == 40 and RunDir(run.path).read_metrics()[-1]["attempt"] == 2


def test_the_rank_that_most_disagree_with_is_named() -> None:
    from trainer.replicas import Difference, difference

    same = {"all": "a", "data 0": "b"}
    assert difference([same, same, same]) is None
    found = difference([same, {**same, "data 0": "c"}, same, {"all": "a", "data 1": "d"}])
    assert found == Difference("data 0", (1,), by_majority=True)
    assert difference([same, {**same, "all": "c"}]) == Difference("all", (0, 1), by_majority=False)


@pytest.mark.parametrize(("by_majority", "blamed"), [(True, {"n2": "differs"}), (False, {})])
def test_the_host_of_a_rank_that_most_disagree_with_is_left_out(
    by_majority: bool, blamed: dict[str, str]
) -> None:
    event = {"step": 8, "ranks": [1], "what": "norms", "by_majority": by_majority, "attempt": 1}
    seen = view(attempt(1), placement=PLACED)
    finding = replicas_differ(event, seen)
    assert finding.severity == "critical"
    running = decide(seen, (finding,))
    ended = view(attempt(1), placement=PLACED, exit={"exit_code": 72, "failures": {"1": 72}})
    assert (running.action, running.hosts) == ("condemn", blamed)
    assert decide(ended, (finding,)).action == "end_attempt"
    assert decide(ended, (finding,)).hosts == blamed
