"""Metrics of hosts and GPUs, under the names and labels of NVIDIA's dcgm-exporter
(etc/default-counters.csv), so that its dashboards and rules work with ours, and ours with it.

Their rules name no run, since dcgm-exporter knows of none: a GPU's trouble is told for every host
that Prometheus knows.
"""

from monitor.catalog.metric import Kind, Metric, Panel, Rule, Severity

HOSTS, GPUS = "Hosts", "GPUs"

PER_HOST = ("run", "Hostname")
PER_GPU = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "run")

HOST = (
    Metric(
        "smolplan_host_sample_timestamp_seconds",
        "gauge",
        "When the host was last sampled, by its own clock.",
        PER_HOST,
        "time",
        None,
        (
            Rule(
                "SmolplanHostUnsampled",
                "time() - smolplan_host_sample_timestamp_seconds > 120",
                60,
                "warning",
                "{{ $labels.Hostname }} has not been sampled for {{ $value | humanizeDuration }}.",
                "Is the host up, and does it still reach the run's storage?",
            ),
        ),
    ),
    Metric(
        "smolplan_host_memory_available_bytes",
        "gauge",
        "Memory that a new process could have.",
        PER_HOST,
        "memory_available_bytes",
        Panel(HOSTS, "Memory available", "bytes", legend="{{Hostname}}"),
        (
            Rule(
                "SmolplanHostMemoryLow",
                "smolplan_host_memory_available_bytes < 0.05 * smolplan_host_memory_total_bytes",
                300,
                "warning",
                "{{ $labels.Hostname }} has {{ $value | humanize1024 }}B of memory left.",
                "The kernel will soon kill something there, most likely a rank. A loader that "
                "grows with the run's length is the usual cause.",
            ),
        ),
    ),
    Metric("smolplan_host_memory_total_bytes", "gauge", "Memory.", PER_HOST, "memory_total_bytes"),
    Metric(
        "smolplan_host_load1",
        "gauge",
        "Processes that ran or waited, averaged over a minute.",
        PER_HOST,
        "load_1min",
        Panel(HOSTS, "Load", "short", legend="{{Hostname}}"),
    ),
    Metric(
        "smolplan_host_oom_kills_total",
        "counter",
        "Processes that the kernel ended for want of memory, since the host was started.",
        PER_HOST,
        "oom_kills",
        None,
        (
            Rule(
                "SmolplanHostOomKill",
                "increase(smolplan_host_oom_kills_total[10m]) > 0",
                0,
                "warning",
                "The kernel of {{ $labels.Hostname }} ended a process for want of memory.",
                "If it was a rank, the monitor restarts the run. What took the memory stands in "
                "the host's kernel log; if it comes again, it grows with the run.",
            ),
        ),
    ),
    Metric(
        "smolplan_host_disk_free_bytes",
        "gauge",
        "Free for us in the host's file system of this folder.",
        (*PER_HOST, "path"),
        "disks",
        Panel(HOSTS, "Free on disks", "bytes", legend="{{Hostname}} {{path}}"),
        (
            Rule(
                "SmolplanHostDiskFullSoon",
                "predict_linear(smolplan_host_disk_free_bytes[3h], 4 * 3600) < 0",
                600,
                "warning",
                "{{ $labels.path }} of {{ $labels.Hostname }} is full within four hours.",
                "Free space there: data that is kept locally, logs, core files.",
            ),
        ),
    ),
)
"""`source` is a field of HostSample."""


def _gpu(
    name: str,
    field: str,
    text: str,
    panel: Panel | None = None,
    rules: tuple[Rule, ...] = (),
    kind: Kind = "gauge",
) -> Metric:
    return Metric(f"DCGM_FI_DEV_{name}", kind, text, PER_GPU, field, panel, rules)


def _panel(title: str, unit: str, query: str = "") -> Panel:
    return Panel(GPUS, title, unit, query, "{{Hostname}} {{gpu}}")


def _rule(
    alert: str, query: str, severity: Severity, what: str, action: str, *, for_s: float = 0
) -> Rule:
    where = "GPU {{ $labels.gpu }} of {{ $labels.Hostname }}"
    return Rule(alert, query, for_s, severity, f"{where} {what}", action)


_THROTTLE = "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS"

GPU = (
    _gpu(
        "SM_CLOCK",
        "sm_clock_mhz",
        "SM clock (MHz).",
        _panel("SM clock (MHz)", "short"),
        (
            _rule(
                "SmolplanGpuSlow",
                "DCGM_FI_DEV_SM_CLOCK < on () group_left 0.9 * quantile(0.5, DCGM_FI_DEV_SM_CLOCK) "
                "and DCGM_FI_DEV_GPU_UTIL > 50",
                "warning",
                "runs at {{ $value }} MHz, more than 10 % below the median of all GPUs.",
                "One slow GPU holds all others up. Look at its temperature, power and throttle "
                "reasons; swap the host for a spare at the next checkpoint.",
                for_s=300,
            ),
        ),
    ),
    _gpu("MEM_CLOCK", "memory_clock_mhz", "Memory clock (MHz)."),
    _gpu(
        "GPU_TEMP",
        "temperature_c",
        "Temperature (°C).",
        _panel("Temperature", "celsius"),
        (
            _rule(
                "SmolplanGpuHot",
                "DCGM_FI_DEV_GPU_TEMP > 80",
                "warning",
                "is at {{ $value }} °C.",
                "It may throttle soon. Look at the host's fans and what air or water reaches it.",
                for_s=300,
            ),
            _rule(
                "SmolplanGpuTooHot",
                "DCGM_FI_DEV_GPU_TEMP > 87",
                "critical",
                "is at {{ $value }} °C.",
                "It throttles, and slows every other GPU of the run. Leave the host out.",
                for_s=60,
            ),
        ),
    ),
    _gpu(
        "MEMORY_TEMP",
        "memory_temperature_c",
        "Memory temperature (°C).",
        _panel("Memory temperature", "celsius"),
        (
            _rule(
                "SmolplanGpuMemoryHot",
                # dcgm-exporter prints 9.2e18 where a GPU has no such sensor.
                "DCGM_FI_DEV_MEMORY_TEMP > 95 < 200",
                "warning",
                "has memory at {{ $value }} °C.",
                "As for SmolplanGpuHot.",
                for_s=300,
            ),
        ),
    ),
    _gpu("POWER_USAGE", "power_w", "Power draw (W).", _panel("Power", "watt")),
    _gpu("POWER_MGMT_LIMIT", "power_limit_w", "Highest power draw that is allowed (W)."),
    _gpu(
        "TOTAL_ENERGY_CONSUMPTION",
        "energy_mj",
        "Energy since the driver was loaded (mJ).",
        kind="unknown",
    ),
    _gpu("PCIE_REPLAY_COUNTER", "pcie_replays", "PCIe retries.", kind="unknown"),
    _gpu("GPU_UTIL", "utilisation_percent", "GPU utilisation (%).", _panel("In use", "percent")),
    _gpu("MEM_COPY_UTIL", "memory_utilisation_percent", "Memory utilisation (%)."),
    _gpu("FB_FREE", "memory_free_mib", "Free memory (MiB)."),
    _gpu("FB_USED", "memory_used_mib", "Used memory (MiB).", _panel("Memory used", "mbytes")),
    _gpu(
        "XID_ERRORS",
        "last_xid",
        "The last Xid error; 0 before the first.",
        None,
        (
            _rule(
                "SmolplanGpuXid",
                # The gauge keeps the last code for ever, so it is its change that tells; the same
                # code again shows in our own counter.
                "(changes(DCGM_FI_DEV_XID_ERRORS[10m]) > 0 and DCGM_FI_DEV_XID_ERRORS > 0) "
                "or increase(smolplan_gpu_xid_total[10m]) > 0",
                "critical",
                "had an Xid error.",
                "The kernel log of the host has it. After Xid 79, 48, 95, 74 and the like the host "
                "is to be left out and checked; 13, 31, 43 and 45 are the program's, as a rule.",
            ),
        ),
    ),
    _gpu(
        "CLOCK_THROTTLE_REASONS",
        "throttle_reasons",
        "Bits of what holds the clocks back.",
        None,
        (
            _rule(
                "SmolplanGpuThrottled",
                # 0x8 hardware slowdown, 0x40 hardware thermal, 0x80 power brake (nvml.h).
                " or ".join(f"floor({_THROTTLE} / {bit}) % 2 == 1" for bit in (8, 64, 128)),
                "warning",
                "is throttled by its hardware.",
                "One throttled GPU of 128 took an all-reduce from 350 to 100 GB/s: leave the host "
                "out, and look at cooling and power.",
                for_s=120,
            ),
        ),
    ),
    _gpu(
        "ECC_SBE_VOL_TOTAL",
        "ecc_single_bit",
        "Corrected memory errors since the driver was loaded.",
        kind="unknown",
    ),
    _gpu(
        "ECC_DBE_VOL_TOTAL",
        "ecc_double_bit",
        "Uncorrected memory errors since the driver was loaded.",
        _panel("Uncorrected memory errors", "short"),
        (
            _rule(
                "SmolplanGpuMemoryError",
                "increase(DCGM_FI_DEV_ECC_DBE_VOL_TOTAL[10m]) > 0",
                "critical",
                "had a memory error that could not be corrected.",
                "The attempt has most likely ended by it. Reset the GPU; twice in a day: replace.",
            ),
        ),
        kind="unknown",
    ),
    _gpu(
        "UNCORRECTABLE_REMAPPED_ROWS",
        "remapped_rows_uncorrectable",
        "Memory rows remapped after uncorrectable errors.",
    ),
    _gpu(
        "CORRECTABLE_REMAPPED_ROWS",
        "remapped_rows_correctable",
        "Memory rows remapped after correctable errors.",
    ),
    _gpu(
        "ROW_REMAP_PENDING",
        "row_remap_pending",
        "1 if a row waits to be remapped.",
        None,
        (
            _rule(
                "SmolplanGpuRemapPending",
                "DCGM_FI_DEV_ROW_REMAP_PENDING > 0",
                "warning",
                "has a memory row that waits to be remapped.",
                "Reset the GPU at the next restart of the run; until then the row may fail again.",
            ),
        ),
    ),
    _gpu(
        "ROW_REMAP_FAILURE",
        "row_remap_failed",
        "1 if a row could not be remapped.",
        None,
        (
            _rule(
                "SmolplanGpuRemapFailed",
                "DCGM_FI_DEV_ROW_REMAP_FAILURE > 0",
                "critical",
                "could not remap a memory row.",
                "Leave the host out, and have the GPU replaced.",
            ),
        ),
    ),
    Metric(
        "smolplan_gpu_xid_total",
        "counter",
        "Xid errors in the kernel log since the sampler began, by code.",
        (*PER_GPU, "xid"),
        "xids",
        Panel(GPUS, "Xid errors", "short", legend="{{Hostname}} {{gpu}} Xid {{xid}}"),
    ),
)
"""`source` is a field of GpuSample."""
