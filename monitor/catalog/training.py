"""Metrics of training itself, from the last line of metrics.jsonl."""

from monitor.catalog.metric import Metric, Panel, Rule

ROW = "Training"


def _line(
    name: str, key: str, text: str, panel: Panel | None = None, rules: tuple[Rule, ...] = ()
) -> Metric:
    return Metric(name, "gauge", text, ("run",), key, panel, rules)


FROM_LINES = (
    _line(
        "smolplan_train_loss",
        "loss",
        "Loss of the last logged step.",
        Panel(ROW, "Loss", "short"),
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
        Panel(ROW, "Gradient norm", "short"),
    ),
    _line(
        "smolplan_train_learning_rate",
        "lr",
        "Learning rate of the last logged step.",
        Panel(ROW, "Learning rate", "sci"),
    ),
    _line(
        "smolplan_train_tokens_per_second",
        "tokens_per_s",
        "Throughput over all ranks.",
        Panel(
            ROW,
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
        Panel(ROW, "MFU", "percentunit"),
    ),
    _line(
        "smolplan_train_memory_bytes",
        "memory_bytes",
        "Peak memory of the fullest rank.",
        Panel(ROW, "Peak memory of the fullest rank", "bytes"),
    ),
    _line(
        "smolplan_train_step_duration_seconds",
        "step_s",
        "Time of the last logged step.",
        Panel(ROW, "Step time", "s"),
    ),
    _line(
        "smolplan_train_data_wait_seconds",
        "data_wait_s",
        "Of the last logged step, time that the rank which waited longest waited for data.",
        Panel(ROW, "Wait for data, a step", "s"),
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
            ROW,
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
        Panel(ROW, "Tokens", "short"),
    ),
)
"""`source` is a key of that line."""
