"""Keys, what is masked, what workers are not given, https, and the firewall's rules."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clusterctl.agent import paths
from clusterctl.cli.main import cli
from clusterctl.deployment.firewall import FORMATS, Address, NodeRules, Rule, addresses, cluster_rules
from clusterctl.errors import UsageError
from clusterctl.hosts.http import pinned
from clusterctl.inventory.secret_files import API_KEY_PREFIX, api_key
from clusterctl.modes.ray import NOT_CARRIED_PATH
from clusterctl.planning.container import ContainerSpec
from clusterctl.planning.plan import make_plan
from clusterctl.secrets.masking import masked
from clusterctl.ui.render import curl
from tests.unit.support import cluster_facts, container, deployment, inventory, specs, with_containers

# The API key.


def test_a_generated_key_is_new_recognisable_and_fit_for_a_header() -> None:
    one, other = api_key(inventory(), None), api_key(inventory(), None)
    assert one is not None
    assert one != other
    assert re.fullmatch(API_KEY_PREFIX + r"[A-Za-z0-9_-]{43}", one.decode())


def test_clients_keep_the_key_that_the_cluster_has() -> None:
    assert api_key(inventory(), b"cc-old") == b"cc-old"


def test_the_operators_file_wins_and_off_is_off(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n")
    file.chmod(0o600)
    assert api_key(inventory({"serve": {"api_key_file": str(file)}}), b"cc-old") == b"from-file"
    assert api_key(inventory({"serve": {"api_key": "off"}}), b"cc-old") is None


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("k-e-y", 0o644, "readable by others"),
        ("", 0o600, "empty"),
        ("two\nlines", 0o600, "one line"),
        ("ö", 0o600, "ASCII"),
    ],
)
def test_a_file_that_cannot_be_a_key_is_refused_without_showing_it(
    tmp_path: Path, content: str, mode: int, said: str
) -> None:
    file = tmp_path / "key"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(UsageError, match=said) as caught:
        api_key(inventory({"serve": {"api_key_file": str(file)}}), None)
    assert not content or content not in str(caught.value).replace(str(file), "")


def server(spec: ContainerSpec) -> dict[str, Any]:
    return dict(json.loads(spec.files[paths.SERVER_PATH]))


def test_only_the_heads_agent_is_told_of_a_key_and_off_is_a_change() -> None:
    assert server(specs()["gpu1"])["api_key_file"] == paths.API_KEY_PATH
    assert paths.SERVER_PATH not in specs()["gpu2"].files
    off = specs({"serve": {"api_key": "off"}})
    assert server(off["gpu1"])["api_key_file"] is None


def test_the_printed_command_line_asks_for_the_key_and_does_not_hold_it() -> None:
    line = curl("http://10.0.0.1:8000", "m", "clusterctl -i 'my cluster.yaml' api-key")
    assert """-H "Authorization: Bearer $(clusterctl -i 'my cluster.yaml' api-key)" """ in line
    assert "Authorization" not in curl("http://10.0.0.1:8000", "m", None)


# https.

TLS = {"serve": {"options": {"ssl-certfile": "/etc/tls/api.pem", "ssl-keyfile": "/etc/tls/api.key"}}}


def test_a_certificate_makes_the_endpoint_https_and_the_agent_knows_it() -> None:
    assert deployment(TLS).endpoint == "https://10.77.0.11:8000"
    told = server(specs(TLS)["gpu1"])
    assert told["tls"] is True
    assert server(specs()["gpu1"])["tls"] is False


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_what_is_no_certificate_is_trusted_by_nobody(content: bytes) -> None:
    with pytest.raises(ValueError, match="no certificate"):
        pinned(content)


# Workers, plan and record.


def test_secrets_of_the_server_are_not_carried_over_to_workers() -> None:
    changes = {"container": {"env": {"DB_CREDENTIALS": "x", "NCCL_DEBUG": "INFO"}}}
    made = specs(changes)
    names = set(json.loads(made["gpu1"].files[NOT_CARRIED_PATH]))
    assert {"VLLM_API_KEY", "HF_TOKEN", "DB_CREDENTIALS"} <= names
    assert "NCCL_DEBUG" not in names
    root = made["gpu1"].config["environment"]["VLLM_CONFIG_ROOT"]
    assert f"{root}/ray_non_carry_over_env_vars.json" == NOT_CARRIED_PATH


def with_secret(value: str) -> dict[str, Any]:
    return {"container": {"env": {"DB_CREDENTIALS": value, "PLAIN": value[-1]}}}


def plan_of(before: Mapping[str, Any], after: Mapping[str, Any], *, in_the_clear: bool = False) -> Any:
    """The plan from one inventory to another; `in_the_clear`: what runs was recorded by an older version."""
    found = {}
    for name, spec in specs(before).items():
        one = container(spec)
        assert isinstance(one.spec, dict)
        if in_the_clear:
            one.spec["config"]["environment"]["DB_CREDENTIALS"] = before["container"]["env"]["DB_CREDENTIALS"]
        found[name] = (one,)
    return make_plan(deployment(after), with_containers(cluster_facts(), found))


@pytest.mark.parametrize("in_the_clear", [False, True])
def test_a_changed_secret_is_a_change_that_shows_neither(in_the_clear: bool) -> None:
    plan = plan_of(with_secret("hunter2"), with_secret("correct-horse3"), in_the_clear=in_the_clear)
    assert not plan.empty
    text, machine = "\n".join(plan.lines()), json.dumps(plan.to_json())
    assert "config.environment.DB_CREDENTIALS: (secret) -> (secret)" in text
    assert "config.environment.PLAIN: 2 -> 3" in text
    assert '{"path": "config.environment.DB_CREDENTIALS", "old": "(secret)", "new": "(secret)"}' in machine
    for shown in (text, machine):
        assert "hunter2" not in shown
        assert "horse" not in shown
        assert "sha256:" not in shown


def test_an_unchanged_secret_is_none_even_when_an_older_version_recorded_it() -> None:
    plan = plan_of(with_secret("hunter2"), {"container": {"env": {"DB_CREDENTIALS": "hunter2"}}}, in_the_clear=True)
    assert "DB_CREDENTIALS" not in "\n".join(plan.lines())


def test_the_record_and_the_label_hold_a_hash_instead() -> None:
    one, other = specs(with_secret("hunter2"))["gpu1"], specs(with_secret("hunter3"))["gpu1"]
    assert "hunter2" not in json.dumps(one.values())
    assert one.hash != other.hash
    assert one.config["environment"]["DB_CREDENTIALS"] == "hunter2", "the container itself gets it"


def test_masking_is_by_name_at_any_depth() -> None:
    found = masked({"a": {"b-token": "x", "list": [1]}, "TOKEN": None, "n": 3})
    assert json.loads(json.dumps(found)) == {"a": {"b-token": "(secret)", "list": [1]}, "TOKEN": None, "n": 3}
    assert found["a"] == masked({"b-token": "x", "list": [1]})
    assert found["a"] != masked({"b-token": "y", "list": [1]})


# The firewall.


def rules_of(changes: Mapping[str, Any] | None = None, clients: tuple[str, ...] = ()) -> Mapping[str, tuple[Rule, ...]]:
    asked = inventory(changes)
    found = addresses(asked, cluster_facts({"gpu1": None, "gpu2": None}))
    return {n.node: n.rules for n in cluster_rules(asked, found, [IPv4Network(given) for given in clients])}


def verdict(rules: tuple[Rule, ...], source: str, port: int, interface: str = "eth1", protocol: str = "tcp") -> str:
    """What the first rule that matches says; `as it is` when none does."""
    for rule in rules:
        if (
            rule.protocol == protocol
            and (not rule.ports or any(first <= port <= last for first, last in rule.ports))
            and (not rule.sources or any(IPv4Address(source) in network for network in rule.sources))
            and rule.interface in (None, interface)
        ):
            return rule.action
    return "as it is"


@pytest.mark.parametrize("port", [6379, 6384, 8000, 10002, 10999, 40000, 52365, 60999])
def test_our_ports_are_for_the_nodes_only(port: int) -> None:
    head = rules_of()["gpu1"]
    assert verdict(head, "10.77.0.12", port) == "accept"
    assert verdict(head, "10.77.0.99", port) == "drop", "in the private network, and no node"
    assert verdict(head, "10.77.0.12", port, interface="eno1") == "drop", "a node's address on the wrong interface"


def test_ssh_and_what_is_not_ours_stay_as_they_are() -> None:
    for rules in rules_of().values():
        assert verdict(rules, "8.8.4.4", 22) == "accept"
        assert verdict(rules, "8.8.4.4", 443) == "as it is"
        assert verdict(rules, "8.8.4.4", 53, protocol="udp") == "as it is"


def test_clients_reach_the_api_on_the_head_alone() -> None:
    rules = rules_of(clients=("192.0.2.0/24",))
    assert verdict(rules["gpu1"], "192.0.2.7", 8000, "eno1") == "accept"
    assert verdict(rules["gpu1"], "192.0.2.7", 6379, "eno1") == "drop"
    assert verdict(rules["gpu1"], "198.51.100.7", 8000, "eno1") == "drop"
    assert verdict(rules["gpu2"], "192.0.2.7", 8000, "eno1") == "as it is", "nothing of ours listens there"


def test_roce_is_let_through_unless_rdma_is_off() -> None:
    assert verdict(rules_of()["gpu1"], "10.77.0.12", 4791, protocol="udp") == "accept"
    assert verdict(rules_of()["gpu1"], "8.8.4.4", 4791, protocol="udp") == "drop"
    assert verdict(rules_of({"rdma": "off"})["gpu1"], "8.8.4.4", 4791, protocol="udp") == "as it is"


def test_ports_and_ssh_are_those_of_the_inventory() -> None:
    changes = {"serve": {"port": 9000}, "ray": {"ports": {"gcs": 7000}}, "ssh": {"port": 2222}}
    rules = rules_of(changes)["gpu1"]
    assert [verdict(rules, "8.8.4.4", port) for port in (9000, 7000, 2222, 8000, 6379)] == [
        *("drop", "drop", "accept", "as it is", "as it is")
    ]


def test_a_node_alone_has_no_peers_and_closes_all_the_same() -> None:
    asked = inventory({"nodes": [{"name": "gpu1", "host": "a", "address": "10.77.0.11"}]})
    (node,) = cluster_rules(asked, addresses(asked, None), [])
    assert verdict(node.rules, "10.77.0.12", 40000) == "drop"
    assert all(list(write(node)) for write in FORMATS.values())


def test_declared_addresses_do_without_the_nodes_and_others_are_named() -> None:
    declared = inventory({"nodes": [{"name": "gpu1", "host": "a", "address": "10.77.0.11"}]})
    assert addresses(declared, None) == {"gpu1": Address(IPv4Address("10.77.0.11"))}
    with pytest.raises(UsageError, match="gpu1, gpu2"):
        addresses(inventory(), None)


def written(form: str) -> str:
    asked = inventory({"serve": {"executor": "ray"}})
    found = addresses(asked, cluster_facts({"gpu1": None, "gpu2": None}))
    node: NodeRules = cluster_rules(asked, found, [IPv4Network("192.0.2.0/24")])[0]
    return "\n".join(FORMATS[form](node))


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        ("nft", ['iifname "eth1" ip saddr { 10.77.0.12 } meta l4proto tcp accept',
                 "tcp dport { 6379-6384, 8000, 10002-10999, 32768-60999 } counter drop"]),
        ("ufw", ["ufw allow in on eth1 proto tcp from 10.77.0.12 to any comment",
                 "ufw deny proto tcp from any to any port 6379:6384,8000,10002:10999,32768:60999 comment"]),
        ("iptables", ["iptables -w -A CLUSTERCTL -i eth1 -s 10.77.0.12 -p tcp -j ACCEPT",
                      "ip6tables -w -A CLUSTERCTL -p tcp -m multiport --dports 6379:6384,8000,10002:10999"]),
        ("firewalld", ["--zone=clusterctl --add-source=10.77.0.12",
                       'source address="192.0.2.0/24" port port="8000" protocol="tcp" accept']),
        ("text", ["accept tcp, all ports from 10.77.0.12 on eth1", "from anywhere else"]),
    ],
)  # fmt: skip
def test_each_firewalls_own_words(form: str, lines: list[str]) -> None:
    text = written(form)
    assert [line for line in lines if line not in text] == []
    assert text.index(lines[0]) < text.index(lines[1]), "what is let through stands before what is refused"


def test_a_client_that_is_no_network_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(json.dumps({**json.loads(inventory().model_dump_json(exclude_defaults=True)), "version": 1}))
    ran = CliRunner().invoke(cli, ["-i", str(path), "firewall", "--offline", "--clients", "10.0.0.1/24"])
    assert isinstance(ran.exception, UsageError)
    assert "host bits" in ran.exception.message
