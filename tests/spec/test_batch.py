from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from preflight.small_run_layouts import with_parts
from smolplan.spec import RunSpec, load_preset

SEQ_LEN = load_preset("tiny-cpu").data.seq_len


def a_spec(*warmup: dict[str, int], size: int = 48, **optim: Any) -> RunSpec:
    told = {"steps": 100, "warmup_steps": 0, "decay_steps": 0, **optim}
    return with_parts(
        load_preset("tiny-cpu"),
        optim={**told, "global_batch_size": size, "batch_warmup": warmup},
        parallel={"data_parallel": 2, "micro_batch_size": 2},
        cluster={"gpus_per_node": 2},
    )


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), max_size=4), st.integers(1, 3000))
def test_steps_and_sequences_follow_from_each_other_however_the_batch_grows(
    parts: list[tuple[int, int]], wanted: int
) -> None:
    """Each part: how much larger than the one before, in 4 sequences, and how many steps."""
    warmup, sizes = list[dict[str, int]](), list[int]()
    for larger, steps in parts:
        size = (sizes[-1] if sizes else 0) + 4 * larger
        sizes += [size] * steps
        warmup.append({"global_batch_size": size, "until_step": len(sizes)})
    batches = a_spec(*warmup, size=100).batches
    sizes += [100] * 3000
    assert [batches.of_step(step) for step in range(1, 90)] == sizes[:89]
    assert [batches.sequences(steps) for steps in range(90)] == [sum(sizes[:n]) for n in range(90)]
    fewest = batches.steps(wanted)
    assert sum(sizes[: fewest - 1]) < wanted <= sum(sizes[:fewest])


def test_a_run_of_tokens_has_the_steps_that_read_them() -> None:
    small = {"global_batch_size": 8, "until_tokens": 79 * SEQ_LEN}
    spec = a_spec(small, steps=None, tokens=177 * SEQ_LEN)
    # 10 steps of 8 sequences, and then of 48.
    assert [spec.batches.of_step(step) for step in (1, 10, 11)] == [8, 8, 48]
    assert (spec.steps, spec.tokens) == (13, (80 + 3 * 48) * SEQ_LEN)
    assert spec.tokens_after(11) == 128 * SEQ_LEN
    assert spec.whole_batches == 5


def test_a_stage_of_data_begins_where_its_tokens_were_read() -> None:
    data = {
        "sources": [{"path": "python-stdlib", "name": "a"}],
        "stages": [
            {"name": "one", "start_step": 1, "weights": {"a": 1}},
            {"name": "two", "start_tokens": 100 * SEQ_LEN, "weights": {"a": 1}},
        ],
    }
    spec = with_parts(a_spec({"global_batch_size": 8, "until_step": 10}), data=data)
    assert spec.stage_starts == (1, 12)


def test_a_spec_without_a_warm_up_of_the_batch_is_written_as_before() -> None:
    assert "batch_warmup" not in a_spec().model_dump()["optim"]


@pytest.mark.parametrize(
    ("warmup", "said"),
    [
        (
            [{"global_batch_size": 6, "until_step": 4}],
            "batch_warmup.0.global_batch_size 6 does not",
        ),
        ([{"global_batch_size": 48, "until_step": 4}], "48 sequences come before 48"),
        ([{"global_batch_size": 8}], "exactly one of until_step and until_tokens"),
        ([{"global_batch_size": 8, "until_step": 100}], "ends with step 100, and the run with"),
        (
            [
                {"global_batch_size": 8, "until_step": 9},
                {"global_batch_size": 16, "until_tokens": 72 * SEQ_LEN},
            ],
            "batch_warmup.1 would end with step 9, and it begins behind step 9",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_be_right(
    warmup: list[dict[str, int]], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        a_spec(*warmup)


@pytest.mark.parametrize(
    ("size", "said"), [(8, []), (4, ["a step has 1 micro-batch, fewer than the 2 stages"])]
)
def test_the_smallest_batch_has_to_fill_the_bundled_trainers_pipeline(
    size: int, said: list[str]
) -> None:
    spec = with_parts(
        a_spec({"global_batch_size": size, "until_step": 4}),
        parallel={"pipeline_parallel": 2},
        cluster={"gpus_per_node": 4},
    )
    assert [problem[: len(said[0])] for problem in spec.unsupported_by_trainer()] == said
