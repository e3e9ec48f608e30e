"""GPUs, through NVML."""

from preflight.registry import Answer, Context, check

# nvml.h, nvmlClocksThrottleReasons: what slows a GPU for a bad reason, and for a tolerable one.
BAD_THROTTLE = {0x8: "hardware slowdown", 0x40: "hardware thermal", 0x80: "power brake"}
SOFT_THROTTLE = {0x4: "software power cap", 0x20: "software thermal"}
HOT_C = 80


@check("gpu.present", remedy="Install the NVIDIA driver, or set cluster.gpu to what is here.")
def present(context: Context) -> Answer:
    want = context.spec.cluster
    if want.gpu == "cpu":
        return "skipped", "the spec runs on CPUs"
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return "fail", f"no NVIDIA driver answers on this machine: {error}"
    count = pynvml.nvmlDeviceGetCount()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
    context.shared["gpus"] = handles
    models = sorted({_text(pynvml.nvmlDeviceGetName(h)) for h in handles})
    said = f"{count} × {', '.join(models) or 'none'}, {want.gpus_per_node} × {want.gpu} wanted"
    if count < want.gpus_per_node:
        return "fail", said
    wanted = want.gpu.partition("-")[0].lower()
    if any(wanted not in m.lower().replace(" ", "") for m in models):
        return "warn", f"{said}: another model"
    return "pass", said


@check("gpu.health", remedy="Drain this host: reset or replace the GPU named.")
def health(context: Context) -> Answer:
    handles = context.shared.get("gpus")
    if not isinstance(handles, list) or not handles:
        return "skipped", "no GPUs to look at"
    import pynvml

    bad, soft = [], []
    for index, handle in enumerate(handles):
        try:
            errors = pynvml.nvmlDeviceGetTotalEccErrors(
                handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
            )
            if errors:
                bad.append(f"GPU {index}: {errors} uncorrected ECC errors")
        except pynvml.NVMLError:
            soft.append(f"GPU {index}: ECC cannot be read")
        try:
            _, _, pending, failed = pynvml.nvmlDeviceGetRemappedRows(handle)
            if pending or failed:
                bad.append(f"GPU {index}: row remap {'failed' if failed else 'pending'}")
        except pynvml.NVMLError:
            pass  # GPUs before Ampere have no row remapping
        reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        bad += [f"GPU {index}: {name}" for bit, name in BAD_THROTTLE.items() if reasons & bit]
        soft += [f"GPU {index}: {name}" for bit, name in SOFT_THROTTLE.items() if reasons & bit]
        heat = pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
        if heat >= HOT_C:
            soft.append(f"GPU {index}: {heat} °C")
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            soft.append(f"GPU {index}: pid {process.pid} is using it")
    if bad:
        return "fail", "; ".join(bad + soft)
    if soft:
        return "warn", "; ".join(soft)
    return "pass", f"{len(handles)} GPUs: no ECC error, row remap or throttling"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
