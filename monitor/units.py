"""The daemon as a service: a systemd unit, a Slurm job, a Kubernetes Deployment."""

import getpass
import shlex
import sys
from pathlib import Path
from typing import Any

from launcher.kubernetes.manifest import to_yaml
from smolplan.errors import UserError
from smolplan.spec import RunSpec

WATCHDOG_S = 120
"""The loop goes round every 2 s; a full disk or a store that others hold keeps it for 32 s."""


def systemd_unit(state: Path, user: str = "") -> str:
    """`user`: as whom it runs; the one who asks, unless given."""
    command = " ".join(_quoted(word) for word in (sys.executable, "-P", "-m", "monitor"))
    return f"""# /etc/systemd/system/smolplan-monitor.service
[Unit]
Description=smolplan monitor
Documentation=man:systemd.service(5)
After=network-online.target remote-fs.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command}
Environment={_quoted(f"SMOLPLAN_STATE={state}")}
User={user or getpass.getuser()}
Restart=always
RestartSec=5
WatchdogSec={WATCHDOG_S}
TimeoutStopSec=30
# Ranks that it started on this machine go on while it is replaced.
KillMode=process
# They inherit what follows, so nothing that a GPU or a compiler needs is taken away.
NoNewPrivileges=yes
ProtectSystem=full
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=multi-user.target
"""


def _quoted(word: str) -> str:
    """As systemd.syntax(7) reads it: % and $ would stand for something."""
    if any(ord(sign) < 32 for sign in word):
        raise UserError(f"{word!r} cannot be put into a unit", remedy="Use a path in one line.")
    plain = word.replace("%", "%%").replace("$", "$$").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain}"'


def slurm_script(state: Path) -> str:
    """For sbatch: a job that is queued again when its node fails."""
    command = shlex.join([sys.executable, "-P", "-m", "monitor"])
    return f"""#!/bin/sh
#SBATCH --job-name=smolplan-monitor
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --requeue
#SBATCH --open-mode=append
# Add --partition and --time (the longest that there is: the job that follows takes the runs up).
# The record is an SQLite file: keep the job, and whoever launches, on one node (--nodelist).
# What this job is must not become a part of the jobs that it submits.
for name in $(env | sed -n 's/^\\(SLURM_[A-Za-z0-9_]*\\)=.*/\\1/p' | grep -vx SLURM_CONF); do
    unset "$name"
done
export SMOLPLAN_STATE={shlex.quote(str(state))}
exec {command}
"""


def kubernetes_deployment(spec: RunSpec, state: Path) -> str:
    """With the image, volumes and service account of a spec's launch.kubernetes. Raises
    UserError."""
    settings = spec.launch.kubernetes
    if settings is None:
        raise UserError(
            "the spec has no launch.kubernetes, which names image and volumes",
            where="launch.kubernetes",
            remedy="Give a spec whose launch.backend is kubernetes.",
        )
    if not any(state.is_relative_to(volume.path) for volume in settings.volumes):
        raise UserError(
            f"{state} is on none of launch.kubernetes.volumes: the record would go with the pod",
            where="--state",
            remedy="Name a folder on one of them, which only this pod uses.",
        )
    labels = {"app.kubernetes.io/name": "smolplan-monitor"}
    pod: dict[str, Any] = {
        "containers": [
            {
                "name": "monitor",
                "image": settings.image,
                "command": [str(spec.launch.python or "python"), "-P", "-m", "monitor"],
                "env": [{"name": "SMOLPLAN_STATE", "value": str(state)}],
                "resources": {"requests": {"cpu": "1", "memory": "2Gi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": f"volume-{i}", "mountPath": volume.path}
                    for i, volume in enumerate(settings.volumes)
                ],
            }
        ],
        "volumes": [
            {"name": f"volume-{i}", "persistentVolumeClaim": {"claimName": volume.claim}}
            for i, volume in enumerate(settings.volumes)
        ],
        "terminationGracePeriodSeconds": 30,
    }
    if settings.service_account:
        pod["serviceAccountName"] = settings.service_account
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "smolplan-monitor",
            "namespace": settings.namespace,
            "labels": labels,
        },
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    return to_yaml([deployment])
