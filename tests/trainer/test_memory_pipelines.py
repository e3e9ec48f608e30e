"""What a pipeline's stage holds, by torch's own tracker, beside the planner's estimate of it."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.pipelining import _utils, schedules

from planner.memory import BUNDLED_TRAINER_ON_CPU, FP32_STATE, layout_of, stage_parts
from smolplan.spec import RunSpec
from tests.trainer.test_memory_tracked import a_spec, held_only, ranks_of_nothing
from trainer.model.transformer import CausalLM
from trainer.optim import build_optimizer
from trainer.parallel import distribute
from trainer.pipeline import Pipeline
from trainer.stages import Parts, stages_of

pytestmark = pytest.mark.skipif(
    not hasattr(_utils, "InferenceMode"), reason="torch before 2.13 agrees in another way"
)


class Peak(MemTracker):
    """Of the whole: by module it would count each once a step, and stages go through theirs for
    every micro-batch."""

    def _pre_fw_hook(self, *_: Any) -> None: ...

    def _post_fw_hook(self, *_: Any) -> None: ...

    def _pre_bw_hook(self, *_: Any) -> None: ...

    def _post_bw_hook(self, *_: Any) -> None: ...


def agree_at_once(_: Any, stages: Sequence[Any], *__: Any) -> None:
    """Ranks of nothing have no others to agree with."""
    for stage in stages:
        stage._inference_mode = _utils.InferenceMode.STATIC


def tracked_peak_bytes(spec: RunSpec, stage: int, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(schedules._PipelineSchedule, "_warmup_p2p", agree_at_once)
    first = stage * (spec.parallel.ranks // spec.parallel.pipeline_parallel)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with ranks_of_nothing(spec, first) as mesh, held_only(), fake:
        (own,) = stages_of(spec.parallel, spec.model.layers, stage)
        model = CausalLM(spec.model, spec.data.seq_len)
        distribute(model, spec, mesh, own, 0)
        model.model.alike_for_any_batch = True
        parts = Parts([model])
        optimizer = build_optimizer(parts, spec.optim)
        passes, tracker = Pipeline(parts, [own], spec, mesh), Peak()
        tracker.track_external(parts, optimizer)
        batch = spec.optim.global_batch_size // spec.parallel.data_parallel
        tokens = torch.zeros((batch, spec.data.seq_len + 1), dtype=torch.int64)
        with tracker:
            passes.backward(tokens)
        (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    return int(snapshot["Total"])


CASES: dict[str, dict[str, Any]] = {
    "base": {},
    "sharded": {"ranks": 2, "zero": 3},
    "deep": {"pipeline": 4, "accumulation": 8, "layers": 8},
    "few tokens": {"seq_len": 128},
    "many tokens": {"micro_batch": 4, "vocab_size": 1024},
    "recomputed": {"recompute": "full", "micro_batch": 4, "vocab_size": 1024},
    "tensor parallel": {"tensor": 2},
}


ENDS = [(case, end) for case in CASES for end in ("first", "last")]
# DTensor goes on using the groups of one rank, which are gone, for another of an equal mesh.
ENDS.remove(("tensor parallel", "last"))


@pytest.mark.parametrize(("case", "end"), ENDS)
def test_a_stage_holds_no_more_than_is_estimated_and_not_much_less(
    case: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"ranks": 1, "zero": 0, "accumulation": 4} | CASES[case]
    stages = asked.pop("pipeline", 2)
    content = a_spec(**asked).model_dump()
    content["parallel"]["pipeline_parallel"] = stages
    content["cluster"]["gpus_per_node"] *= stages
    spec = RunSpec.model_validate(content)
    estimate = stage_parts(
        spec.model,
        layout_of(spec),
        spec.data.seq_len,
        state=FP32_STATE,
        conventions=BUNDLED_TRAINER_ON_CPU,
        last_stage=end == "last",
    )
    stage = stages - 1 if end == "last" else 0
    over = sum(estimate.values()) / tracked_peak_bytes(spec, stage, monkeypatch)
    assert 1.0 < over < 1.3
