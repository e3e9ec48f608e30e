"""Metrics of a run: its progress, its checkpoints, its attempts."""

from monitor.catalog.metric import Metric, Panel, Rule

PER_RUN = ("run",)

PROGRESS, CHECKPOINTS, ATTEMPTS = "Progress", "Checkpoints", "Attempts"


RUN = (
    Metric(
        "smolplan_train_step",
        "gauge",
        "Steps completed.",
        PER_RUN,
        "heartbeats",
        Panel(
            PROGRESS,
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
            PROGRESS,
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
        "smolplan_goodput_ratio",
        "gauge",
        "Useful steps' time over the time since launch.",
        PER_RUN,
        "the whole record (monitor/goodput.py)",
        Panel(ATTEMPTS, "Goodput", "percentunit"),
    ),
    Metric(
        "smolplan_badput_seconds_total",
        "counter",
        "All time but that of useful steps, by cause.",
        ("run", "bucket"),
        "the whole record (monitor/goodput.py)",
        Panel(
            ATTEMPTS,
            "Badput by cause",
            "s",
            'smolplan_badput_seconds_total{run=~"$run"}',
            "{{run}} {{bucket}}",
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
