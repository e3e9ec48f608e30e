"""The baselines that the learning result stands beside."""

import random

import pytest

from benchmarks.learning import STEPS, gzip_bits, tiny, unigram_bits, xz_bits
from smolplan.spec import load_preset


def test_byte_frequencies_are_those_of_the_training_text_with_one_added_to_each() -> None:
    """509 + 1 times a, 253 + 1 times b, 254 others once: of 1,018, a and b have about a half and a
    quarter."""
    train = b"a" * 509 + b"b" * 253
    assert unigram_bits(train, b"a") == pytest.approx(0.99717, abs=1e-5)
    assert unigram_bits(train, b"\xff" * 3) == pytest.approx(9.99152, abs=1e-5)
    assert unigram_bits(train, b"ab") == pytest.approx((0.99717 + 2.00284) / 2, abs=1e-5)


def test_a_text_costs_a_compressor_little_behind_itself_and_all_its_bits_alone() -> None:
    noise = random.Random(0).randbytes(20_000)
    assert 8 <= gzip_bits(noise) < 8.1
    assert 8 <= xz_bits(noise) < 8.1
    assert xz_bits(noise, before=noise) < 0.2


def test_the_run_is_the_preset_but_for_its_length_and_what_is_scored() -> None:
    spec, preset = tiny(STEPS), load_preset("tiny-cpu")
    assert spec.model == preset.model and spec.data == preset.data
    shorter = spec.optim.model_copy(update={"steps": 120, "decay_steps": 30})
    assert shorter == preset.optim
    assert spec.optim.decay_steps / STEPS == preset.optim.decay_steps / preset.steps
