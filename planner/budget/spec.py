"""The budget's own file: what is planned around a main run. Not the run spec, which is one run."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from planner.question import DEFAULT_MFU, Base, Formula
from smolplan.spec.fields import Count, CountOrZero, Seconds, SpecPart
from smolplan.units import parse_bytes, parse_bytes_per_s, parse_count, parse_plain


def _share(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        return parse_plain(value.strip()[:-1], "a share", "0.3 or 30%") / 100
    return parse_plain(value, "a share", "0.3 or 30%")


def _dollars(value: Any) -> Any:
    if isinstance(value, str):
        value = value.strip().removeprefix("$")
        return parse_count(value)
    return value


Share = Annotated[float, BeforeValidator(_share), Field(ge=1e-6, le=1)]
"""A share from a millionth to 1; "30%" is read too."""

Bytes = Annotated[float, BeforeValidator(parse_bytes), Field(ge=0, le=1e24)]
"""A size; "24TB" is read too."""

Bandwidth = Annotated[float, BeforeValidator(parse_bytes_per_s), Field(ge=1)]
"""Bytes per second; "2.2GB/s" and "400Gb/s" are read too."""

Dollars = Annotated[float, BeforeValidator(_dollars), Field(ge=1e-6, le=1e15)]
"""US dollars; "$2.50" and "$3M" are read too."""

GpuHours = Annotated[float, BeforeValidator(parse_count), Field(ge=0, le=1e15)]
"""GPU-hours; "46,080" and "1.5k" are read too."""

Span = Annotated[Seconds, Field(ge=1, le=1e10)]
"""A span from a second to three centuries; "4h" is read too."""


class Speed(SpecPart):
    """How fast GPUs train: an MFU with its base and formula, or tokens/s/GPU."""

    mfu: Share | None = Field(default=None, description="Share of the base's FLOP/s.")
    mfu_base: Base | None = Field(default=None, description="achievable or peak.")
    flops_formula: Formula | None = Field(default=None, description="6nd, or exact with a model.")
    tokens_per_s_per_gpu: Annotated[float, BeforeValidator(parse_count), Field(ge=1e-3)] | None = (
        Field(default=None, description="As measured, in place of an MFU.")
    )

    @model_validator(mode="after")
    def _one_speed(self) -> Self:
        if self.mfu is not None and self.tokens_per_s_per_gpu is not None:
            raise ValueError("mfu and tokens_per_s_per_gpu both tell the speed; give one")
        return self


class Sized(Speed):
    """Something that trains a model."""

    params: Count | None = Field(
        default=None, description="Parameters; the main run's unless given."
    )
    model: str | None = Field(default=None, description="A bundled preset, for exact counts.")
    seq_len: Count = Field(default=4096, description="Tokens of a sequence, for exact FLOPs.")
    source: str = Field(default="", description="Where the figures come from.")


class Item(Sized):
    """A line of work, told in one of four ways: tokens, gpus and duration, gpu_hours, or
    share_of_main."""

    name: str = ""
    count: Count = Field(default=1, description="How many such runs.")
    tokens: Count | None = Field(default=None, description="Trained on in each.")
    gpus: Count | None = Field(
        default=None, description="With duration; with tokens they tell how long it takes."
    )
    duration: Span | None = Field(default=None, description="With gpus: 15d.")
    gpu_hours: GpuHours | None = Field(default=None, description="Of each.")
    share_of_main: Share | None = Field(default=None, description="Of the main run's GPU-hours.")
    beside_total: bool = Field(
        default=False, description="Shown, but not added: part of another line, or others' cost."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = {
            "tokens": self.tokens is not None,
            "gpus and duration": self.duration is not None,
            "gpu_hours": self.gpu_hours is not None,
            "share_of_main": self.share_of_main is not None,
        }
        given = [name for name, there in ways.items() if there]
        if len(given) != 1:
            said = " and ".join(given) if given else "nothing"
            raise ValueError(f"{said} tells its GPU-hours; give exactly one of: {', '.join(ways)}")
        if self.duration is not None and self.gpus is None:
            raise ValueError("a duration needs gpus: gpus: 192, duration: 15d")
        return self


class Evaluation(SpecPart):
    """Suites run on checkpoints of the main run, or all evaluation in one figure."""

    name: str = "evaluation"
    gpu_hours: GpuHours | None = Field(default=None, description="All of it, in place of a suite.")
    suite_gpu_hours: GpuHours | None = Field(default=None, description="Of the suite, once.")
    every_tokens: Count | None = Field(default=None, description="A checkpoint is evaluated each.")
    checkpoints: Count | None = Field(default=None, description="In place of every_tokens.")
    long_context_gpu_hours: GpuHours = Field(default=0, description="Of a long-context run.")
    long_context_checkpoints: CountOrZero = 0
    beside_total: bool = False
    source: str = ""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.gpu_hours is None) == (self.suite_gpu_hours is None):
            raise ValueError("give either gpu_hours or suite_gpu_hours with every_tokens")
        counts = (self.every_tokens is not None) + (self.checkpoints is not None)
        if counts != (self.suite_gpu_hours is not None):
            raise ValueError(
                "a suite needs one of every_tokens and checkpoints, and gpu_hours neither"
            )
        if self.long_context_gpu_hours and not self.long_context_checkpoints:
            raise ValueError("long_context_gpu_hours need long_context_checkpoints to run on")
        return self


class Sft(Sized):
    """Supervised fine-tuning."""

    name: str = "supervised fine-tuning"
    tokens: Count = Field(description="Of the examples, once.")
    epochs: float = Field(default=1.0, gt=0, le=100)
    packing: Share = Field(default=1.0, description="Share of positions that holds tokens.")
    runs: Count = Field(default=1, description="Sweeps and repeats included.")


class Preference(Sized):
    """Direct preference optimisation and its relatives that keep a reference (APO, IPO)."""

    name: str = "preference optimisation"
    pairs: Count
    tokens_per_sequence: Count = Field(description="Prompt and response, mean.")
    epochs: float = Field(default=1.0, gt=0, le=100)
    reference_once: bool = Field(
        default=False, description="Reference log-probabilities are computed once and kept."
    )
    runs: Count = 1


class Split(SpecPart):
    """Shares of the GPUs, adding up to 1."""

    rollout: Share
    training: Share

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if abs(self.rollout + self.training - 1) > 1e-6:
            raise ValueError(
                f"rollout {self.rollout:g} and training {self.training:g} add up to "
                f"{self.rollout + self.training:g}, not 1"
            )
        return self


class Lengths(SpecPart):
    """Tokens of responses: log-normal, cut at `longest`."""

    mean: Count
    sigma: float = Field(ge=0, le=4, description="Standard deviation of the logarithm.")
    longest: Count

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.mean > self.longest:
            raise ValueError(f"the mean {self.mean:,} is above the longest {self.longest:,}")
        return self


class Rl(Sized):
    """Reinforcement learning with verifiable rewards (GRPO and its relatives)."""

    name: str = "RL with verifiable rewards"
    gpus: Count
    split: Split | None = Field(default=None, description="Asynchronous; balanced unless given.")
    generation: Literal["synchronous", "asynchronous"] = "asynchronous"
    gpus_per_engine: Count = Field(
        default=1, description="Tensor parallel of the inference engine."
    )
    steps: Count
    prompts: Count = Field(description="Of one step.")
    samples: Count = Field(description="Responses to each prompt.")
    prompt_tokens: Count = 512
    lengths: Lengths
    decode_efficiency: Share = Field(
        default=0.5, description="Of the bandwidth bound; 0.5 is an assumption: measure yours."
    )
    reference: bool = Field(default=True, description="A frozen reference for a KL term.")
    runs: Count = 1

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.gpus % self.gpus_per_engine:
            raise ValueError(
                f"gpus {self.gpus:,} do not divide into engines of {self.gpus_per_engine:,}"
            )
        if self.generation == "asynchronous" and self.gpus < 2 * self.gpus_per_engine:
            raise ValueError(
                f"asynchronous generation needs an engine of {self.gpus_per_engine:,} and as many "
                f"to train, and there are {self.gpus:,} gpus; give more, or synchronous"
            )
        return self


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
        default=4.0, gt=0, description="An assumption unless given."
    )
    checkpoint_every: Span = 4 * 3600.0
    checkpoint_bytes_per_param: float = Field(default=12.0, gt=0, le=1000)
    checkpoints_kept: Count = 2
    milestones: CountOrZero = Field(default=0, description="Weights published or kept.")
    stall: Span = Field(default=60.0, description="Longest that a checkpoint may take.")
    node: str | None = Field(default=None, description="A node type of the catalogue.")
    object_store: Bandwidth = Field(default=24e12 / 10_800, description="Into one node.")
    neighbour: Bandwidth = Field(default=24e12 / 5_400, description="From another node.")
    eval_bytes_per_checkpoint: Bytes = 0.0


class InferenceSpec(SpecPart):
    model: str | None = Field(default=None, description="A preset; the main run's unless given.")
    weights: tuple[Literal["bf16", "fp8", "int4"], ...] = ("bf16", "fp8", "int4")
    sequence_tokens: Count = 8192
    gpu: str | None = Field(default=None, description="The budget's unless given.")
    gpus: Count = 1


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
    def _main_is_told_by_itself(self) -> Self:
        if self.main.share_of_main is not None:
            raise ValueError("main.share_of_main the main run cannot be a share of itself")
        if self.main.beside_total:
            raise ValueError("main.beside_total the main run is what all else is measured by")
        return self
