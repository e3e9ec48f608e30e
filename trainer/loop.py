"""The training loop, top to bottom."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from statistics import fmean
from typing import Any

import torch

# What torch imports by itself in a rank's first step, half a second of it: ranks are forked of a
# process that has imported this module, and then have it.
import torch._inductor.config
from torch.torch_version import TorchVersion

from smolplan.checkpoint_request import CheckpointRequest
from smolplan.errors import ExitCode, NamedExit
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec
from trainer.balance import balance
from trainer.checkpoint import Checkpoints
from trainer.data.dataset import open_dataset
from trainer.data.drawn import Order
from trainer.data.loader import Loader, checksum, open_loader, rank_share
from trainer.data.prefetch import Batches
from trainer.host_memory import keep_freed
from trainer.huggingface.start import load_weights
from trainer.optim import build_optimizer
from trainer.parallel import join
from trainer.passes import Passes
from trainer.profile import Profiles
from trainer.replicas import CHECK_EVERY_STEPS, difference, digests
from trainer.report import Efficiency, Reporter
from trainer.schedule import learning_rate
from trainer.signals import StopFlag

log = logging.getLogger("trainer")


def check_supported(spec: RunSpec) -> None:
    """Raises NamedExit BAD_SPEC for a layout that this trainer cannot run yet, or not by the torch
    that is here."""
    problems = spec.unsupported_by_trainer()
    if torch.__version__ < TorchVersion("2.13"):
        parallel = spec.parallel
        older = f", which needs torch 2.13; here is {torch.__version__}"
        if parallel.schedule == "zero-bubble":
            problems.append(f"parallel.schedule is zero-bubble{older}")
        if spec.model.experts is not None and parallel.tensor_parallel > 1:
            problems.append(f"experts with parallel.tensor_parallel above 1{older}")
    if problems:
        raise NamedExit(ExitCode.BAD_SPEC, "; ".join(problems))


def train(run: RunDir, spec: RunSpec, attempt: int, report: Reporter, stop: StopFlag) -> None:
    """Train from the newest whole checkpoint to the last step. Raises NamedExit with the cause
    where it ends before."""
    check_supported(spec)
    torch.manual_seed(spec.seed)
    torch.set_num_threads(spec.launch.threads_per_rank)
    # Not warn_only: attention picks its deterministic kernel by this being an error.
    torch.use_deterministic_algorithms(spec.launch.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    dataset = open_dataset(run)
    loader = open_loader(spec, dataset)
    world = join(spec)
    if world.device.type == "cpu":
        keep_freed()

    passes = Passes(spec, world, dataset.separator)
    model = passes.model
    optimizer = build_optimizer(model, spec.optim)

    checkpoints = Checkpoints(run, spec, Order.of(dataset, loader), world, report, attempt)
    began = time.perf_counter()
    resumed = checkpoints.load_newest(model, optimizer)
    load_s = round(time.perf_counter() - began, 3)
    if resumed is None and spec.model.init_from is None:
        passes.initialise()
    step = resumed.step if resumed else 0
    position = resumed.data_position if resumed else 0
    skipped = checkpoints.skipped
    if resumed is None and spec.model.init_from is not None:
        with torch.no_grad():
            load_weights(run, spec.model, model, world)
        # From here on the run does not need that folder any more.
        checkpoints.save(0, 0, model, optimizer)
    kind = "resumed" if resumed else "started"
    left_out = {"skipped": skipped.to_json()} if skipped.ranges else {}
    report.event(kind, step=step, ranks=world.size, load_s=load_s, **left_out)

    efficiency = Efficiency(run, world.size)
    sizes = map(spec.batches.of_step, count(step + 1))
    batches = Batches(loader, skipped, position, sizes, world.data_rank, world.data_size)
    profiles = Profiles(run, world, report)
    last_step_s = None
    stop.listen()
    report.beat(step, "training")
    while step < spec.steps:
        profiles.begin(step + 1)
        began = time.perf_counter()
        drawn = batches.next()
        positions, batch = drawn.positions, drawn.tokens
        data_wait_s = time.perf_counter() - began
        lr = learning_rate(step, spec.optim, spec.steps)
        tokens = torch.from_numpy(batch).to(world.device)
        losses = passes.backward(tokens)
        own = rank_share(positions, world.data_rank, world.data_size)
        by_source = loader.losses_by_source(own, losses) if loader.is_mixed else []
        grad_norm = passes.clip(spec.optim.clip_norm)
        asked = stop.is_set() or (
            world.rank == 0 and (run.stop_request.exists() or run.yield_request(attempt).exists())
        )
        answering = checkpoints.answering  # looked up first: it goes away with the answer
        request = CheckpointRequest.read(run) if world.rank == 0 else None
        if request == answering:
            request = None
        to_profile = profiles.requested()
        counted = float(world.leads)
        (
            (
                global_loss,
                batch_checksum,
                stop_votes,
                save_votes,
                failed_votes,
                profile_votes,
                *source_losses,
            ),
            (longest_wait_s, highest_peak_bytes),
        ) = world.sum_and_max(
            [
                fmean(losses) * world.part_of_loss,
                counted * checksum(batch),
                float(asked),
                float(request is not None),
                float(checkpoints.failed),
                float(to_profile is not None),
                *(loss * world.part_of_sequence for loss in by_source),
            ],
            [data_wait_s, float(world.peak_memory_bytes())],
        )
        if failed_votes:
            checkpoints.finish()
        if not (math.isfinite(global_loss) and math.isfinite(grad_norm)):
            batch_is = {"first_position": positions[0], "last_position": positions[-1]}
            report.event("non_finite_loss", step=step + 1, loss=repr(global_loss), **batch_is)
            checkpoints.finish()
            raise NamedExit(
                ExitCode.NON_FINITE_LOSS,
                f"step {step + 1}: loss {global_loss}, gradient norm {grad_norm}; "
                f"the weights were not updated",
            )
        if stop_votes:
            stop.agreed()
        for group in optimizer.param_groups:
            group["lr"] = lr
        checkpoints.await_copies()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        fullest_expert = balance(model, spec.model, world)
        step, position = step + 1, positions[-1] + 1
        last_step_s = time.perf_counter() - began
        step_tokens = len(positions) * spec.data.seq_len

        report.beat(step, "training", last_step_s)
        if world.rank == 0:
            report.metrics(
                step=step,
                tokens=(position - skipped.before(position)) * spec.data.seq_len,
                loss=global_loss,
                grad_norm=grad_norm,
                lr=lr,
                tokens_per_s=step_tokens / last_step_s,
                tokens_per_s_per_gpu=step_tokens / last_step_s / world.size,
                step_s=last_step_s,
                data_wait_s=longest_wait_s,
                mfu=efficiency.mfu(step_tokens / last_step_s),
                # What the optimiser took now, of the other ranks the next line tells.
                memory_bytes=max(int(highest_peak_bytes), world.peak_memory_bytes()),
                data_position=position,
                batch_checksum=int(batch_checksum),
                **(_told_of_sources(loader, positions, source_losses) if loader.is_mixed else {}),
                **({} if fullest_expert is None else {"fullest_expert": fullest_expert}),
            )
        profiles.end(step)
        if profile_votes and not stop_votes and step < spec.steps:
            profiles.accept(to_profile, step, spec.steps)
        saves = spec.checkpoint.due(step, spec.steps) or stop_votes or save_votes
        if saves or step % CHECK_EVERY_STEPS == 0:
            odd = difference(world.gather(digests(model, optimizer, step, position, world.mesh)))
            if odd is not None:
                report.event("replicas_differ", step=step, **asdict(odd))
                checkpoints.finish()
                raise NamedExit(
                    ExitCode.REPLICAS_DIFFER,
                    f"step {step}: ranks {', '.join(map(str, odd.ranks))} differ in {odd.what}",
                )
        if saves:
            report.beat(step, "checkpointing", last_step_s)
            with stop.saving():
                checkpoints.save(step, position, model, optimizer, request)
                if stop_votes or step == spec.steps:
                    checkpoints.finish()
            report.beat(step, "training", last_step_s)
        if stop_votes and step < spec.steps:
            report.event("stopped", step=step)
            world.barrier()
            raise NamedExit(ExitCode.STOPPED_ON_REQUEST, f"stopped by request at step {step}")
    batches.close()
    report.event("finished", step=step)
    report.beat(step, "finished", last_step_s)
    world.barrier()


def _told_of_sources(
    loader: Loader, positions: Sequence[int], losses: Sequence[float]
) -> dict[str, Any]:
    """Of a mixture's sources how many sequences the step has, and their mean loss. `losses`: sums
    over the batch, one a source."""
    counts, sums = loader.by_source(positions), loader.by_name(losses)
    return {
        "sources": counts,
        "source_losses": {name: sums[name] / count for name, count in counts.items()},
    }
