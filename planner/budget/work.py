"""Parts of a budget that take GPU-hours: how large, how much, how fast."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from planner.budget.fields import GpuHours, Share, Span
from planner.question import Base, Formula
from smolplan.spec.fields import Count, CountOrZero, SpecPart
from smolplan.units import parse_count


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
        if self.mfu_base is not None and self.mfu is None:
            raise ValueError("mfu_base says what an mfu is a share of; give mfu beside it")
        return self


class Sized(Speed):
    """Something that trains a model."""

    params: Count | None = Field(
        default=None, description="Parameters; the main run's unless given."
    )
    active_params: Count | None = Field(
        default=None, description="Beside params: of a mixture of experts, what a token uses."
    )
    model: str | None = Field(
        default=None, description="A preset or published model, for exact counts."
    )
    seq_len: Count = Field(default=4096, description="Tokens of a sequence, for exact FLOPs.")
    source: str = Field(default="", description="Where the figures come from.")

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.params is not None and self.model is not None:
            raise ValueError("params and model both tell the size; give one")
        if self.active_params is not None and self.active_params > (self.params or 0):
            raise ValueError("active_params are a part of params; give the total there")
        return self


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
        speed = self.mfu if self.mfu is not None else self.tokens_per_s_per_gpu
        if speed is not None and self.tokens is None:
            raise ValueError(f"with {given[0]} a speed says nothing; leave it out, or give tokens")
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
