"""The learning rate, step by step."""

import math

import pytest
from pydantic import ValidationError

from smolplan.spec import OptimSpec
from trainer.schedule import learning_rate


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"decay_steps": 4}, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]),
        (
            {"decay_steps": 4, "decay_shape": "1-sqrt"},
            [0.25, 0.5, 0.75, *[1.0] * 3, *(1 - (n / 5) ** 0.5 for n in (1, 2, 3, 4))],
        ),
        (
            {"schedule": "cosine", "final_lr_fraction": 0.1, "warmup_steps": 5},
            [0.2, 0.4, 0.6, 0.8, 1.0]
            + [0.1 + 0.45 * (1 + math.cos(math.pi * n / 6)) for n in range(1, 6)],
        ),
        (
            {"schedule": "linear", "final_lr_fraction": 0.4, "warmup_steps": 5},
            [0.2, 0.4, 0.6, 0.8, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5],
        ),
    ],
)
def test_the_schedule_warms_up_stays_and_decays(
    settings: dict[str, object], rates: list[float]
) -> None:
    optim = OptimSpec.model_validate(
        {"steps": 10, "global_batch_size": 1, "learning_rate": 1.0, "warmup_steps": 4} | settings
    )
    assert [learning_rate(s, optim, 10) for s in range(10)] == pytest.approx(rates)


def test_a_decay_of_another_schedule_is_refused() -> None:
    given = {"steps": 10, "global_batch_size": 1, "learning_rate": 1.0, "schedule": "cosine"}
    for field, value in (("decay_steps", 4), ("decay_shape", "1-sqrt")):
        with pytest.raises(ValidationError, match=f"{field} .* is of schedule wsd"):
            OptimSpec.model_validate(given | {field: value})
