import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolplan.units import (
    count_of,
    format_bytes,
    format_count,
    format_duration,
    parse_bytes,
    parse_bytes_per_s,
    parse_count,
    parse_duration_s,
    parse_flops,
    three_digits,
)


def test_quantities_read_as_the_field_writes_them() -> None:
    assert parse_count("11T") == 11e12
    assert parse_count("1.5 B") == 1.5e9
    assert parse_duration_s("4w") == 2_419_200
    assert parse_duration_s("90min") == 5400
    assert parse_duration_s("4 weeks") == parse_duration_s("28days") == 2_419_200
    assert parse_count("3,000,000,000") == parse_count("3_000_000_000") == 3e9
    assert parse_bytes("80GB") == 80e9
    assert parse_bytes("1GiB") == 2**30
    assert parse_flops("990TFLOPS") == parse_flops("990TFLOP/s") == 990e12
    assert parse_bytes_per_s("3.35TB/s") == 3.35e12
    assert parse_bytes_per_s("400Gb/s") == 50e9


@pytest.mark.parametrize(
    "text",
    ["", "nan", "inf", "3X", "B", "--3", "1e999", "3 4", True, "1,5B", "3,0", "1,23,456", 10**400],
)
def test_nonsense_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_count(text)


@given(st.floats(min_value=1e2, max_value=1e15))
def test_a_count_written_out_reads_back_to_its_three_digits(value: float) -> None:
    assert math.isclose(parse_count(format_count(value)), value, rel_tol=0.006)


def test_formats_choose_a_readable_unit() -> None:
    assert format_count(3_075_098_624) == "3.08B"
    assert format_count(5730.2) == "5,730"
    assert format_duration(2_388_000) == "27.6 d"
    assert format_bytes(85_899_345_920) == "85.9 GB"


def test_what_is_large_is_written_without_powers_of_ten() -> None:
    assert format_duration(1060 * 86_400) == "1,060 d"
    assert format_duration(999.7 * 86_400) == "1,000 d"
    assert [three_digits(x) for x in (3030.0, 30.25, 0.0303)] == ["3,030", "30.2", "0.0303"]


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (1, "rank", "1 rank"),
        (0, "rank", "0 ranks"),
        (2048, "rank", "2,048 ranks"),
        (2, "micro-batch", "2 micro-batches"),
        ("1", "epoch", "1 epoch"),
        ("1.5", "epoch", "1.5 epochs"),
    ],
)
def test_one_of_a_thing_is_not_called_several(number: int | str, noun: str, said: str) -> None:
    assert count_of(number, noun) == said
