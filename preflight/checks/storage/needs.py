"""What a run asks of its storage, by its plan: the thresholds that the checks here begin with."""

from dataclasses import dataclass

from planner.storage import bytes_per_token
from preflight.expected import Planned, expected_step_s

STALL_SHARE = 0.05
"""A checkpoint that stalls training for more than this share of the interval is dear."""
SHORT_STALL_S = 1.0
"""Nobody minds a stall as short as this, however small the model and its interval."""
MARGIN = 1.2
"""A fifth on top, as disk budgets commonly have it (from memory)."""
STEP_LOG_BYTES = 400
"""A line of metrics.jsonl: 379 bytes in a run of the bundled trainer (measured)."""
RANK_LOG_BYTES = 50e6
"""Of one rank's log: a line of some 100 bytes each 10 s (trainer/report.py) is 26 MB in a month;
and room for warnings."""


@dataclass(frozen=True)
class StorageNeeds:
    """Bytes, seconds, and rates; what follows from the time of a step is None where the plan does
    not know it (a CPU)."""

    nodes: int
    ranks_per_host: int
    checkpoint_bytes: float
    checkpoints_kept: int
    """Those that are kept, and one being written."""
    log_bytes: float
    token_file_bytes: float
    """Of the tokenised text, at the least: it may repeat data.max_epochs times."""
    hung_s: float
    """A checkpoint that takes longer is ended by the monitor as hung."""
    load_s: float
    """A start that takes longer, reading a checkpoint included, is ended as hung."""
    sequence_bytes: int
    interval_s: float | None
    step_s: float | None
    read_bytes_per_s: float | None
    """Tokens, all hosts together."""
    sequences_per_s: float | None
    """All hosts together."""

    @property
    def host_checkpoint_bytes(self) -> float:
        """A sharded checkpoint is written evenly by all hosts."""
        return self.checkpoint_bytes / self.nodes

    @property
    def stall_s(self) -> float | None:
        """Longest that a checkpoint may hold up training before it is dear."""
        if self.interval_s is None:
            return None
        return max(SHORT_STALL_S, STALL_SHARE * self.interval_s)

    @property
    def least_write_bytes_per_s(self) -> float:
        """Of one host: below it a checkpoint counts as hung."""
        return self.host_checkpoint_bytes / self.hung_s

    @property
    def wished_write_bytes_per_s(self) -> float:
        """Of one host: below it a checkpoint is dear."""
        stall_s = self.stall_s
        wished = 0.0 if stall_s is None else self.host_checkpoint_bytes / stall_s
        return max(wished, self.least_write_bytes_per_s)

    @property
    def least_read_bytes_per_s(self) -> float:
        """Of one host: its share of a checkpoint at a start, and beside it its tokens."""
        return max(self.host_checkpoint_bytes / self.load_s, self.host_read_bytes_per_s or 0.0)

    @property
    def host_read_bytes_per_s(self) -> float | None:
        return None if self.read_bytes_per_s is None else self.read_bytes_per_s / self.nodes

    @property
    def host_sequences_per_s(self) -> float | None:
        return None if self.sequences_per_s is None else self.sequences_per_s / self.nodes

    @property
    def host_replacements_per_s(self) -> float | None:
        """Every rank replaces its heartbeat at every step: a file made, and renamed."""
        return None if self.step_s is None else self.ranks_per_host / self.step_s

    @property
    def space_bytes(self) -> float:
        """Checkpoints and logs, and room."""
        return MARGIN * (self.checkpoint_bytes * self.checkpoints_kept + self.log_bytes)


def storage_needs(run: Planned) -> StorageNeeds:
    spec, plan, step_s = run.spec, run.plan, expected_step_s(run)
    token_bytes = bytes_per_token(spec.model.vocab_size)
    batch_bytes = plan.global_batch_tokens * token_bytes
    return StorageNeeds(
        nodes=spec.cluster.nodes,
        ranks_per_host=spec.cluster.gpus_per_node,
        checkpoint_bytes=plan.checkpoint_bytes,
        checkpoints_kept=spec.checkpoint.most_kept(spec.steps) + 1,
        log_bytes=STEP_LOG_BYTES * spec.steps + RANK_LOG_BYTES * spec.parallel.ranks,
        token_file_bytes=plan.tokens / spec.data.max_epochs * token_bytes,
        hung_s=spec.monitor.checkpoint_timeout_s,
        load_s=spec.monitor.startup_timeout_s,
        sequence_bytes=(spec.data.seq_len + 1) * token_bytes,
        interval_s=None if step_s is None else step_s * spec.checkpoint.every_steps,
        step_s=step_s,
        read_bytes_per_s=None if step_s is None else batch_bytes / step_s,
        sequences_per_s=None if step_s is None else spec.optim.global_batch_size / step_s,
    )
