"""Megatron's experts, latent attention, hybrids and windows (megatron/training/arguments.py, and
MLATransformerConfig, MambaMixer and get_gpt_decoder_block_spec of megatron/core)."""

import ast
import math
from typing import Any

from planner.architecture import shortest_pattern
from planner.hf.hybrid import pattern_of_sublayers
from smolplan.importers.draft import Draft
from smolplan.importers.source import count, count_or_zero, number, text

DEFAULT = "Megatron's default"
LONGEST = 10_000
"""Entries of a list that stands for layers."""

SUBLAYERS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
"""Letters of a hybrid's pattern, as planner/hf/hybrid.py calls them."""


def layer_list(value: Any) -> list[int] | int:
    """([0]*3+[1]*58) as its list, 2 as 2. Raises ValueError for anything but lists of whole numbers
    that are joined and repeated."""
    written = text(value).strip()
    if "[" not in written:
        return count(written)
    try:
        found = _evaluated(ast.parse(written, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        found = None
    if not isinstance(found, list):
        raise ValueError("a list like ([0]*3+[1]*58) belongs here")
    return found


def _evaluated(node: ast.expr) -> list[int] | int | None:
    """None for what is no such expression."""
    match node:
        case ast.Constant(value=int() as whole) if not isinstance(whole, bool):
            return whole
        case ast.List(elts=elements):
            found = [_evaluated(element) for element in elements]
            return [one for one in found if isinstance(one, int)] if _whole(found) else None
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            one, other = _evaluated(left), _evaluated(right)
            if isinstance(one, list) and isinstance(other, list) and len(one + other) <= LONGEST:
                return one + other
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            one, other = _evaluated(left), _evaluated(right)
            if isinstance(one, int):
                one, other = other, one
            if isinstance(one, list) and isinstance(other, int) and len(one) * other <= LONGEST:
                return one * other
    return None


def _whole(found: list[Any]) -> bool:
    return all(isinstance(one, int) for one in found)


def take_experts(draft: Draft, layers: int) -> None:
    source, part = draft.source, "model.experts"
    if source.find("--num-experts") is None:
        return
    draft.take(f"{part}.routed", count, "--num-experts")
    draft.take(f"{part}.per_token", count, "--moe-router-topk", default=2, why=DEFAULT)
    width = draft.value("model.ffn_hidden", 0)
    draft.take(
        f"{part}.ffn_hidden",
        count,
        "--moe-ffn-hidden-size",
        default=width,
        why="Megatron's default: --ffn-hidden-size",
    )
    shared = "--moe-shared-expert-intermediate-size"
    if source.find(shared):
        draft.put(f"{part}.shared", 1, shared)
        draft.take(f"{part}.shared_ffn_hidden", count, shared)
        if source.get("--moe-shared-expert-gate"):
            draft.put(f"{part}.shared_gate", True, "--moe-shared-expert-gate")
    _balance(draft)
    capacity = "--moe-expert-capacity-factor"
    if source.find(capacity):
        draft.take(f"{part}.capacity_factor", number, capacity)
    if draft.value("model.layer_pattern", "") == "":  # a hybrid's pattern says where they are
        _expert_layers(draft, layers)


def _balance(draft: Draft) -> None:
    """By a loss only where its coefficient is above 0, which is the default."""
    source, kind, weight = (
        draft.source,
        "--moe-router-load-balancing-type",
        "--moe-aux-loss-coeff",
    )
    coefficient = source.read(weight, number) if source.find(weight) else 0.0
    named = source.read(kind, text) if source.find(kind) else "aux_loss"
    if source.get("--moe-router-enable-expert-bias"):
        draft.put("model.experts.balance", "bias", "--moe-router-enable-expert-bias")
    elif named in ("none", "sinkhorn") or coefficient == 0:
        draft.put("model.experts.balance", "none", kind if named != "aux_loss" else weight)
    else:
        draft.put("model.experts.balance", "auxiliary_loss", kind)
    if coefficient:
        draft.leave(weight, coefficient, "a run spec does not weigh the balancing loss")


def _expert_layers(draft: Draft, layers: int) -> None:
    """Every n-th layer from the first; or a list of 0 for dense and 1 for experts."""
    source, name = draft.source, "--moe-layer-freq"
    if source.find(name) is None:
        return
    found = source.read(name, layer_list)
    if isinstance(found, int):
        draft.put("model.experts.every", found, name)
        if found > 1 and layers % found:
            raise source.error(name, f"it does not divide {layers} layers")
        if found > 1:
            draft.leave(name, found, "a run spec counts every n-th layer from the n-th on")
        return
    if len(found) != layers:
        raise source.error(name, f"{len(found)} entries for {layers} layers")
    dense = found.index(1) if 1 in found else layers
    if found != [0] * dense + [1] * (layers - dense):
        raise draft.refuse(name, "dense layers among those of experts")
    draft.put("model.experts.first_dense_layers", dense, name)


def take_latent_attention(draft: Draft) -> None:
    source, part = draft.source, "model.latent_attention"
    if source.find("--q-lora-rank"):
        draft.take(f"{part}.q_rank", count, "--q-lora-rank")
    for name, option, default in [
        ("kv_rank", "--kv-lora-rank", 32),
        ("nope_head_dim", "--qk-head-dim", 128),
        ("rope_head_dim", "--qk-pos-emb-head-dim", 64),
        ("value_head_dim", "--v-head-dim", 128),
    ]:
        draft.take(f"{part}.{name}", count, option, default=default, why=DEFAULT)
    if not source.get("--qk-layernorm"):
        draft.leave("--qk-layernorm", False, "the compressed vectors of a run spec have norms")


def letters_of_hybrid(draft: Draft) -> tuple[str, str] | None:
    """The pattern of a hybrid, and what says it."""
    source = draft.source
    name = source.find("--hybrid-override-pattern", "--hybrid-layer-pattern")
    source.get("--is-hybrid-model")
    if name is None:
        if source.find("--is-hybrid-model"):
            raise draft.refuse("--is-hybrid-model", "a hybrid whose layers no pattern names")
        return None
    return source.read(name, text), name


def take_hybrid(draft: Draft, letters: str, name: str) -> int:
    """Mixers of a hybrid as layers: a feed-forward part belongs to the mixer before it."""
    source = draft.source
    unknown = sorted(set(letters) - set(SUBLAYERS))
    if unknown:
        raise draft.refuse(name, f"layers of kinds {', '.join(unknown)[:40]}")
    if "-" in letters and "E" in letters:
        raise draft.refuse(name, "dense feed-forward parts among those of experts")
    if source.find("--num-layers"):
        told = source.read("--num-layers", count)
        if told != len(letters):
            raise source.error("--num-layers", f"the pattern has {len(letters)} letters")
    pattern = pattern_of_sublayers([SUBLAYERS[letter] for letter in letters])
    if not pattern:
        raise draft.refuse(name, "a feed-forward part behind no mixer")
    layers = draft.put("model.layers", letters.count("M") + letters.count("*"), name)
    draft.put("model.layer_pattern", pattern, name)
    if "M" in letters:
        _mamba(draft)
    return layers


def _mamba(draft: Draft) -> None:
    source, part = draft.source, "model.mamba"
    head_dim = draft.take(f"{part}.head_dim", count, "--mamba-head-dim", default=64, why=DEFAULT)
    hidden = source.read("--hidden-size", count) if source.find("--hidden-size") else head_dim
    draft.take(
        f"{part}.heads",
        count,
        "--mamba-num-heads",
        default=max(1, 2 * hidden // head_dim),
        why="Megatron's default: 2 × --hidden-size / --mamba-head-dim",
    )
    draft.take(f"{part}.state_size", count, "--mamba-state-dim", default=128, why=DEFAULT)
    draft.take(f"{part}.groups", count, "--mamba-num-groups", default=8, why=DEFAULT)
    draft.assume(f"{part}.chunk_size", 128, "MambaMixer's default")


def take_window(draft: Draft, layers: int) -> None:
    """--window-size L,R: the L tokens before and the token itself. --window-attn-skip-freq n: every
    n-th layer has none; or a list with 1 where a layer has it."""
    source, name, skip = draft.source, "--window-size", "--window-attn-skip-freq"
    if source.find(name) is None:
        return
    left, _, right = source.read(name, text).strip("()").partition(",")
    before = source.read(name, lambda _: count_or_zero(left.strip() or "0"))
    if right.strip() not in ("", "0"):
        raise draft.refuse(name, "a window over tokens to come")
    kinds: list[bool] = [True] * layers
    if source.find(skip):
        found = source.read(skip, layer_list)
        if isinstance(found, int):
            kinds = [(i + 1) % found != 0 for i in range(layers)]
        else:
            kinds = [bool(one) for one in found]
        if len(kinds) != layers:
            raise source.error(skip, f"{len(kinds)} entries for {layers} layers")
    if not any(kinds):
        draft.leave(name, before, "no layer has it")
        return
    draft.put("model.window", before + 1, name)
    pattern = shortest_pattern("".join("W" if one else "A" for one in kinds))
    draft.put("model.layer_pattern", pattern, skip if source.find(skip) else name)


def parts_of_a_stage(draft: Draft, layers: int, pipeline: int) -> tuple[int, str] | None:
    """Virtual stages of each pipeline rank, and what says so."""
    source = draft.source
    by_layers, by_count = (
        "--num-layers-per-virtual-pipeline-stage",
        "--num-virtual-stages-per-pipeline-rank",
    )
    if source.find(by_count):
        return source.read(by_count, count), by_count
    if source.find(by_layers) is None:
        return None
    each = source.read(by_layers, count)
    parts = math.ceil(layers / pipeline)
    if parts % each:
        raise source.error(by_layers, f"it does not divide the {parts} layers of a stage")
    return parts // each, by_layers
