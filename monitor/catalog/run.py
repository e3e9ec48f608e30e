"""Metrics of a run: its steps, its checkpoints, its attempts."""

from monitor.catalog.metric import Metric, Panel, Rule

PER_RUN = ("run",)

TRAINING, CHECKPOINTS, ATTEMPTS = "Training", "Checkpoints", "Attempts"


def _line(
    name: str, key: str, text: str, panel: Panel | None = None, rules: tuple[Rule, ...] = ()
) -> Metric:
    return Metric(name, "gauge", text, PER_RUN, key, panel, rules)


FROM_LINES = (
    _line(
        "smolplan_train_loss",
        "loss",
        "Loss of the last logged step.",
        Panel(TRAINING, "Loss", "short"),
        (
            Rule(
                "SmolplanLossSpike",
                # Two whole minutes above six standard deviations of the hour before: one odd
                # batch is none, and what is judged is no part of what it is judged by.
                'min_over_time(smolplan_train_loss{run=~"$run"}[2m]) > '
                'avg_over_time(smolplan_train_loss{run=~"$run"}[1h] offset 5m) + '
                '6 * stddev_over_time(smolplan_train_loss{run=~"$run"}[1h] offset 5m)',
                0,
                "warning",
                "The loss of {{ $labels.run }} is {{ $value | humanize }}, far above that of the "
                "hour before.",
                "Nothing is done by itself. If it does not come down, stop the run and go on from "
                "a checkpoint before it, with other data or a lower learning rate.",
            ),
        ),
    ),
    _line(
        "smolplan_train_gradient_norm",
        "grad_norm",
        "Gradient norm before clipping.",
        Panel(TRAINING, "Gradient norm", "short"),
    ),
    _line(
        "smolplan_train_learning_rate",
        "lr",
        "Learning rate of the last logged step.",
        Panel(TRAINING, "Learning rate", "sci"),
    ),
    _line(
        "smolplan_train_tokens_per_second",
        "tokens_per_s",
        "Throughput over all ranks.",
        Panel(
            TRAINING,
            "Tokens per second, and the plan's",
            "short",
            '{__name__=~"smolplan_(train|plan)_tokens_per_second", run=~"$run"}',
            "{{run}} {{__name__}}",
        ),
        (
            Rule(
                "SmolplanThroughputBelowPlan",
                'avg_over_time(smolplan_train_tokens_per_second{run=~"$run"}[2m]) < '
                "0.95 * $tokens_per_s",
                600,
                "warning",
                "{{ $labels.run }} makes {{ $value | humanize }} tokens/s, less than 95 % of the "
                "plan's.",
                "The run goes on, later than planned. Look for a slow host (GPU clocks, "
                "throttling), for waits for data, and at what else uses network and storage.",
            ),
            Rule(
                "SmolplanThroughputDropped",
                'avg_over_time(smolplan_train_tokens_per_second{run=~"$run"}[10m]) < 0.9 * '
                'quantile_over_time(0.5, smolplan_train_tokens_per_second{run=~"$run"}[6h])',
                600,
                "warning",
                "{{ $labels.run }} makes {{ $value | humanize }} tokens/s, more than 10 % below "
                "its own median of six hours.",
                "The run goes on. Something changed while it ran: look for a GPU that got hot, a "
                "link that went down, storage that got slow.",
            ),
        ),
    ),
    _line(
        "smolplan_train_mfu_ratio",
        "mfu",
        "Exact model FLOPs over the datasheet's dense peak.",
        Panel(TRAINING, "MFU", "percentunit"),
    ),
    _line(
        "smolplan_train_memory_bytes",
        "memory_bytes",
        "Peak memory of rank 0.",
        Panel(TRAINING, "Peak memory of rank 0", "bytes"),
    ),
    _line(
        "smolplan_train_step_duration_seconds",
        "step_s",
        "Time of the last logged step.",
        Panel(TRAINING, "Step time", "s"),
    ),
    _line(
        "smolplan_train_data_wait_seconds",
        "data_wait_s",
        "Of the last logged step, time that was waited for data.",
        Panel(TRAINING, "Wait for data, a step", "s"),
        (
            Rule(
                "SmolplanDataWait",
                'avg_over_time(smolplan_train_data_wait_seconds{run=~"$run"}[10m]) > 0.1 * '
                'avg_over_time(smolplan_train_step_duration_seconds{run=~"$run"}[10m])',
                300,
                "warning",
                "{{ $labels.run }} waits {{ $value | humanizeDuration }} of each step for data, "
                "more than a tenth of it.",
                "The run goes on. Look at the storage that holds the data: is it full, shared, or "
                "has it evicted the files?",
            ),
        ),
    ),
    _line(
        "smolplan_train_last_step_timestamp_seconds",
        "time",
        "When the last step was logged.",
        Panel(
            TRAINING,
            "Time since the last step",
            "s",
            'time() - smolplan_train_last_step_timestamp_seconds{run=~"$run"}',
        ),
        (
            Rule(
                "SmolplanNoNewStep",
                'time() - smolplan_train_last_step_timestamp_seconds{run=~"$run"} > $no_step_s '
                'unless on (run) smolplan_run_waiting{run=~"$run"} == 1',
                60,
                "critical",
                "{{ $labels.run }} has made no step for {{ $value | humanizeDuration }}, longer "
                "than a checkpoint or a restart may take.",
                "The monitor has not cured it. Look by smolplan status and smolplan logs: is it "
                "restarted again and again, or is there no host for it?",
            ),
        ),
    ),
    # No counter: it goes back where a restart does steps again.
    _line(
        "smolplan_train_tokens",
        "tokens",
        "Tokens that the last logged step had come to.",
        Panel(TRAINING, "Tokens", "short"),
    ),
)
"""From the last line of metrics.jsonl; `source` is its key."""

RUN = (
    Metric(
        "smolplan_train_step",
        "gauge",
        "Steps completed.",
        PER_RUN,
        "heartbeats",
        Panel(
            TRAINING,
            "Progress",
            "percentunit",
            'smolplan_train_step{run=~"$run"} / smolplan_plan_steps{run=~"$run"}',
        ),
    ),
    Metric("smolplan_plan_steps", "gauge", "Steps of the whole run.", PER_RUN, "plan.json"),
    Metric(
        "smolplan_plan_tokens_per_second",
        "gauge",
        "Throughput that the plan expects of all ranks; none for a CPU.",
        PER_RUN,
        "plan.json",
    ),
    Metric(
        "smolplan_rank_idle_seconds",
        "gauge",
        "Time that the monitor has watched a rank without progress.",
        ("run", "rank"),
        "heartbeats",
        Panel(
            TRAINING,
            "Longest time of a rank without progress",
            "s",
            'max by (run) (smolplan_rank_idle_seconds{run=~"$run"})',
        ),
        (
            Rule(
                "SmolplanHung",
                'smolplan_rank_idle_seconds{run=~"$run"} > '
                'smolplan_rank_idle_limit_seconds{run=~"$run"}',
                30,
                "critical",
                "Rank {{ $labels.rank }} of {{ $labels.run }} has shown no progress for "
                "{{ $value | humanizeDuration }}.",
                "The monitor ends a hung attempt and starts the next one. That this still stands "
                "means that it could not: look by smolplan status, and at the host's processes.",
            ),
        ),
    ),
    Metric(
        "smolplan_rank_idle_limit_seconds",
        "gauge",
        "Time without progress from which on the monitor calls a rank hung, by its phase.",
        ("run", "rank"),
        "spec.yaml and step times",
    ),
    Metric(
        "smolplan_run_attempt",
        "gauge",
        "Number of the attempt at hand.",
        PER_RUN,
        "the record of runs",
        Panel(ATTEMPTS, "Attempt", "short"),
        (
            Rule(
                "SmolplanRestartsOften",
                'smolplan_run_attempt{run=~"$run"} - '
                'min_over_time(smolplan_run_attempt{run=~"$run"}[1h]) >= 3',
                0,
                "warning",
                "{{ $labels.run }} was restarted {{ $value }} times within an hour.",
                "The monitor goes on restarting it, with longer pauses, and gives up after "
                "$crash_loop_limit attempts without a new step. Read the causes: smolplan status.",
            ),
        ),
    ),
    Metric(
        "smolplan_restarts_total",
        "counter",
        "Attempts after the first.",
        ("run", "cause"),
        "the record of runs",
        Panel(
            ATTEMPTS,
            "Restarts by cause",
            "short",
            'smolplan_restarts_total{run=~"$run"}',
            "{{run}} {{cause}}",
        ),
    ),
    Metric(
        "smolplan_run_unseen",
        "gauge",
        "1 if the run directory cannot be read.",
        PER_RUN,
        "the monitor's last look",
        None,
        (
            Rule(
                "SmolplanRunUnseen",
                'smolplan_run_unseen{run=~"$run"} == 1',
                120,
                "critical",
                "The folder of {{ $labels.run }} cannot be read.",
                "The monitor waits: blind is not broken. Look at the mount on its machine.",
            ),
        ),
    ),
    Metric(
        "smolplan_run_waiting",
        "gauge",
        "1 if a scheduler has not started the attempt at hand yet.",
        PER_RUN,
        "the monitor's last look",
        Panel(ATTEMPTS, "Waits for a scheduler", "short"),
    ),
    Metric(
        "smolplan_run_storage_free_bytes",
        "gauge",
        "Free for us in the file system of the run directory.",
        PER_RUN,
        "statvfs",
        Panel(CHECKPOINTS, "Free where the run is kept", "bytes"),
        (
            Rule(
                "SmolplanStorageFullSoon",
                # Space falls and is freed with each checkpoint: a slope is one over several.
                'predict_linear(smolplan_run_storage_free_bytes{run=~"$run"}'
                "[$storage_window], 4 * 3600) < 0",
                600,
                "warning",
                "The storage of {{ $labels.run }} is full within four hours if it goes on like "
                "this.",
                "Free space there, or lower checkpoint.keep_last. A run whose checkpoint cannot "
                "be written ends.",
            ),
            Rule(
                "SmolplanStorageLow",
                'smolplan_run_storage_free_bytes{run=~"$run"} < $checkpoint_bytes',
                60,
                "critical",
                "{{ $value | humanize1024 }}B are free where {{ $labels.run }} is kept: not "
                "enough for one more checkpoint.",
                "Free space there now: the next checkpoint fails, and the run ends with it.",
            ),
        ),
    ),
    Metric(
        "smolplan_checkpoint_last_success_timestamp_seconds",
        "gauge",
        "When the last checkpoint was whole; before the first, when the run was launched.",
        PER_RUN,
        "events.jsonl",
        Panel(
            CHECKPOINTS,
            "Age of the newest checkpoint",
            "s",
            'time() - smolplan_checkpoint_last_success_timestamp_seconds{run=~"$run"}',
        ),
        (
            Rule(
                "SmolplanCheckpointLate",
                'time() - smolplan_checkpoint_last_success_timestamp_seconds{run=~"$run"} > '
                "2 * $checkpoint_every_steps * $step_s "
                'unless on (run) smolplan_run_waiting{run=~"$run"} == 1',
                60,
                "critical",
                "The newest checkpoint of {{ $labels.run }} is {{ $value | humanizeDuration }} "
                "old, more than two intervals.",
                "What was trained since then is lost with the next failure. Is the run slower "
                "than planned, restarted often, or does the storage refuse?",
            ),
        ),
    ),
    Metric(
        "smolplan_checkpoint_save_duration_seconds",
        "gauge",
        "Time that the last checkpoint took to be written.",
        PER_RUN,
        "events.jsonl",
        Panel(CHECKPOINTS, "Time to save", "s"),
    ),
    Metric(
        "smolplan_checkpoint_last_step",
        "gauge",
        "Step of the newest checkpoint.",
        PER_RUN,
        "events.jsonl",
        Panel(
            CHECKPOINTS,
            "Steps that are not in a checkpoint",
            "short",
            'smolplan_train_step{run=~"$run"} - smolplan_checkpoint_last_step{run=~"$run"}',
        ),
    ),
    Metric(
        "smolplan_events_total",
        "counter",
        "Events on the run's record, by kind.",
        ("run", "kind"),
        "events.jsonl",
        Panel(
            ATTEMPTS,
            "Events an hour",
            "short",
            'increase(smolplan_events_total{run=~"$run"}[1h]) > 0',
            "{{run}} {{kind}}",
        ),
        (
            Rule(
                "SmolplanNonFiniteLoss",
                'increase(smolplan_events_total{run=~"$run", kind="non_finite_loss"}[15m]) > 0',
                0,
                "critical",
                "The loss or the gradient of {{ $labels.run }} became NaN or infinite.",
                "The weights were not updated; the monitor goes back to the newest checkpoint "
                "once. If it comes again at the same step, the run ends: lower the learning rate "
                "or look at that data.",
            ),
            Rule(
                "SmolplanCheckpointFailed",
                'increase(smolplan_events_total{run=~"$run", kind="checkpoint_failed"}[15m]) > 0',
                0,
                "critical",
                "A checkpoint of {{ $labels.run }} could not be written.",
                "The attempt ends, and the next one goes on from the checkpoint before. Is the "
                "storage full or read-only? smolplan status has the reason.",
            ),
        ),
    ),
    Metric(
        "smolplan_finding",
        "gauge",
        "How many things of a kind that the monitor's detectors found stand now.",
        ("run", "finding", "severity"),
        "events.jsonl",
        Panel(
            ATTEMPTS,
            "What stands",
            "short",
            'smolplan_finding{run=~"$run"}',
            "{{run}} {{finding}}",
        ),
        (
            Rule(
                "SmolplanFinding",
                'smolplan_finding{run=~"$run"} > 0',
                0,
                None,
                "{{ $labels.run }}: {{ $labels.finding }} stands.",
                "smolplan status has the evidence, and what to do.",
            ),
        ),
    ),
)
"""Computed by the exporter from the daemon's last look, plan.json and events.jsonl."""
