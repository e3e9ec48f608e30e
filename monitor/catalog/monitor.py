"""Metrics of the monitor itself, and the rules that tell when it is gone."""

from monitor.catalog.metric import Metric, Panel, Rule

ROW = "Monitor"

MONITOR = (
    Metric(
        "smolplan_monitor_heartbeat_timestamp_seconds",
        "gauge",
        "When the monitor last looked after its runs; a rule on its age tells that it is gone.",
        (),
        "the daemon's loop",
        Panel(
            ROW,
            "Time since the monitor's last look",
            "s",
            "time() - smolplan_monitor_heartbeat_timestamp_seconds",
            "{{instance}}",
        ),
        (
            Rule(
                "SmolplanWatchdog",
                "time() - max(smolplan_monitor_heartbeat_timestamp_seconds) < 60",
                0,
                "none",
                "The monitor, Prometheus and Alertmanager are at work: this alert always fires.",
                "Send it to a dead man's switch, which calls when it stops.",
            ),
            Rule(
                "SmolplanMonitorGone",
                "time() - max(smolplan_monitor_heartbeat_timestamp_seconds) > 60 or "
                "absent(smolplan_monitor_heartbeat_timestamp_seconds)",
                60,
                "critical",
                "No monitor looks after the runs.",
                "Training goes on, but nobody restarts what breaks. Start one: smolplan monitor.",
            ),
        ),
    ),
    Metric(
        "smolplan_record_unusable",
        "gauge",
        "1 while the monitor cannot write its record of runs: it decides nothing then.",
        (),
        "the daemon's loop",
        None,
        (
            Rule(
                "SmolplanRecordUnusable",
                "max(smolplan_record_unusable) == 1",
                60,
                "critical",
                "The monitor cannot write its record of runs, and restarts nothing.",
                "Training goes on. Free space on the disk of the state folder, or see what holds "
                "runs.sqlite; the monitor's log has the reason. It goes on by itself then.",
            ),
        ),
    ),
    Metric(
        "smolplan_notifications_total",
        "counter",
        "What was told to a receiver of monitor.alerts, and what was held back for being too much.",
        ("run", "receiver", "outcome"),
        "the notifier",
        Panel(
            ROW,
            "Told an hour",
            "short",
            'increase(smolplan_notifications_total{run=~"$run"}[1h])',
            "{{run}} {{receiver}} {{outcome}}",
        ),
    ),
    Metric(
        "smolplan_notification_failing",
        "gauge",
        "1 while a receiver does not take what it is sent; it is tried again.",
        ("run", "receiver"),
        "the notifier",
        None,
        (
            Rule(
                "SmolplanNobodyTold",
                'smolplan_notification_failing{run=~"$run"} == 1',
                300,
                "warning",
                "The receiver {{ $labels.receiver }} of {{ $labels.run }} takes no alerts.",
                "It is tried again, ever more rarely, and nothing is lost for a day. The "
                "monitor's log has the reason; try it by: smolplan preflight SPEC --only "
                "alerts.test.",
            ),
        ),
    ),
)

MONITOR_RULES = (
    Rule(
        "SmolplanExporterDown",
        'up{job="smolplan"} == 0',
        60,
        "critical",
        "Prometheus cannot read the metrics of the monitor at {{ $labels.instance }}.",
        "As for SmolplanMonitorGone; or the network between the two.",
    ),
)
"""On what Prometheus knows by itself; the scrape job is to be named `smolplan`."""
