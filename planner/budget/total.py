"""A budget, whole: its lines, totals, checks, and what they cost, draw, emit, store and serve."""

from collections.abc import Iterator
from dataclasses import dataclass

from planner.budget.checks import Check, checks_of
from planner.budget.lines import (
    BudgetLine,
    evaluation_lines,
    item_line,
    model_of,
    params_of,
    posttrain_line,
)
from planner.budget.rl_lines import RlLine, rl_line
from planner.budget.spec import BudgetSpec, InferenceSpec, StorageSpec
from planner.budget.work import Sized
from planner.catalog import Gpu, find_gpu, prices
from planner.catalog.energy import Grid, Pue, find_grid, find_pue
from planner.catalog.nodes import NodeType, find_node
from planner.energy import Energy, energy_of, node_power
from planner.inference import (
    CacheShape,
    Serving,
    WeightFormat,
    cache_shape,
    gqa_cache,
    kv_bytes_per_token,
    mla_cache,
    serving,
)
from planner.params import active_parameter_count, parameter_count
from planner.question import DEFAULT_MFU
from planner.storage import TEXT_BYTES_PER_TOKEN, Storage, StoragePlan, bytes_per_token, storage
from smolplan.errors import UserError

LEAST_GPU_HOURS = 1e-3
"""Of a main run; shares of less say nothing."""


@dataclass(frozen=True)
class PriceRange:
    """US dollars per GPU-hour."""

    low: float
    high: float
    source: str


@dataclass(frozen=True)
class StorageAnswer:
    plan: StoragePlan
    bytes: Storage
    node: NodeType | None


@dataclass(frozen=True)
class InferenceAnswer:
    model: str
    cache: CacheShape
    kv_bytes_per_token: float
    sequence_tokens: int
    formats: dict[WeightFormat, Serving]


@dataclass(frozen=True)
class Budget:
    """All of it. Dollars and energy are of the total's GPU-hours."""

    name: str
    gpu: Gpu
    lines: tuple[BudgetLine, ...]
    main_gpu_hours: float
    total_gpu_hours: float
    """Without the lines that stand beside it."""
    price: PriceRange | None
    energy: Energy
    storage: StorageAnswer | None
    inference: InferenceAnswer | None
    rl: tuple[RlLine, ...]
    checks: tuple[Check, ...]
    assumptions: tuple[str, ...]

    def share(self, gpu_hours: float) -> float:
        """Of the main run."""
        return gpu_hours / self.main_gpu_hours

    def dollars(self, gpu_hours: float) -> tuple[float, float] | None:
        """Low and high; None where no price is known."""
        if self.price is None:
            return None
        return gpu_hours * self.price.low, gpu_hours * self.price.high


def make_budget(spec: BudgetSpec) -> Budget:
    """Raises UserError for anything that the file asks and the planner cannot answer."""
    gpu = find_gpu(spec.gpu, where="gpu")
    main = item_line("main", 0, spec.main, spec, gpu, 0.0)
    if main.gpu_hours < LEAST_GPU_HOURS:
        raise UserError("a main run of no GPU-hours is nothing to budget around", where="main")
    rl_pairs = [rl_line(i, part, spec, gpu) for i, part in enumerate(spec.rl)]
    lines = (main, *_other_lines(spec, gpu, main.gpu_hours), *(line for line, _ in rl_pairs))
    total = sum(line.gpu_hours for line in lines if not line.beside_total)
    assumptions: list[str] = [
        f"{pair.name}: {pair.assumed}" for _, pair in rl_pairs if pair.assumed
    ]
    if "speed" not in spec.model_fields_set and _leans_on_speed(spec):
        assumptions.append(
            f"the speed is not told (speed.mfu): {DEFAULT_MFU:.0%} of the achievable rate, by 6ND"
        )
    price = _price(spec, gpu)
    if price is None:
        assumptions.append(f"no price is known for {gpu.name}: give price_per_gpu_hour")
    energy = _energy(spec, gpu, total, assumptions)
    stored = _storage(spec, spec.storage, main, assumptions) if spec.storage else None
    served = _inference(spec, spec.inference, gpu) if spec.inference else None
    node = stored.node if stored else None
    return Budget(
        name=spec.name,
        gpu=gpu,
        lines=lines,
        main_gpu_hours=main.gpu_hours,
        total_gpu_hours=total,
        price=price,
        energy=energy,
        storage=stored,
        inference=served,
        rl=tuple(pair for _, pair in rl_pairs),
        checks=tuple(
            checks_of(
                lines,
                limits=spec.limits,
                dollars_high=total * price.high if price else None,
                storage=stored.bytes if stored else None,
                node=node,
                gpu=gpu,
                node_size=spec.node_size,
            )
        ),
        assumptions=tuple(assumptions),
    )


def _other_lines(spec: BudgetSpec, gpu: Gpu, main: float) -> Iterator[BudgetLine]:
    items = {
        "ablations": spec.ablations,
        "data_mixture": spec.data_mixture,
        "annealing": spec.annealing,
        "debugging": spec.debugging,
    }
    for key, parts in items.items():
        yield from (item_line(key, i, part, spec, gpu, main) for i, part in enumerate(parts))
    for i, evaluation in enumerate(spec.evaluation):
        yield from evaluation_lines(i, evaluation, spec)
    later = {"long_context": spec.long_context, "mid_training": spec.mid_training}
    for key, parts in later.items():
        yield from (item_line(key, i, part, spec, gpu, main) for i, part in enumerate(parts))
    for i, sft in enumerate(spec.sft):
        yield posttrain_line("sft", i, sft, spec, gpu)
    for i, preference in enumerate(spec.preference):
        yield posttrain_line("preference", i, preference, spec, gpu)


def _leans_on_speed(spec: BudgetSpec) -> bool:
    """Whether any part is counted in tokens without a speed of its own."""
    items = (spec.main, *spec.ablations, *spec.data_mixture, *spec.annealing, *spec.debugging)
    items = (*items, *spec.long_context, *spec.mid_training)
    trained = [item for item in items if item.tokens is not None]
    parts: tuple[Sized, ...] = (*trained, *spec.sft, *spec.preference, *spec.rl)
    return any(part.mfu is None and part.tokens_per_s_per_gpu is None for part in parts)


def _price(spec: BudgetSpec, gpu: Gpu) -> PriceRange | None:
    if spec.price_per_gpu_hour is not None:
        return PriceRange(spec.price_per_gpu_hour, spec.price_per_gpu_hour, "given")
    row = prices().get(gpu.name)
    if row is None:
        return None
    return PriceRange(row.low, row.high, f"{row.source}, {row.date}, on demand")


def _energy(spec: BudgetSpec, gpu: Gpu, total: float, assumptions: list[str]) -> Energy:
    part = spec.energy
    pue = Pue("given", part.pue, 0, "given") if part.pue is not None else None
    if pue is None:
        if part.data_centre is None:
            assumptions.append("the data centre is not told (energy.data_centre): industry's PUE")
        pue = find_pue(part.data_centre or "industry", where="energy.data_centre")
    grid = None
    if part.grid_g_per_kwh is not None:
        grid = Grid("given", part.grid_g_per_kwh, 0, "given")
    if grid is None:
        if part.region is None:
            assumptions.append("the grid is not told (energy.region): the average of the USA")
        grid = find_grid(part.region or "usa", where="energy.region")
    power = node_power(gpu, utilisation=part.utilisation)
    if power.assumed:
        assumptions.append(f"power of {gpu.name} is scaled from what was measured on h100")
    return energy_of(total, power, pue, grid)


def _storage(
    spec: BudgetSpec, part: StorageSpec, main: BudgetLine, assumptions: list[str]
) -> StorageAnswer:
    trained = part.trained_tokens or spec.main.tokens
    if trained is None:
        raise UserError(
            "nothing tells how many tokens are trained on",
            where="storage.trained_tokens",
            remedy="Give it here, or give main.tokens.",
        )
    if spec.main.gpus is None:
        raise UserError(
            "bandwidth needs to know how long the main run takes",
            where="main.gpus",
            remedy="Give the number of GPUs there, beside tokens.",
        )
    node = find_node(part.node, where="storage.node") if part.node else None
    evaluated = sum(e.checkpoints or 0 for e in spec.evaluation)
    evaluated += sum(trained // e.every_tokens for e in spec.evaluation if e.every_tokens)
    if "text_bytes_per_token" not in part.model_fields_set:
        assumptions.append(
            f"{TEXT_BYTES_PER_TOKEN:g} bytes of text a token (storage.text_bytes_per_token)"
        )
    plan = StoragePlan(
        params=params_of(spec.main, spec, "main"),
        trained_tokens=float(trained),
        stored_tokens=float(part.stored_tokens or trained),
        token_bytes=float(bytes_per_token(part.vocab_size)),
        text_bytes_per_token=part.text_bytes_per_token,
        stepping_s=main.gpu_hours / spec.main.gpus / spec.main.count * 3600,
        nodes=-(-spec.main.gpus // spec.node_size),
        checkpoint_every_s=part.checkpoint_every,
        checkpoint_bytes_per_param=part.checkpoint_bytes_per_param,
        checkpoints_kept=part.checkpoints_kept,
        milestones=part.milestones,
        stall_s=part.stall,
        object_store_bytes_per_s=part.object_store,
        neighbour_bytes_per_s=part.neighbour,
        eval_bytes_per_checkpoint=part.eval_bytes_per_checkpoint,
        evaluated_checkpoints=evaluated,
    )
    return StorageAnswer(plan, storage(plan), node)


def _inference(spec: BudgetSpec, part: InferenceSpec, gpu: Gpu) -> InferenceAnswer:
    on = find_gpu(part.gpu, where="inference.gpu") if part.gpu else gpu
    name, params, active, cache = _served(spec, part)
    formats = {
        weights: serving(
            on,
            params,
            cache,
            weights=weights,
            sequence_tokens=part.sequence_tokens,
            gpus=part.gpus,
            active_params=active,
        )
        for weights in part.weights
    }
    return InferenceAnswer(name, cache, kv_bytes_per_token(cache), part.sequence_tokens, formats)


def _served(spec: BudgetSpec, part: InferenceSpec) -> tuple[str, float, float | None, CacheShape]:
    """Name, parameters, active ones of a mixture of experts, and cache of what is served."""
    if shape := part.shape:
        if shape.kv_lora_rank and shape.rope_head_dim:
            cache = mla_cache(shape.layers, shape.kv_lora_rank, shape.rope_head_dim)
        else:
            assert shape.kv_heads and shape.head_dim
            cache = gqa_cache(
                shape.layers,
                shape.kv_heads,
                shape.head_dim,
                windowed_layers=shape.windowed_layers,
                window=shape.window,
            )
        return "the shape given", shape.params, shape.active_params, cache
    name = part.model or spec.main.model
    main = spec.main.model_copy(update={"model": name, "params": None})
    model = model_of(main, spec, "inference")
    if model is None or name is None:
        raise UserError(
            "the cache of keys and values needs an architecture",
            where="inference.model",
            remedy="Give model: smollm3-3b or another preset, here or in main, or give shape.",
        )
    return name, parameter_count(model), active_parameter_count(model), cache_shape(model)
