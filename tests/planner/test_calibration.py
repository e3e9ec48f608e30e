import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import calibration
from planner.calibration import Attention, Calibration, Collective, Matmul, Memory
from planner.kernels import attention_forward_s, matmul_s
from planner.memory import layout_of
from planner.search import candidate_of, machine_of, stack_of
from planner.site import job_of, site_of
from planner.step_time import HBM_SHARE
from smolplan.errors import UserError
from smolplan.spec import load_preset

FLOPS, HALF, HBM, ATTENTION, LINK, LATENCY = 7e14, 150.0, 3e12, 4e14, 3e11, 2e-5
SHAPES = [(n, n, n) for n in (512, 1024, 4096, 16384)] + [(8192, 28672, 4096), (64, 4096, 4096)]
SPEC = load_preset("smollm3-3b")


def products(flops: float, half: float, hbm: float, precision: str, size: float) -> list[Matmul]:
    return [
        Matmul(
            precision,
            m,
            n,
            k,
            float(
                matmul_s(
                    m,
                    n,
                    k,
                    flops_per_s=flops,
                    hbm_bytes_per_s=hbm,
                    half_size=half,
                    element_bytes=size,
                )
            ),
        )
        for m, n, k in SHAPES
    ]


def attention(seq_len: int) -> Attention:
    seconds = attention_forward_s(
        8 * seq_len,
        seq_len,
        4096,
        32,
        flash=1.0,
        flops_per_s=ATTENTION,
        hbm_bytes_per_s=HBM,
    )
    return Attention(8, 32, 128, seq_len, float(seconds))


def collective(kind: str, size: int) -> Collective:
    passes = 2 if kind == "all_reduce" else 1
    return Collective(kind, size, 8, LATENCY + passes * 7 / 8 * size / LINK)


KINDS = ("all_reduce", "all_gather", "reduce_scatter")
MEASURED = Calibration(
    date="2026-11-24T12:00:00+00:00",
    device="cuda",
    machine="NVIDIA H100 80GB HBM3",
    torch="2.9",
    matmul=tuple(products(FLOPS, HALF, HBM, "bf16", 2.0) + products(5e13, 80.0, HBM, "fp32", 4.0)),
    attention=tuple(attention(length) for length in (1024, 4096)),
    memory=(
        Memory("copy", 2 * 2**30, 2 * 2**30 / HBM),
        Memory("triad", 3 * 2**30, 3 * 2**30 / HBM),
    ),
    collective=tuple(collective(kind, 2**p) for kind in KINDS for p in (10, 16, 22, 28)),
)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SMOLPLAN_STATE", str(tmp_path))
    yield tmp_path / calibration.FILE


def test_fits_recover_the_constants_that_the_samples_were_made_with() -> None:
    fits = calibration.fit(MEASURED)
    assert fits.matmul and fits.matmul_fp32 and fits.attention and fits.memory and fits.link
    assert fits.matmul.flops_per_s == pytest.approx(FLOPS, rel=1e-6)
    assert fits.matmul.half_size == pytest.approx(HALF, rel=1e-6)
    assert fits.matmul_fp32.flops_per_s == pytest.approx(5e13, rel=1e-6)
    assert fits.attention.per_s == pytest.approx(ATTENTION)
    assert fits.memory.per_s == pytest.approx(HBM)
    assert fits.link.bytes_per_s == pytest.approx(LINK)
    assert fits.link.latency_s == pytest.approx(LATENCY)
    assert set(fits.links) == set(KINDS)
    residuals = [fits.matmul.residual, fits.attention.residual, fits.memory.residual]
    residuals += [link.residual for link in (fits.link, *fits.links.values())]
    assert residuals == pytest.approx([0.0] * len(residuals), abs=1e-6)


@given(
    flops=st.floats(1e11, 5e15),
    half=st.floats(0, 3000),
    hbm=st.floats(1e10, 1e13),
)
def test_a_products_peak_and_half_size_are_found_wherever_computing_dominates(
    flops: float, half: float, hbm: float
) -> None:
    samples = products(flops, half, hbm, "bf16", 2.0)
    # Where memory takes nearly all of the time, rounding leaves nothing of the rest.
    bound = [2.0 * (s.m * s.k + s.k * s.n + s.m * s.n) / hbm for s in samples]
    clear = [s for s, memory_s in zip(samples, bound, strict=True) if s.seconds > 1.05 * memory_s]
    found = calibration.fit_matmul(clear, element_bytes=2.0, bytes_per_s=hbm)
    if len({1 / s.m + 1 / s.n + 1 / s.k for s in clear}) < 2:
        assert found is None
        return
    assert found is not None
    assert found.flops_per_s == pytest.approx(flops, rel=1e-4)
    assert found.half_size == pytest.approx(half, rel=1e-3, abs=1e-2)


@given(
    st.lists(
        st.tuples(st.floats(1, 1e9), st.floats(1e-6, 10)),
        min_size=2,
        max_size=12,
        unique_by=lambda p: round(p[0]),
    )
)
def test_a_line_through_any_times_has_no_negative_coefficient(
    points: list[tuple[float, float]],
) -> None:
    line = calibration.fit_line(points)
    assert line is not None
    assert line.fixed >= 0 and line.slope >= 0 and line.residual >= 0


def test_noise_shows_as_residual_and_hardly_moves_the_fit() -> None:
    noisy = [
        replace(one, seconds=one.seconds * (1.1 if index % 2 else 0.9))
        for index, one in enumerate(MEASURED.collective)
    ]
    found = calibration.fit_link(noisy)
    assert found is not None
    assert 0.05 < found.residual < 0.15
    assert found.bytes_per_s == pytest.approx(LINK, rel=0.15)


def test_what_has_no_samples_has_no_fit() -> None:
    nothing = replace(MEASURED, matmul=(), attention=(), memory=(), collective=())
    fits = calibration.fit(nothing)
    assert (fits.matmul, fits.attention, fits.memory, fits.link) == (None,) * 4
    one_size = [collective("all_reduce", 1024)]
    assert calibration.fit_link(one_size) is None
    alone = [Collective("all_reduce", 2**p, 1, 1e-5) for p in (10, 20)]
    assert calibration.fit_link(alone) is None


def test_times_that_do_not_grow_give_no_bandwidth() -> None:
    flat = [Collective("all_reduce", 2**p, 2, 1e-3 / p) for p in (10, 15, 20)]
    assert calibration.fit_link(flat) is None


def test_sizes_too_close_together_to_tell_give_no_line() -> None:
    assert calibration.fit_line([(2.0**49, 1.0), (2.0**49 + 1, 1.0)]) is None


def test_files_of_before_the_driver_was_stored_are_read(tmp_path: Path) -> None:
    path = tmp_path / calibration.FILE
    calibration.write(replace(MEASURED, driver="570.86.15"), path)
    assert calibration.read(path).driver == "570.86.15"
    content = json.loads(path.read_text())
    del content["driver"]
    path.write_text(json.dumps(content))
    assert calibration.read(path) == MEASURED


@pytest.mark.parametrize(
    ("machine", "sliced"),
    [
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", True),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", True),
        ("NVIDIA H100 80GB HBM3", False),
        ("AMD Instinct MI300X", False),
    ],
)
def test_a_slice_of_a_gpu_is_told_by_its_name(machine: str, sliced: bool) -> None:
    assert replace(MEASURED, machine=machine).slice_of_gpu == sliced


def test_samples_beyond_all_reason_are_damage(tmp_path: Path) -> None:
    path = tmp_path / calibration.FILE
    for change in ({"seconds": 1e77}, {"seconds": 1e-30}, {"m": 2**60}):
        calibration.write(MEASURED, path)
        content = json.loads(path.read_text())
        content["matmul"][0] |= change
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match="damaged"):
            calibration.read(path)


def test_a_place_is_checked_without_making_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "state" / calibration.FILE
    calibration.check_place(path)
    assert list(tmp_path.iterdir()) == []
    path.mkdir(parents=True)
    with pytest.raises(UserError, match="no file can be written there"):
        calibration.check_place(path)
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    with pytest.raises(UserError, match="no file can be written there"):
        calibration.check_place(tmp_path / calibration.FILE)


def test_what_is_written_is_read_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a new home" / "state" / calibration.FILE
    calibration.write(MEASURED, path)
    assert calibration.read(path) == MEASURED
    assert json.loads(path.read_text())["fits"]["matmul"]["flops_per_s"] == pytest.approx(FLOPS)
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / calibration.FILE
    calibration.write(MEASURED, path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        calibration.write(replace(MEASURED, machine="another"), path)
    assert calibration.read(path) == MEASURED
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: "[]", "damaged"),
        (lambda text: text.replace('"format": 1', '"format": 0'), "of format 0, not 1"),
        (lambda text: text.replace('"memory": [', '"memory": [7, ', 1), "damaged"),
        (lambda text: text.replace('"ranks": 8', '"ranks": -8', 1), "ranks is -8"),
        (lambda text: text.replace('"heads": 32', '"heads": "many"', 1), "heads is 'many'"),
        (lambda text: text.replace('"seconds": ', '"seconds": -', 1), "seconds is -"),
        (lambda text: text.replace('"seconds": ', '"s": ', 1), "damaged"),
        (lambda text: text.replace('"torch": ', '"tensor": '), "damaged"),
    ],
)
def test_a_damaged_or_older_file_is_refused_with_a_sentence(
    change: Callable[[str], str], said: str, tmp_path: Path
) -> None:
    path = tmp_path / calibration.FILE
    calibration.write(MEASURED, path)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=said) as caught:
        calibration.read(path)
    assert "smolplan calibrate" in str(caught.value)


def test_a_plan_takes_what_was_measured_and_the_generic_stacks_rest(stored: Path) -> None:
    calibration.write(MEASURED, stored)
    generic, site = site_of(SPEC), site_of(SPEC, stack="measured", stored=stored)
    mine, theirs, gpu = stack_of(site), stack_of(generic), site.accelerator
    assert mine.matmul_share == pytest.approx(FLOPS / gpu.peak_bf16_flops)
    assert mine.half_size == pytest.approx(HALF)
    assert mine.attention_share == pytest.approx(ATTENTION / gpu.peak_bf16_flops)
    assert mine.link_share == pytest.approx(LINK / gpu.link_bytes_per_s)
    assert mine.network_share == theirs.network_share
    assert mine.host_s == theirs.host_s and mine.elementwise_bytes == theirs.elementwise_bytes
    assert machine_of(job_of(SPEC, site), site).hbm_bytes_per_s == pytest.approx(HBM / HBM_SHARE)
    assert "products, attention, HBM, links measured on NVIDIA H100" in site.stack.name
    assert "2026-11-24; the rest as generic" in site.stack.name


def test_a_constant_that_was_not_measured_is_the_generic_stacks(stored: Path) -> None:
    calibration.write(replace(MEASURED, collective=(), attention=()), stored)
    site, generic = site_of(SPEC, stack="measured", stored=stored), stack_of(site_of(SPEC))
    assert stack_of(site).link_share == generic.link_share
    assert stack_of(site).attention_share == generic.attention_share
    assert stack_of(site).matmul_share != generic.matmul_share
    assert "(products, HBM measured on" in site.stack.name


def test_faster_products_make_a_faster_step(stored: Path) -> None:
    def step_s(flops: float) -> float:
        matmul = tuple(products(flops, HALF, HBM, "bf16", 2.0))
        calibration.write(replace(MEASURED, matmul=matmul), stored)
        site = site_of(SPEC, stack="measured", stored=stored)
        return candidate_of(job_of(SPEC, site), site, SPEC.steps, layout_of(SPEC)).step_s

    assert step_s(8e14) < step_s(5e14)


def test_a_calibration_of_another_device_is_refused(stored: Path) -> None:
    with pytest.raises(UserError, match=r"no calibration is stored.*Run smolplan calibrate"):
        site_of(SPEC, stack="measured", stored=stored)
    calibration.write(replace(MEASURED, machine="NVIDIA H100 80GB HBM3 MIG 3g.40gb"), stored)
    with pytest.raises(UserError, match=r"a part of a GPU.*on a whole h100"):
        site_of(SPEC, stack="measured", stored=stored)
    calibration.write(replace(MEASURED, machine="NVIDIA A100-SXM4-80GB"), stored)
    with pytest.raises(UserError, match="is of NVIDIA A100-SXM4-80GB, not of h100"):
        site_of(SPEC, stack="measured", stored=stored)
    calibration.write(replace(MEASURED, device="cpu", machine="Some CPU"), stored)
    with pytest.raises(UserError, match=r"of a CPU \(Some CPU\), which prices no GPU"):
        site_of(SPEC, stack="measured", stored=stored)
