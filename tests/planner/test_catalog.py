import math

import pytest

from planner.catalog import find_gpu, gpus, prices
from smolplan.errors import UserError


def test_the_catalogue_holds_the_gpus_that_people_train_on() -> None:
    expected = {"a100", "h100", "h200", "b200", "gb200", "mi300x", "l40s", "rtx4090"}
    expected |= {"h100-pcie", "h100-nvl", "h800"}
    assert expected <= gpus().keys()


def test_every_row_names_its_source_and_is_in_plausible_units() -> None:
    for gpu in gpus().values():
        assert gpu.source
        assert gpu.date
        assert 1e14 < gpu.peak_bf16_flops < 1e16
        assert 1e10 < gpu.hbm_bytes < 1e12
        assert 1e11 < gpu.hbm_bytes_per_s < 1e14
        assert 100 < gpu.tdp_w < 3000
        assert (gpu.achievable_bf16_flops is None) == (gpu.achievable_source is None)
        if gpu.achievable_bf16_flops is not None:
            assert 0.4 < gpu.achievable_bf16_flops / gpu.peak_bf16_flops < 0.95


def test_peaks_are_dense_not_the_sparse_headline() -> None:
    assert math.isclose(find_gpu("h100").peak_bf16_flops, 1979e12 / 2, rel_tol=1e-3)
    assert find_gpu("h100").achievable_bf16_flops == 720e12


@pytest.mark.parametrize("name", ["h100", "H100", " h100_sxm ", "H100 SXM5", "h100-80gb"])
def test_a_gpu_is_found_however_it_is_written(name: str) -> None:
    assert find_gpu(name).name == "h100"


def test_no_two_gpus_share_a_name() -> None:
    names = [name for gpu in gpus().values() for name in (gpu.name, *gpu.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("name", "near"), [("h10", "h100"), ("b20", "b200"), ("mi30x", "mi300x")])
def test_an_unknown_gpu_is_answered_with_near_names(name: str, near: str) -> None:
    with pytest.raises(UserError, match=near):
        find_gpu(name)


def test_prices_are_ranges_with_source_and_date_of_known_gpus() -> None:
    assert prices()
    for name, price in prices().items():
        assert name in gpus()
        assert 0 < price.low <= price.high
        assert price.source
        assert price.date
