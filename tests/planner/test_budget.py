import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from planner.budget import BudgetSpec, load_budget_preset, make_budget, parse_budget
from planner.budget.load import budget_presets
from planner.catalog import prices
from planner.flops import flops_per_token
from smolplan.errors import UserError
from smolplan.spec import load_preset

BASE: dict[str, Any] = {
    "name": "test",
    "main": {"params": "3B", "tokens": "11T"},
}


def budget(**parts: Any) -> BudgetSpec:
    return parse_budget(yaml.safe_dump({**BASE, **parts}), where="test.yaml")


def hours(**parts: Any) -> list[float]:
    return [line.gpu_hours for line in make_budget(budget(**parts)).lines]


def test_smollm3s_ledger_is_161280_beside_276480_which_is_58_3_percent() -> None:
    answer = make_budget(load_budget_preset("smollm3-3b"))
    assert answer.main_gpu_hours == 276_480
    assert answer.total_gpu_hours == 437_760
    assert answer.total_gpu_hours - answer.main_gpu_hours == 161_280
    assert round(100 * answer.share(161_280), 1) == 58.3
    by_section: dict[str, float] = {}
    for line in answer.lines:
        if not line.beside_total:
            by_section[line.section] = by_section.get(line.section, 0) + line.gpu_hours
    assert by_section == {
        "main run": 276_480,
        "ablations": 69_120 + 46_080,
        "debugging and resets": 46_080,
    }
    assert all(check.ok for check in answer.checks)


def test_every_line_of_a_bundled_budget_names_its_source() -> None:
    for name in budget_presets():
        for line in make_budget(load_budget_preset(name)).lines:
            assert line.source != "your plan"
            assert line.formula


def test_smollm3s_node_is_filled_in_three_hours_or_half_of_that() -> None:
    storage = make_budget(load_budget_preset("smollm3-3b")).storage
    assert storage is not None
    assert storage.bytes.token_bytes == 24e12
    assert math.isclose(storage.bytes.fill_from_object_store_s, 3 * 3600, rel_tol=1e-3)
    assert math.isclose(storage.bytes.fill_from_neighbour_s, 1.5 * 3600, rel_tol=1e-3)


def test_the_main_run_by_flops_is_the_estimates_division() -> None:
    # 6 × 3e9 × 11e12 at 216 TFLOP/s.
    assert math.isclose(hours()[0], 1.98e23 / 216e12 / 3600)
    of_peak = {"speed": {"mfu": "30%", "mfu_base": "peak"}}
    assert math.isclose(hours(**of_peak)[0], hours()[0] * 720 / 989.4)


def test_exact_flops_are_counted_by_the_planners_own_function() -> None:
    main = {"model": "smollm3-3b", "tokens": "47.2B", "seq_len": 32768, "flops_formula": "exact"}
    per_token = flops_per_token(load_preset("smollm3-3b").model, 32_768)
    assert math.isclose(hours(main=main)[0], 47.2e9 * per_token / 216e12 / 3600)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"gpus": 192, "duration": "15d"}, 69_120),
        ({"gpus": 8, "duration": "1.5d", "count": 10}, 2_880),
        ({"gpu_hours": "46,080"}, 46_080),
        ({"params": "1.2B", "tokens": "45B", "tokens_per_s_per_gpu": "42k"}, 297.6),
        ({"tokens": "100B", "tokens_per_s_per_gpu": 13_750}, 2_020),
        ({"params": "1B", "tokens": "100B"}, 6e9 * 100e9 / 216e12 / 3600),
    ],
)
def test_an_ablation_is_told_by_what_is_known_of_it(item: dict[str, Any], expected: float) -> None:
    assert math.isclose(hours(ablations=[item])[1], expected, rel_tol=1e-3)


def test_a_share_of_the_main_run_is_that_share() -> None:
    main, debugging = hours(debugging=[{"share_of_main": "12%"}])
    assert math.isclose(debugging, 0.12 * main)


def test_evaluation_counts_its_checkpoints_by_tokens() -> None:
    part = {
        "suite_gpu_hours": 1.5,
        "every_tokens": "10B",
        "long_context_gpu_hours": 8,
        "long_context_checkpoints": 60,
    }
    assert hours(evaluation=[part])[1:] == [1100 * 1.5, 480]


def test_preference_costs_eight_sixths_of_training_on_both_responses() -> None:
    _, sft, dpo = hours(
        sft=[{"tokens": "1B"}], preference=[{"pairs": "1M", "tokens_per_sequence": 500}]
    )
    assert math.isclose(dpo, sft * 8 / 6)


RL = {
    "model": "smollm3-3b",
    "gpus": 64,
    "steps": 500,
    "prompts": 128,
    "samples": 16,
    "lengths": {"mean": "8k", "sigma": 0.8, "longest": "32k"},
}


def test_rl_is_split_in_balance_unless_told() -> None:
    answer = make_budget(budget(rl=[RL]))
    mode = answer.rl[0].answer.asynchronous
    assert min(mode.rollout_utilisation, mode.training_utilisation) > 0.99
    assert answer.lines[1].gpu_hours == mode.gpu_hours
    assert any("decode_efficiency" in note for note in answer.assumptions)
    told = make_budget(budget(rl=[{**RL, "split": {"rollout": 0.5, "training": 0.5}}]))
    assert told.lines[1].gpu_hours > mode.gpu_hours
    slow = make_budget(budget(rl=[{**RL, "generation": "synchronous"}]))
    assert slow.lines[1].gpu_hours == slow.rl[0].answer.synchronous.gpu_hours > mode.gpu_hours


def test_a_mixture_of_experts_is_trained_by_its_active_parameters_and_stored_whole() -> None:
    main = {"model": "deepseek-v3", "tokens": "1T", "gpus": 2048}
    answer = make_budget(budget(main=main, storage={"vocab_size": 129_280}))
    active = 37_552_282_624
    assert math.isclose(answer.main_gpu_hours, 6 * active * 1e12 / 216e12 / 3600)
    assert answer.storage is not None
    assert answer.storage.bytes.checkpoint_bytes == 12 * 671_026_404_352
    told = {"params": 671_026_404_352, "active_params": active, "tokens": "1T"}
    assert math.isclose(hours(main=told)[0], answer.main_gpu_hours)


def test_a_mixture_of_experts_decodes_with_all_its_weights_and_its_latent_cache() -> None:
    main = {"model": "deepseek-v3", "tokens": "1T", "gpus": 2048}
    answer = make_budget(budget(main=main, inference={"gpus": 16}))
    assert answer.inference is not None
    assert answer.inference.kv_bytes_per_token == 61 * (512 + 64) * 2
    fp8 = answer.inference.formats["fp8"]
    assert fp8.weights_bytes == 671_026_404_352
    assert fp8.tokens_per_s_alone > 10 * fp8.gpu.hbm_bytes_per_s * 16 / 671e9


def test_an_rl_run_of_long_responses_counts_their_attention_if_told_to() -> None:
    by_6nd, exact = (
        make_budget(budget(rl=[{**RL, "seq_len": 8192, "flops_formula": formula}])).rl[0]
        for formula in ("6nd", "exact")
    )
    ratio = exact.answer.synchronous.train_s / by_6nd.answer.synchronous.train_s
    per_param = 6 * 3_075_098_624
    assert math.isclose(ratio, flops_per_token(load_preset("smollm3-3b").model, 8192) / per_param)


def test_a_plan_that_sets_aside_12_percent_is_told_of_58_3_and_nothing_is_added() -> None:
    answer = make_budget(budget(debugging=[{"share_of_main": "12%"}]))
    check = answer.checks[0]
    assert not check.ok
    assert "sets aside 12.0% of the main run" in check.text
    assert "SmolLM3 needed 58.3%" in check.text
    assert math.isclose(answer.total_gpu_hours, 1.12 * answer.main_gpu_hours)


def test_a_plan_that_sets_58_3_percent_aside_passes() -> None:
    assert make_budget(budget(debugging=[{"share_of_main": "58.3%"}])).checks[0].ok


def test_lines_beside_the_total_are_not_in_it_nor_set_aside() -> None:
    item = {"share_of_main": "60%", "beside_total": True}
    answer = make_budget(budget(ablations=[item]))
    assert answer.total_gpu_hours == answer.main_gpu_hours
    assert not answer.checks[0].ok


def test_limits_are_checked_against_the_upper_price() -> None:
    hours_of_main = hours()[0]
    dollars = hours_of_main * prices()["h100"].high
    limits = {"gpu_hours": hours_of_main - 1, "dollars": dollars + 1}
    checks = {c.name: c.ok for c in make_budget(budget(limits=limits)).checks}
    assert not checks["GPU-hours"]
    assert checks["dollars"]


def test_a_given_price_replaces_the_surveys_range() -> None:
    answer = make_budget(budget(price_per_gpu_hour="$2.50"))
    assert answer.dollars(100) == (250, 250)
    survey = make_budget(budget()).dollars(100)
    assert survey == (100 * prices()["h100"].low, 100 * prices()["h100"].high)


def test_what_is_not_told_is_said_to_be_assumed() -> None:
    assumed = " ".join(make_budget(budget()).assumptions)
    for what in ("speed.mfu", "energy.region", "energy.data_centre"):
        assert what in assumed
    told = budget(
        speed={"mfu": 0.4}, energy={"pue": 1.1, "grid_g_per_kwh": 50}, price_per_gpu_hour=2
    )
    assert make_budget(told).assumptions == ()


def test_data_that_do_not_fit_the_nodes_disk_are_warned_of() -> None:
    main = {**BASE["main"], "gpus": 384}
    answer = make_budget(budget(main=main, storage={"node": "p5.48xlarge"}))
    checks = {check.name: check for check in answer.checks}
    # 11T × 4 B = 44 TB on 30.7 TB.
    assert not checks["local disk"].ok
    assert "44 TB" in checks["local disk"].text


DEEPSEEK_V3 = {
    "params": "671B",
    "active_params": "37B",
    "layers": 61,
    "kv_lora_rank": 512,
    "rope_head_dim": 64,
}


def test_a_model_that_is_no_preset_is_served_by_its_shape() -> None:
    part = {"shape": DEEPSEEK_V3, "gpu": "h200", "gpus": 8, "weights": ["fp8"]}
    answer = make_budget(budget(inference=part)).inference
    assert answer is not None
    assert answer.kv_bytes_per_token == 70_272
    row = answer.formats["fp8"]
    assert row.weights_bytes == 671e9
    # (0.9 × 8 × 141 GB - 671 GB) / (8,192 × 70,272 B) = 597.9
    assert row.concurrent_sequences == 597
    # Alone, only the active experts are read.
    assert math.isclose(row.tokens_per_s_alone, 8 * 4.8e12 / (37e9 + 4096 * 70_272), rel_tol=1e-6)


def test_a_node_of_other_gpus_than_planned_is_warned_of() -> None:
    main = {**BASE["main"], "gpus": 384}
    answer = make_budget(budget(main=main, storage={"node": "p5en.48xlarge"}))
    assert [check.ok for check in answer.checks if check.name == "node"] == [False]


BAD = [
    ({"inference": {"shape": {"params": 1, "layers": 2}}}, ["inference.shape", "kv_heads and"]),
    ({"inference": {"shape": {**DEEPSEEK_V3, "kv_heads": 3}}}, ["inference.shape", "either"]),
    (
        {
            "inference": {
                "shape": {
                    "params": 1,
                    "layers": 2,
                    "kv_heads": 1,
                    "head_dim": 2,
                    "windowed_layers": 3,
                    "window": 8,
                }
            }
        },
        ["inference.shape", "3 windowed_layers of 2 layers"],
    ),
    ({"inference": {"shape": DEEPSEEK_V3, "model": "smollm3-3b"}}, ["inference", "give one"]),
    (
        {"main": {"params": "3B", "gpu_hours": -5}},
        ["main.gpu_hours", "must be greater than or equal to 0, got -5"],
    ),
    ({"ablatons": []}, ["no field 'ablatons'", "Did you mean ablations"]),
    (
        {"ablations": [{"tokens": "1B"}, {"tokns": "1B"}]},
        ["test.yaml:3: ablations[1].tokns", "Did you mean tokens"],
    ),
    ({"storage": {"nod": "p5"}}, ["storage.nod", "Did you mean node"]),
    ({"rl": [{**RL, "split": {"rollout": 0.7, "training": 0.4}}]}, ["split", "1.1, not 1"]),
    ({"rl": [{**RL, "gpus_per_engine": 3}]}, ["rl[0]", "do not divide"]),
    ({"rl": [{**RL, "gpus": 1}]}, ["rl[0]", "asynchronous generation needs"]),
    ({"rl": [{**RL, "lengths": {"mean": 9, "sigma": 1, "longest": 8}}]}, ["above the longest"]),
    ({"main": {"params": "3B"}}, ["main", "give exactly one of: tokens"]),
    ({"main": {"tokens": "1B", "gpu_hours": 3}}, ["main", "tokens and gpu_hours"]),
    ({"main": {"duration": "3d"}}, ["main", "needs gpus"]),
    ({"main": {"share_of_main": 0.5}}, ["main.share_of_main", "share of itself"]),
    ({"speed": {"mfu": "130%"}}, ["speed.mfu", "less than or equal to 1"]),
    ({"speed": {"mfu": 0.3, "tokens_per_s_per_gpu": 9}}, ["speed", "give one"]),
    ({"speed": {"mfu_base": "peak"}}, ["speed", "give mfu beside it"]),
    ({"speed": {"tokens_per_s_per_gpu": 9}}, ["speed.tokens_per_s_per_gpu", "one size of model"]),
    ({"main": {"gpu_hours": 9, "mfu": 0.3}}, ["main", "with gpu_hours a speed says nothing"]),
    (
        {"main": {"tokens": 9, "params": 9, "model": "smollm3-3b"}},
        ["main", "params and model both tell the size"],
    ),
    ({"evaluation": [{"suite_gpu_hours": 1}]}, ["evaluation[0]", "every_tokens and checkpoints"]),
    ({"energy": {"pue": 0.9}}, ["energy.pue", "greater than or equal to 1"]),
    ({"energy": {"pue": 1.2, "data_centre": "aws"}}, ["energy", "give one"]),
    ({"ablations": {"tokens": "1B"}}, ["ablations", "a list belongs here"]),
    ({"main": "3B"}, ["main", "a mapping of fields belongs here"]),
    ({"price_per_gpu_hour": "cheap"}, ["price_per_gpu_hour", "cheap"]),
    ({"ablations": [{"tokens": "1B", "count": 0}]}, ["ablations[0].count", "got 0"]),
]


@pytest.mark.parametrize(("parts", "said"), BAD)
def test_a_mistake_is_answered_with_field_value_and_remedy(
    parts: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        budget(**parts)
    assert str(caught.value).startswith("test.yaml:")
    for words in said:
        assert words in str(caught.value)


NOT_ANSWERABLE = [
    ({"gpu": "h10"}, "gpu: the GPU 'h10'.*Did you mean h100"),
    ({"energy": {"region": "frnce"}}, r"energy\.region: .*france"),
    ({"energy": {"data_centre": "amazn"}}, r"energy\.data_centre: no PUE"),
    ({"storage": {}}, r"main\.gpus: bandwidth"),
    ({"inference": {}}, r"inference\.model: .*architecture"),
    ({"inference": {"model": "smollm3"}}, r"inference\.model: .*Did you mean smollm3-3b"),
    ({"ablations": [{"tokens": "1B", "model": "smol"}]}, r"ablations\[0\]\.model: .*no preset"),
    ({"main": {"tokens": "1B"}}, r"main\.params: nothing tells how large"),
    ({"main": {"params": "1B", "gpu_hours": 0}}, "main: a main run of no GPU-hours"),
    ({"speed": {}}, r"main\.mfu: nothing tells how fast"),
    ({"speed": {"mfu": 0.3, "flops_formula": "exact"}}, r"main\.flops_formula: exact FLOPs"),
    ({"rl": [{**RL, "model": None}]}, r"rl\[0\]\.model: the cache"),
    ({"gpu": "l40s", "rl": [{**RL, "model": "llama3-8b", "lengths": {"mean": "500k", "sigma": 0,
      "longest": "500k"}}]}, r"rl\[0\]\.gpus_per_engine: .*Give more"),
]  # fmt: skip


@pytest.mark.parametrize(("parts", "said"), NOT_ANSWERABLE)
def test_what_cannot_be_answered_names_the_field_that_would_help(
    parts: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        make_budget(budget(**parts))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "not valid YAML"),
        ("- a list", "a mapping of fields"),
        ("name: a\nname: b\n", "test.yaml:2: not valid YAML: the field 'name' is given twice"),
        ("? [a]\n: b\n", "a name of a field is expected"),
        ("name: 2026-99-99\n", "test.yaml"),
        ("", "a mapping of fields"),
    ],
)
def test_what_is_no_budget_is_said_to_be_none(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_budget(text, where="test.yaml")


@given(
    tokens=st.integers(10**9, 10**14),
    ablations=st.lists(st.integers(10**6, 10**12), max_size=5),
    count=st.integers(1, 100),
    mfu=st.floats(0.05, 1.0),
)
def test_lines_add_up_to_the_total_and_a_faster_gpu_needs_fewer_hours(
    tokens: int, ablations: list[int], count: int, mfu: float
) -> None:
    def total(share: float) -> float:
        answer = make_budget(
            BudgetSpec.model_validate(
                {
                    "name": "any",
                    "main": {"params": "3B", "tokens": tokens},
                    "speed": {"mfu": share},
                    "ablations": [{"tokens": t, "count": count} for t in ablations],
                }
            )
        )
        assert math.isclose(sum(line.gpu_hours for line in answer.lines), answer.total_gpu_hours)
        return answer.total_gpu_hours

    assert math.isclose(total(mfu) * mfu, total(mfu / 2) * mfu / 2)
    assert math.isclose(
        total(mfu), (tokens + count * sum(ablations)) * 18e9 / (mfu * 720e12) / 3600
    )
