"""SSH against real servers on loopback: keys, host keys, jump hosts, and what is said when they
are not as they should be."""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.hosts.fleet import Fleet, fleet_of
from launcher.hosts.host import Host, Trouble
from launcher.hosts.ssh_config import SshSettings
from smolplan.errors import UserError
from smolplan.spec.launch import SshSpec
from tests.lab.sshd import MISSING, SshLab, SshServer, await_port, loopback, make_key
from tests.launcher.hosts.test_fleet import NASTY
from tests.support import make_spec

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshLab]:
    with loopback(tmp_path_factory.mktemp("lab"), 3) as made:
        yield made


def open_fleet(lab: SshLab, cache: Path, *hosts: str | Host, **ssh: Any) -> Fleet:
    spec = make_spec(cache)
    launch = spec.launch.model_copy(
        update={
            "backend": "ssh",
            "ssh": lab.spec(**{"connect_timeout_s": 10, **ssh}),
            "cache": cache,
            "python": Path(sys.executable),
        }
    )
    named = [Host(host) if isinstance(host, str) else host for host in hosts]
    return fleet_of(spec.model_copy(update={"launch": launch}), named)


def trouble(lab: SshLab, cache: Path, host: str | Host = "node1", **ssh: Any) -> Trouble:
    with open_fleet(lab, cache, host, **ssh) as fleet:
        (answer,) = fleet.call("ping", timeout_s=20.0).values()
    assert isinstance(answer, Trouble), answer
    return answer


def test_hosts_of_an_ssh_config_answer_and_arguments_reach_them_unharmed(
    lab: SshLab, cache: Path, tmp_path: Path
) -> None:
    program = "import os, sys; print(ascii([sys.argv[1:], os.environ['V'], sys.stdin.read()]))"
    arguments = {
        "argv": ["-X", "utf8", "-c", program, *NASTY],
        "env": {"V": "".join(NASTY), "PYTHONIOENCODING": "utf-8:surrogateescape"},
        "stdin": "".join(NASTY),
        "cwd": str(tmp_path),
        "python": True,
    }
    with open_fleet(lab, cache, *lab.names) as fleet:
        answers = fleet.call("run", arguments, timeout_s=20.0)
    for answer in answers.values():
        assert isinstance(answer, dict), answer
        assert answer["stdout"].strip() == ascii([NASTY, "".join(NASTY), "".join(NASTY)])
    assert list(tmp_path.iterdir()) == []


def test_a_python_whose_path_needs_quotes_is_started_and_a_missing_one_is_named(
    lab: SshLab, cache: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "it's $(touch INJECTED) python"
    odd.symlink_to(sys.executable)
    with Fleet(
        [Host("node1")], open_fleet(lab, cache)._open, python=str(odd), cache=str(cache)
    ) as fleet:
        assert isinstance(fleet.call("ping", timeout_s=20.0)["node1"], dict)
    with Fleet(
        [Host("node1")], open_fleet(lab, cache)._open, python="/no/$(x) python", cache=str(cache)
    ) as fleet:
        missing = fleet.call("ping", timeout_s=20.0)["node1"]
    assert isinstance(missing, Trouble)
    assert missing.kind == "no_python" and "/no/$(x) python" in missing.message
    assert "launch.python" in missing.remedy
    assert list(tmp_path.iterdir()) == [odd]


def test_an_unknown_host_key_is_refused_until_the_command_that_is_named_has_been_run(
    lab: SshLab, cache: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "known hosts"
    refused = trouble(lab, cache, known_hosts=str(empty))
    assert refused.kind == "host_key"
    shown = subprocess.run(
        ["ssh-keygen", "-lf", f"{lab.servers[0].host_key}.pub"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[1]
    assert shown.startswith("SHA256:") and shown in refused.message
    command = refused.remedy.partition("accept it: ")[2]
    assert command.startswith(f"ssh-keyscan -p {lab.servers[0].port} -t ed25519 127.77.")
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    with open_fleet(lab, cache, "node1", known_hosts=str(empty)) as fleet:
        assert isinstance(fleet.call("ping", timeout_s=20.0)["node1"], dict)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(empty)], check=True, capture_output=True)
    assert empty.read_text().startswith("|1|")
    with open_fleet(lab, cache, "node1", known_hosts=str(empty)) as fleet:
        assert isinstance(fleet.call("ping", timeout_s=20.0)["node1"], dict), "hashed names"


def test_a_changed_host_key_is_refused_louder_and_a_revoked_one_for_good(
    lab: SshLab, cache: Path, tmp_path: Path
) -> None:
    known = tmp_path / "known"
    first, second = lab.servers[:2]
    name, *_ = first.known_line().split()
    _, *other = second.known_line().split()
    known.write_text(f"# a remark\n{name} {' '.join(other)}\n")
    changed = trouble(lab, cache, known_hosts=str(known))
    assert changed.kind == "host_key" and "HAS CHANGED" in changed.message
    assert f"{known}:2" in changed.message
    assert f"ssh-keygen -R {shlex.quote(name)} -f {known}" in changed.remedy
    known.write_text(f"{first.known_line()}@revoked {first.known_line()}")
    assert "is revoked" in trouble(lab, cache, known_hosts=str(known)).message


def test_a_wrong_user_or_key_is_told_with_what_was_offered(
    lab: SshLab, cache: Path, tmp_path: Path
) -> None:
    assert "for user nobody" in trouble(lab, cache, user="nobody").message
    make_key(tmp_path / "other", "other")
    lab.config.with_name("other_config").write_text(
        lab.config.read_text().replace(f"IdentityFile {lab.key}", f"IdentityFile {tmp_path}/other")
    )
    refused = trouble(lab, cache, config=str(lab.config.with_name("other_config")))
    assert refused.kind == "refused" and f"offered: {tmp_path}/other" in refused.message
    assert "authorized_keys" in refused.remedy


def test_a_key_with_a_passphrase_is_taken_from_an_agent(
    lab: SshLab, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "locked"
    for end in ("", ".pub"):
        (tmp_path / f"locked{end}").write_bytes(Path(f"{lab.key}{end}").read_bytes())
    key.chmod(0o600)
    agent = subprocess.run(
        ["ssh-agent", "-s", "-a", str(tmp_path / "s")], capture_output=True, text=True, check=True
    ).stdout
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "s"))
        subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)
        change = ["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(key)]
        subprocess.run(change, check=True, capture_output=True)
        config = tmp_path / "config"
        config.write_text(lab.config.read_text().replace(str(lab.key), str(key)))
        with open_fleet(lab, cache, "node1", config=str(config)) as fleet:
            assert isinstance(fleet.call("ping", timeout_s=20.0)["node1"], dict)
        monkeypatch.delenv("SSH_AUTH_SOCK")
        assert "it has a passphrase" in trouble(lab, cache, config=str(config)).message
    finally:
        os.kill(int(agent.partition("SSH_AGENT_PID=")[2].partition(";")[0]), 15)


def test_a_dead_port_and_an_unknown_name_are_told_apart(lab: SshLab, cache: Path) -> None:
    dead = trouble(lab, cache, Host("node1", port=1))
    assert (dead.kind, dead.message) == ("unreachable", "nothing listens on 127.77.0.2:1")
    unknown = trouble(lab, cache, Host("nowhere", address="no-such-host.invalid"))
    assert unknown.kind == "unreachable" and "is not known" in unknown.message


def test_jump_hosts_lead_to_their_targets_and_share_one_connection(
    lab: SshLab, cache: Path, tmp_path: Path
) -> None:
    jump = lab.servers[2]
    lines = jump.log().count("Accepted publickey")
    with open_fleet(lab, cache, "node1", "node2", jump="node3") as fleet:
        answers = fleet.call("ping", timeout_s=20.0)
    assert all(isinstance(answer, dict) for answer in answers.values()), answers
    assert jump.log().count("Accepted publickey") == lines + 1
    two = trouble(lab, cache, Host("x", address="127.77.0.9", port=9), jump="node3,node2")
    assert two.kind == "unreachable" and "from jump host node2" in two.message
    only_jump = tmp_path / "known"
    only_jump.write_text(jump.known_line())
    behind = trouble(lab, cache, jump="node3", known_hosts=str(only_jump))
    port = lab.servers[0].port
    assert f"ssh node3 'ssh-keyscan -p {port} -t ed25519 127.77.0.2' >> " in behind.remedy


def test_what_stands_in_the_ssh_config_is_followed_and_the_spec_has_the_last_word(
    tmp_path: Path,
) -> None:
    (tmp_path / "more").write_text("Host gpu*\n  Port 2222\n  User trainer\n")
    config = tmp_path / "config"
    config.write_text(
        f"Include {tmp_path}/more\nUserKnownHostsFile /a /b\n"
        "Host gpu1\n  HostName 10.0.0.1\n  ProxyJump admin@gate:2200\n  IdentityFile /k\n"
        "Host odd\n  ProxyCommand nc %h %p\n"
    )
    settings = SshSettings(SshSpec(config=config))
    target = settings.target(Host("gpu1"))
    assert (target.address, target.port, target.user) == ("10.0.0.1", 2222, "trainer")
    assert target.jumps == ("admin@gate:2200",) and target.keys == (Path("/k"),)
    assert target.known_hosts[:2] == (Path("/a"), Path("/b"))
    gate = settings.jump_target("admin@gate:2200")
    assert (gate.user, gate.address, gate.port, gate.jumps) == ("admin", "gate", 2200, ())
    with pytest.raises(UserError, match="ProxyJump"):
        settings.target(Host("odd"))
    spec = SshSpec(config=config, user="me", port=22, jump="none", key=Path("/mine"))
    target = SshSettings(spec).target(Host("gpu1"))
    assert (target.port, target.user, target.jumps) == (22, "me", ())
    assert target.keys == (Path("/mine"), Path("/k"))
    with pytest.raises(UserError, match=r"launch\.ssh\.config"):
        SshSettings(SshSpec(config=tmp_path / "none"))


def test_a_server_that_never_answers_costs_the_connect_timeout(
    lab: SshLab, cache: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent = Host("mute", address="127.0.0.1", port=mute.getsockname()[1])
        with open_fleet(lab, cache, silent, "node1", connect_timeout_s=1) as fleet:
            answers = fleet.call("ping", timeout_s=20.0)
    mute_answer = answers["mute"]
    assert isinstance(mute_answer, Trouble) and mute_answer.kind == "unreachable"
    assert "no SSH session within 1 s" in mute_answer.message


def test_a_server_whose_sessions_are_killed_is_told_of_and_reached_again(
    lab: SshLab, cache: Path, tmp_path: Path
) -> None:
    with loopback(tmp_path, 1) as own, open_fleet(own, cache, "node1") as fleet:
        assert isinstance(fleet.call("ping", timeout_s=20.0)["node1"], dict)
        server: SshServer = own.servers[0]
        server.stop()
        gone = fleet.call("ping", timeout_s=5.0)["node1"]
        assert isinstance(gone, Trouble) and gone.kind == "unreachable"
        server.start()
        await_port(server.address, server.port)
        assert isinstance(fleet.call("ping", timeout_s=20.0)["node1"], dict)
