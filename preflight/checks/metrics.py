"""What the monitor lives on: the small run's metrics and heartbeats, and a port for Prometheus."""

import math
import urllib.request

from prometheus_client import CollectorRegistry, Gauge, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from preflight.small_run import STEPS
from smolplan.units import count_of

FIELDS = (
    "step",
    "tokens",
    "loss",
    "grad_norm",
    "lr",
    "tokens_per_s",
    "data_position",
    "batch_checksum",
    "attempt",
    "time",
)


@check(
    "metrics.lines",
    remedy="The monitor is blind without them: look at the run folder's storage (--only storage).",
    deadline_s=200.0,
    needs_torch=True,
)
def lines(context: Context) -> Finding:
    """The small run logged every step, with every field that the monitor reads."""
    run = context.small_run().reference()
    logged = run.read_metrics()
    missing = sorted({name for line in logged for name in FIELDS if line.get(name) is None})
    unreal = [line["step"] for line in logged if not math.isfinite(line.get("loss") or 0.0)]
    steps = [line["step"] for line in logged]
    why = ""
    if steps != list(range(1, STEPS + 1)):
        why = f"of {STEPS} steps, {len(steps)} were logged"
    elif missing:
        why = f"fields are missing: {', '.join(missing)}"
    elif unreal:
        why = f"the loss is not finite at steps {unreal}"
    return Finding(
        state="fail" if why else "pass",
        summary=f"{len(logged)} of {STEPS} steps, {len(FIELDS) - len(missing)} of {len(FIELDS)} "
        "fields",
        why=why,
        measured={"steps": len(logged)},
        needed={"steps": STEPS},
    )


@check(
    "metrics.heartbeats",
    remedy="The monitor would take the ranks for dead: look at the run folder's storage.",
    deadline_s=200.0,
    needs_torch=True,
)
def heartbeats(context: Context) -> Finding:
    """Every rank of the small run told of its last step and its end."""
    small = context.small_run()
    beats = small.reference().read_heartbeats()
    done = [r for r, beat in beats.items() if beat.phase == "finished" and beat.step == STEPS]
    silent = sorted(set(range(small.ranks)) - set(done))
    return Finding(
        state="fail" if silent else "pass",
        summary=f"{len(done)} of {count_of(small.ranks, 'rank')} to the end",
        why=f"ranks {silent} have no heartbeat of their end" if silent else "",
        measured={"ranks": len(done)},
        needed={"ranks": small.ranks},
    )


@check(
    "metrics.prometheus",
    severity="advisory",
    remedy="Let processes of this machine connect to 127.0.0.1 (a firewall, or a proxy that "
    "no_proxy does not exempt).",
)
def prometheus(context: Context) -> Finding:
    """Metrics served on 127.0.0.1 can be scraped and read back."""
    registry = CollectorRegistry()
    gauge = Gauge("smolplan_preflight", "Written and read back.", registry=registry)
    gauge.set(context.spec.steps)
    try:
        server, thread = start_http_server(0, "127.0.0.1", registry)
    except OSError as error:
        return Finding(
            state="fail", summary="no port can be opened", why=f"127.0.0.1: {error.strerror}"
        )
    try:
        port = server.server_port
        # As Prometheus does, with no proxy between.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError as error:
        return Finding(
            state="fail", summary="served, but not to be had", why=f"127.0.0.1:{port}: {error}"
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join(2.0)
    values = [s.value for f in text_string_to_metric_families(text) for s in f.samples]
    right = values == [context.spec.steps]
    return Finding(
        state="pass" if right else "fail",
        summary=f"scraped from 127.0.0.1:{port}",
        why="" if right else f"{values} was read where {context.spec.steps} was served",
    )
