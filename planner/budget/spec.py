"""The budget's own file: what is planned around a main run. Not the run spec, which is one run."""

from typing import Self

from pydantic import Field, model_validator

from planner.budget.fields import Bandwidth, Bytes, Dollars, GpuHours, Share, Span
from planner.budget.work import Evaluation, Item, Preference, Rl, Sft, Speed
from planner.inference import WeightFormat
from planner.question import DEFAULT_MFU
from planner.storage import CHECKPOINT_BYTES_PER_PARAM, TEXT_BYTES_PER_TOKEN
from smolplan.spec.fields import Count, CountOrZero, SpecPart


class EnergySpec(SpecPart):
    data_centre: str | None = Field(default=None, description="Whose PUE: aws, gcp, industry …")
    pue: float | None = Field(default=None, ge=1, le=5, description="In place of data_centre.")
    region: str | None = Field(default=None, description="Of the grid: usa, france, us-iowa …")
    grid_g_per_kwh: float | None = Field(
        default=None, ge=0, le=10_000, description="In place of a region."
    )
    utilisation: Share = Field(
        default=1.0, description="1: GPUs as busy as in pre-training runs as they are."
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if self.region is not None and self.grid_g_per_kwh is not None:
            raise ValueError("region and grid_g_per_kwh both tell the grid; give one")
        if self.data_centre is not None and self.pue is not None:
            raise ValueError("data_centre and pue both tell the PUE; give one")
        return self


class StorageSpec(SpecPart):
    trained_tokens: Count | None = Field(default=None, description="main.tokens unless given.")
    stored_tokens: Count | None = Field(
        default=None, description="Distinct; trained ones unless given."
    )
    vocab_size: Count = 128_256
    text_bytes_per_token: float = Field(
        default=TEXT_BYTES_PER_TOKEN, gt=0, description="An assumption unless given."
    )
    checkpoint_every: Span = 4 * 3600.0
    checkpoint_bytes_per_param: float = Field(default=CHECKPOINT_BYTES_PER_PARAM, gt=0, le=1000)
    checkpoints_kept: Count = 2
    milestones: CountOrZero = Field(default=0, description="Weights published or kept.")
    stall: Span = Field(default=60.0, description="Longest that a checkpoint may take.")
    node: str | None = Field(default=None, description="A node type of the catalogue.")
    object_store: Bandwidth = Field(default=24e12 / 10_800, description="Into one node.")
    neighbour: Bandwidth = Field(default=24e12 / 5_400, description="From another node.")
    eval_bytes_per_checkpoint: Bytes = 0.0


class ServedShape(SpecPart):
    """A model that is no preset, as its cache sees it: key-value heads (all heads for multi-head,
    1 for multi-query attention), or the ranks of multi-head latent attention."""

    params: Count
    active_params: Count | None = Field(default=None, description="Of a mixture of experts.")
    layers: Count
    kv_heads: Count | None = None
    head_dim: Count | None = None
    kv_lora_rank: Count | None = Field(default=None, description="Of latent attention.")
    rope_head_dim: Count | None = Field(default=None, description="Of latent attention.")
    windowed_layers: CountOrZero = 0
    window: Count | None = Field(default=None, description="Tokens that a windowed layer keeps.")

    @model_validator(mode="after")
    def _one_attention(self) -> Self:
        heads, latent = (self.kv_heads, self.head_dim), (self.kv_lora_rank, self.rope_head_dim)
        whole = [pair for pair in (heads, latent) if None not in pair]
        if len(whole) != 1 or (heads != (None, None) and latent != (None, None)):
            raise ValueError("give either kv_heads and head_dim, or kv_lora_rank and rope_head_dim")
        if (self.window is None) != (self.windowed_layers == 0):
            raise ValueError("windowed_layers and window belong together")
        if self.windowed_layers and latent != (None, None):
            raise ValueError("windows are counted for key-value heads, not for latent attention")
        if self.windowed_layers > self.layers:
            raise ValueError(f"{self.windowed_layers} windowed_layers of {self.layers} layers")
        return self


class InferenceSpec(SpecPart):
    model: str | None = Field(
        default=None, description="A preset or published model; the main run's unless given."
    )
    shape: ServedShape | None = Field(default=None, description="In place of model.")
    weights: tuple[WeightFormat, ...] = Field(default=("bf16", "fp8", "int4"), min_length=1)
    sequence_tokens: Count = 8192
    gpu: str | None = Field(default=None, description="The budget's unless given.")
    gpus: Count = 1

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if self.model is not None and self.shape is not None:
            raise ValueError("model and shape both tell what is served; give one")
        return self


class Limits(SpecPart):
    """What there is; more is said in a check."""

    gpu_hours: GpuHours | None = None
    dollars: Dollars | None = None


class BudgetSpec(SpecPart):
    """All that is planned. Every part but the main run may be left out, and nothing is added to
    what stands here."""

    name: str
    gpu: str = "h100"
    node_size: Count = 8
    price_per_gpu_hour: Dollars | None = Field(
        default=None, description="US dollars; the catalogue's range unless given."
    )
    speed: Speed = Field(
        default=Speed(mfu=DEFAULT_MFU), description="Of every part that does not say its own."
    )
    main: Item
    ablations: tuple[Item, ...] = ()
    data_mixture: tuple[Item, ...] = ()
    annealing: tuple[Item, ...] = ()
    debugging: tuple[Item, ...] = Field(default=(), description="Resets, restarts, debugging.")
    evaluation: tuple[Evaluation, ...] = ()
    long_context: tuple[Item, ...] = ()
    mid_training: tuple[Item, ...] = ()
    sft: tuple[Sft, ...] = ()
    preference: tuple[Preference, ...] = ()
    rl: tuple[Rl, ...] = ()
    energy: EnergySpec = EnergySpec()
    storage: StorageSpec | None = None
    inference: InferenceSpec | None = None
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _main_and_speed_hold_for_all(self) -> Self:
        if self.main.share_of_main is not None:
            raise ValueError("main.share_of_main the main run cannot be a share of itself")
        if self.speed.tokens_per_s_per_gpu is not None:
            raise ValueError(
                "speed.tokens_per_s_per_gpu holds for one size of model only; give mfu here, or "
                "tokens_per_s_per_gpu on each line"
            )
        if self.main.beside_total:
            raise ValueError("main.beside_total the main run is what all else is measured by")
        return self
