"""Which hosts a spec means."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.hosts.inventory import inventory
from launcher.hosts.patterns import expand, fold
from smolplan.errors import UserError
from smolplan.spec import RunSpec
from smolplan.spec.launch import KubernetesSpec, SshSpec
from tests.support import make_spec


def spec_with(tmp_path: Path, **launch: Any) -> RunSpec:
    spec = make_spec(tmp_path)
    return spec.model_copy(update={"launch": spec.launch.model_copy(update=launch)})


def names(spec: RunSpec, **environ: str) -> list[str]:
    return [host.name for host in inventory(spec, environ)]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("gpu1", ["gpu1"]),
        ("gpu[08-11]", ["gpu08", "gpu09", "gpu10", "gpu11"]),
        ("a[1-3,7]-b", ["a1-b", "a2-b", "a3-b", "a7-b"]),
        ("r[1-2]n[3,4]", ["r1n3", "r1n4", "r2n3", "r2n4"]),
        ("n[9-10]", ["n9", "n10"]),
        ("10.0.0.[1-2]", ["10.0.0.1", "10.0.0.2"]),
    ],
)
def test_patterns_stand_for_the_hosts_that_slurm_reads_in_them(
    pattern: str, wanted: list[str]
) -> None:
    assert expand(pattern) == wanted


def test_names_are_folded_for_people() -> None:
    assert fold(["gpu08", "gpu09", "gpu10", "gpu12", "login", "a1-b", "a2-b"]) == (
        "gpu[08-10,12],login,a[1-2]-b"
    )


@pytest.mark.parametrize(
    "pattern",
    ["gpu[1-", "gpu]1[", "gpu[]", "gpu[a-b]", "gpu[9-1]", "n[1-999999999]", "a,b", "n[[1]]"],
)
def test_what_is_no_pattern_is_named_with_its_field(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UserError, match=r"launch\.hosts: ") as caught:
        inventory(spec_with(tmp_path, backend="ssh", hosts=(pattern,)), {})
    assert repr(pattern) in caught.value.what and caught.value.remedy


def test_hosts_come_from_names_patterns_and_aliases_of_an_ssh_config(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host gpu2 gpu1\n  Port 7\nHost *\n  User x\nHost other\n")
    ssh = SshSpec(config=config)
    spec = spec_with(tmp_path, backend="ssh", hosts=("a[1-2]", "gpu*"), ssh=ssh)
    assert names(spec) == ["a1", "a2", "gpu1", "gpu2"]
    with pytest.raises(UserError, match=r"like 'tpu\*'; it names gpu1, gpu2, other"):
        names(spec_with(tmp_path, backend="ssh", hosts=("tpu*",), ssh=ssh))


def test_one_machine_is_one_host_and_none_or_the_same_twice_is_a_mistake(tmp_path: Path) -> None:
    assert names(spec_with(tmp_path)) == ["local"]
    with pytest.raises(UserError, match=r"launch\.hosts: no hosts are named"):
        names(spec_with(tmp_path, backend="ssh"))
    with pytest.raises(UserError, match="a2 is named more than once"):
        names(spec_with(tmp_path, backend="ssh", hosts=("a[1-2]", "a2")))


def put_command(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_an_allocation_is_read_by_slurms_own_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_with(tmp_path, backend="ssh")
    put_command(tmp_path / "bin", "scontrol", 'echo "$1 $2 $3" > "$0.asked"; echo n1; echo n2')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    assert names(spec, SLURM_JOB_NODELIST="n[1-2]") == ["n1", "n2"]
    assert (tmp_path / "bin/scontrol.asked").read_text() == "show hostnames n[1-2]\n"
    put_command(tmp_path / "bin", "scontrol", "echo Invalid hostlist >&2; exit 1")
    with pytest.raises(UserError, match=r"SLURM_JOB_NODELIST 'n\[' cannot be read: Invalid"):
        names(spec, SLURM_JOB_NODELIST="n[")


def node(name: str, *, ready: str = "True", cordoned: bool = False) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"unschedulable": cordoned},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "addresses": [{"type": "InternalIP", "address": f"10.0.0.{len(name)}"}],
        },
    }


def test_nodes_of_kubernetes_are_those_with_the_labels_that_take_pods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"pool": "$(touch INJECTED)", "gpu": "h100"}
    kubernetes = KubernetesSpec(image="x", node_selector=labels, context="lab")
    spec = spec_with(tmp_path, backend="kubernetes", kubernetes=kubernetes)
    told = {"items": [node("a"), node("bb", ready="Unknown"), node("ccc", cordoned=True)]}
    (tmp_path / "nodes.json").write_text(json.dumps(told))
    put_command(tmp_path / "bin", "kubectl", f'echo "$@" > "$0.asked"; cat "{tmp_path}/nodes.json"')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    (host,) = inventory(spec, {})
    assert (host.name, host.address) == ("a", "10.0.0.1")
    assert (tmp_path / "bin/kubectl.asked").read_text() == (
        "get nodes --output=json --selector=pool=$(touch INJECTED),gpu=h100 --context=lab\n"
    )
    (tmp_path / "nodes.json").write_text('{"items": []}')
    with pytest.raises(UserError, match="there are none"):
        inventory(spec, {})
    put_command(tmp_path / "bin", "kubectl", "echo no server >&2; exit 1")
    with pytest.raises(UserError, match="kubectl: no server"):
        inventory(spec, {})
