"""The run spec: one file that planner, preflight, launcher, trainer and monitor all read."""

import hashlib
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from smolplan.spec import fp8
from smolplan.spec.batch import BatchSizes
from smolplan.spec.checkpoint import CheckpointSpec
from smolplan.spec.cluster import ClusterSpec
from smolplan.spec.data import DataSpec
from smolplan.spec.eval import EvalSpec
from smolplan.spec.fields import ADDED_LATER, SpecPart
from smolplan.spec.launch import LaunchSpec
from smolplan.spec.log import LogSpec
from smolplan.spec.model import ModelSpec
from smolplan.spec.monitor import MonitorSpec
from smolplan.spec.optim import OptimSpec
from smolplan.spec.parallel import ParallelSpec
from smolplan.units import count_of


class RunSpec(SpecPart):
    """A training run, whole. `steps`, `tokens` and the like are derived, never stored twice."""

    name: str = Field(
        description="Names the run directory: letters, digits, dot, dash, underscore."
    )
    seed: int = Field(default=0, ge=0, lt=2**63, strict=True)
    model: ModelSpec
    data: DataSpec
    optim: OptimSpec
    parallel: ParallelSpec = ParallelSpec()
    cluster: ClusterSpec = ClusterSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    launch: LaunchSpec = LaunchSpec()
    monitor: MonitorSpec = MonitorSpec()
    eval: EvalSpec = EvalSpec()
    log: Annotated[LogSpec, ADDED_LATER] = LogSpec()

    @property
    def batches(self) -> BatchSizes:
        return BatchSizes.of(self.optim, self.data.seq_len)

    @property
    def global_batch_tokens(self) -> int:
        """Of a step behind optim.batch_warmup."""
        return self.optim.global_batch_size * self.data.seq_len

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run; the last one is whole, so tokens may be exceeded."""
        if self.optim.steps is not None:
            return self.optim.steps
        assert self.optim.tokens is not None
        return self.batches.steps(-(-self.optim.tokens // self.data.seq_len))

    @property
    def tokens(self) -> int:
        return self.tokens_after(self.steps)

    def tokens_after(self, step: int) -> int:
        """Read by the steps up to `step`, skipped ones left aside."""
        return self.batches.sequences(step) * self.data.seq_len

    @property
    def tokenizer(self) -> Path | None:
        """The tokenizer.json of data.tokenizer, or of the model that the run starts from; None
        where one is trained on the text."""
        folder = self.model.init_from
        if self.data.tokenizer is None and folder is not None:
            return folder / "tokenizer.json"
        return self.data.tokenizer

    @property
    def whole_batches(self) -> int:
        """How many batches of the full size hold the run's tokens: what the planner prices."""
        return math.ceil(self.tokens / self.global_batch_tokens)

    @property
    def stage_starts(self) -> tuple[int, ...]:
        """The first step of each of data.stages."""
        return tuple(
            stage.start_step
            or 1 + self.batches.steps(-(-(stage.start_tokens or 0) // self.data.seq_len))
            for stage in self.data.stages
        )

    @property
    def gradient_accumulation(self) -> int:
        """Micro-batches that one rank runs in one optimiser step, behind optim.batch_warmup."""
        return self.optim.global_batch_size // (
            self.parallel.data_parallel * self.parallel.micro_batch_size
        )

    def unsupported_by_trainer(self) -> list[str]:
        """What the bundled trainer cannot run yet, a clause each; empty if it can run it all."""
        parallel, length = self.parallel, self.data.seq_len
        problems = self.model.unsupported_by_trainer()
        if problem := self.misfit_of_experts(parallel.data_parallel * parallel.context_parallel):
            problems.append(problem)
        widths = self.model.experts.widths if self.model.experts is not None else {}
        for field, width in widths.items():
            if width % parallel.tensor_parallel:
                problems.append(
                    f"model.experts.{field} makes experts {width} wide, which "
                    f"parallel.tensor_parallel {parallel.tensor_parallel} does not divide"
                )
        tensor, context = parallel.tensor_parallel, parallel.context_parallel
        # Of a context-parallel rank's sequence one half is from the beginning, one from the end.
        if length % (context * tensor) or (context > 1 and length % (2 * context)):
            problems.append(
                f"data.seq_len {length} does not divide by parallel.context_parallel {context} × "
                f"tensor_parallel {tensor}{' and by 2 × context_parallel' * (context > 1)}: the "
                f"bundled trainer shares each sequence out"
            )
        problems += self.model.unshared_by_trainer(context * tensor)
        if self.optim.precision == "fp8":
            problems += fp8.unsupported(parallel, length)
        if self.model.experts is not None and parallel.schedule == "zero-bubble":
            problems.append(
                "parallel.schedule is zero-bubble, which goes back through a router twice: the "
                "bundled trainer runs model.experts with 1f1b or interleaved"
            )
        if problem := self.misfit_of_pipeline(parallel.data_parallel):
            problems.append(problem)
        if parallel.pipeline_parallel == 1 and parallel.pipeline_schedule != "1f1b":
            problems.append(
                f"parallel.schedule is {parallel.pipeline_schedule} with "
                f"{parallel.virtual_pipeline} parts a stage: without a pipeline leave it out"
            )
        if parallel.schedule == "zero-bubble" and parallel.virtual_pipeline > 1:
            problems.append(
                f"parallel.virtual_pipeline is {parallel.virtual_pipeline}: the bundled trainer's "
                f"zero-bubble schedule has one part a stage"
            )
        if parallel.schedule == "zero-bubble" and parallel.zero_stage == 3:
            problems.append(
                "parallel.zero_stage is 3 with schedule zero-bubble, which goes back through the "
                "weights twice: the bundled trainer keeps them gathered, so make it 2"
            )
        if self.launch.compile and parallel.recompute == "selective" and tensor > 1:
            problems.append(
                "parallel.recompute is selective with launch.compile and tensor_parallel "
                f"{tensor}, which torch's compiler fails on: make it none or full"
            )
        if parallel.zero_stage == 1:
            problems.append(
                "parallel.zero_stage is 1: the bundled trainer runs 0, 2 and 3; 2 holds less and "
                "sends as much"
            )
        return problems

    def misfit_of_pipeline(self, data: int) -> str:
        """Why a pipeline cannot run the micro-batches of some step among so many data-parallel
        ranks; empty if it can."""
        share = data * self.parallel.micro_batch_size
        found = (
            self.parallel.misfit_of_pipeline(phase.size // share) for phase in self.batches.phases
        )
        return next(filter(None, found), "")

    def misfit_of_experts(self, replicas: int) -> str:
        """Why experts cannot be spread by parallel.expert_parallel over so many data- and
        context-parallel ranks; empty if they can."""
        parallel, experts = self.parallel, self.model.experts
        ranks = parallel.expert_parallel
        if ranks == 1 or experts is None:
            return ""
        if replicas % ranks:
            return (
                f"parallel.expert_parallel {ranks} does not divide {count_of(replicas, 'replica')}"
                f": experts are spread over data- and context-parallel ranks"
            )
        shards = parallel.shards(replicas)
        if shards % ranks and ranks % shards:
            return (
                f"parallel.expert_parallel {ranks} and the {shards} ranks that share a weight "
                f"(parallel.shard_group): one is to divide the other"
            )
        each, inner = parallel.expert_shards(replicas), experts.ffn_hidden
        sizes = experts.routed // ranks, self.model.hidden, inner // parallel.tensor_parallel
        if all(size % each for size in sizes):
            return (
                f"an expert is to be shared by {each} ranks (parallel.shard_group / "
                f"expert_parallel {ranks}), which divide neither the {sizes[0]} experts of a rank "
                f"nor model.hidden {sizes[1]} nor the width {sizes[2]}; choose another shard_group"
            )
        return ""

    def content_hash(self) -> str:
        """SHA-256 (hex) of the spec's canonical JSON: names the run's configuration."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @field_validator("name")
    @classmethod
    def _file_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ValueError(
                f"{name!r} cannot name a folder; use letters, digits, dot, dash and underscore, "
                f"starting with a letter or digit, 100 at most"
            )
        return name

    @model_validator(mode="after")
    def _batches_follow(self) -> Self:
        ends = [phase.steps_before for phase in self.batches.phases[1:]]
        for number, (before, end) in enumerate(pairwise([0, *ends])):
            if end <= before:
                raise ValueError(
                    f"optim.batch_warmup.{number} would end with step {max(0, end)}, and it begins "
                    f"behind step {before}; write them in the order of their ends"
                )
        if ends and ends[-1] >= self.steps:
            raise ValueError(
                f"optim.batch_warmup ends with step {ends[-1]}, and the run with step "
                f"{self.steps}; end it earlier"
            )
        return self

    @model_validator(mode="after")
    def _evaluates_checkpoints(self) -> Self:
        every, saved = self.eval.every_steps, self.checkpoint.every_steps
        if every is not None and every % saved:
            raise ValueError(
                f"eval.every_steps {every} is no multiple of checkpoint.every_steps {saved}: there "
                f"are no checkpoints of those steps; use {-(-every // saved) * saved}"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        parallel = self.parallel
        share = parallel.data_parallel * parallel.micro_batch_size
        for number, phase in enumerate(self.batches.phases):
            if phase.size % share:
                small = f"batch_warmup.{number}." * (number < len(self.optim.batch_warmup))
                below, above = phase.size // share * share, (phase.size // share + 1) * share
                raise ValueError(
                    f"optim.{small}global_batch_size {phase.size} does not divide by "
                    f"parallel.data_parallel {parallel.data_parallel} × parallel.micro_batch_size "
                    f"{parallel.micro_batch_size}; use {f'{below} or ' if below else ''}{above}"
                )
        if parallel.ranks != self.cluster.gpus:
            raise ValueError(
                f"parallel.data_parallel {parallel.data_parallel} × tensor "
                f"{parallel.tensor_parallel} × pipeline {parallel.pipeline_parallel} × context "
                f"{parallel.context_parallel} makes {count_of(parallel.ranks, 'rank')}, cluster "
                f"has {self.cluster.gpus} ({count_of(self.cluster.nodes, 'node')} × "
                f"{self.cluster.gpus_per_node}); make them equal"
            )
        if any(step > self.steps for step in self.checkpoint.milestones):
            raise ValueError(
                f"checkpoint.milestones has {max(self.checkpoint.milestones)}, and the run ends "
                f"after {count_of(self.steps, 'step')}; name steps of the run"
            )
        scheduled = self.optim.warmup_steps + self.optim.decay_steps
        if scheduled > self.steps:
            raise ValueError(
                f"optim.warmup_steps {self.optim.warmup_steps} + optim.decay_steps "
                f"{self.optim.decay_steps} exceed the run's {count_of(self.steps, 'step')}; "
                f"shorten one"
            )
        return self

    @model_validator(mode="after")
    def _data_stages_follow(self) -> Self:
        stages, starts = self.data.stages, self.stage_starts
        if starts and starts[0] != 1:
            raise ValueError(
                f"data.stages: the first stage starts at step {starts[0]}; let it start at 1"
            )
        for number in range(1, len(starts)):
            if starts[number] <= starts[number - 1]:
                raise ValueError(
                    f"data.stages: stage {stages[number].name!r} starts at step {starts[number]}, "
                    f"not after {stages[number - 1].name!r}, which starts at "
                    f"{starts[number - 1]}; write them in order"
                )
        return self

    @model_validator(mode="after")
    def _degrees_divide(self) -> Self:
        model, parallel = self.model, self.parallel
        for part, degree in [
            ("model.heads", parallel.tensor_parallel),
            ("model.kv_heads", parallel.tensor_parallel),
            ("model.ffn_hidden", parallel.tensor_parallel),
            ("model.vocab_size", parallel.tensor_parallel),
            ("model.mamba.heads", parallel.tensor_parallel),
            ("model.delta_net.value_heads", parallel.tensor_parallel),
            ("model.experts.routed", parallel.expert_parallel),
        ]:
            size: Any = self
            for name in part.split("."):
                size = getattr(size, name, None)
            if size is not None and size % degree:
                raise ValueError(f"{part} {size} does not divide by its parallel degree {degree}")
        if parallel.expert_parallel > 1 and model.experts is None:
            raise ValueError(
                f"parallel.expert_parallel {parallel.expert_parallel} needs model.experts; the "
                f"model is dense, so make it 1"
            )
        if self.data.seq_len % parallel.context_parallel:
            raise ValueError(
                f"data.seq_len {self.data.seq_len} does not divide by "
                f"parallel.context_parallel {parallel.context_parallel}"
            )
        return self

    @model_validator(mode="after")
    def _stages_have_layers(self) -> Self:
        layers, parallel = self.model.layers, self.parallel
        stages = parallel.pipeline_parallel * parallel.virtual_pipeline
        if parallel.uneven_stages:
            if layers < stages:
                raise ValueError(
                    f"model.layers {layers} are fewer than the {stages} parts of "
                    f"parallel.pipeline_parallel {parallel.pipeline_parallel} × "
                    f"parallel.virtual_pipeline {parallel.virtual_pipeline}"
                )
            return self
        if layers % parallel.pipeline_parallel:
            raise ValueError(
                f"model.layers {layers} does not divide by its parallel degree "
                f"{parallel.pipeline_parallel}; change it, or give parallel.uneven_stages: true"
            )
        if layers % stages:
            raise ValueError(
                f"model.layers {layers} does not divide by parallel.pipeline_parallel "
                f"{parallel.pipeline_parallel} × parallel.virtual_pipeline "
                f"{parallel.virtual_pipeline}, which are {stages} parts"
            )
        return self
