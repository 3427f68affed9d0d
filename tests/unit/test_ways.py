"""Which interface a node's processes are told: routes as the kernel has them, in network namespaces of their own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from clusterctl.deployment.environment import network_environments
from clusterctl.deployment.firewall import FORMATS, addresses, cluster_rules
from clusterctl.deployment.way import Way, way_of
from clusterctl.facts import gather, parse, routing, system
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.rules import check
from clusterctl.preflight.network import candidates
from tests.unit.support import cluster_facts, inventory, node_facts

NODES = [{"name": "gpu1", "host": "a"}, {"name": "gpu2", "host": "b"}, {"name": "gpu3", "host": "c"}]
DECLARED = [{**node, "address": f"10.77.0.1{n}"} for n, node in enumerate(NODES, start=1)]


def may_make_namespaces() -> bool:
    making = "mount -t sysfs none /sys && ip link add x type veth peer name y"
    argv = ["unshare", "-rnm", "sh", "-c", making]
    return all(map(shutil.which, ("unshare", "ip"))) and not subprocess.call(argv, stderr=subprocess.DEVNULL)


NAMESPACE = pytest.mark.skipif(not may_make_namespaces(), reason="this login may not make network namespaces")

LINKS = """
ip link set lo up
for i in eth1 eth2; do ip link add $i type veth peer name p$i; ip link set $i up; ip link set p$i up; done
"""
PLAIN = LINKS + "ip addr add 10.77.0.11/24 dev eth1\n"
BGP = LINKS + (
    "ip addr add 10.77.0.11/32 dev lo; ip addr add 172.16.1.1/31 dev eth1; ip addr add 172.16.2.1/31 dev eth2\n"
)
# name → how the network is made, then the interfaces of the route and those that Gloo and NCCL are told.
NETWORKS: Mapping[str, tuple[str, Sequence[str], Sequence[str]]] = {
    "one interface": (PLAIN, ["eth1"], ["eth1"]),
    "on lo": (BGP + "ip route add 10.77.0.0/24 via 172.16.1.0 src 10.77.0.11", ["eth1"], ["eth1"]),
    "on lo, by the default route": (BGP + "ip route add default via 172.16.2.0", ["eth2"], ["eth2"]),
    "on lo, a route for each node": (
        BGP + "for n in 12 13; do ip route add 10.77.0.$n/32 via 172.16.2.0 src 10.77.0.11; done",
        ["eth2"],
        ["eth2"],
    ),
    "on lo, over two interfaces (ECMP)": (
        BGP + "ip route add 10.77.0.0/24 nexthop via 172.16.1.0 nexthop via 172.16.2.0",
        ["eth1", "eth2"],
        ["eth1", "eth2"],
    ),
    "on lo, over two interfaces, one of them down": (
        BGP + "ip route add 10.77.0.0/24 nexthop via 172.16.1.0 nexthop via 172.16.2.0; ip link set eth1 down",
        ["eth2"],
        ["eth2"],
    ),
    "on lo, without an address on the link (BGP unnumbered)": (
        LINKS + "ip addr add 10.77.0.11/32 dev lo; ip route add 10.77.0.0/24 via inet6 fe80::1 dev eth1 src 10.77.0.11",
        ["eth1"],
        ["eth1"],
    ),
    "on lo and on the link": (
        LINKS + "for i in lo eth2; do ip addr add 10.77.0.11/32 dev $i; done; "
        "ip route add 10.77.0.0/24 dev eth2 scope link src 10.77.0.11",
        ["eth2"],
        ["eth2"],
    ),
    "on two links": (
        LINKS + "for i in eth1 eth2; do ip addr add 10.77.0.11/32 dev $i; done; ip route add 10.77.0.0/24 dev eth2",
        ["eth2"],
        ["eth2"],
    ),
    "on a dummy": (
        # A veth without a route stands for it: many kernels have no dummies.
        BGP.replace("dev lo", "dev peth2") + "ip route add 10.77.0.0/24 via 172.16.1.0 src 10.77.0.11",
        ["eth1"],
        ["eth1"],
    ),
    "on a dummy, and none on the link": (
        LINKS + "ip addr add 10.77.0.11/32 dev peth2; ip route add 10.77.0.0/24 dev eth1 src 10.77.0.11",
        ["eth1"],
        ["peth2"],
    ),
    "a rule for the address": (
        BGP + "ip route add 10.77.0.0/24 via 172.16.1.0; ip route add 10.77.0.0/24 via 172.16.2.0 table 7; "
        "ip rule add from 10.77.0.11 lookup 7",
        ["eth2"],
        ["eth2"],
    ),
    "the lower metric": (
        BGP + "ip route add 10.77.0.0/24 via 172.16.1.0 metric 20; ip route add 10.77.0.0/24 via 172.16.2.0 metric 10",
        ["eth2"],
        ["eth2"],
    ),
    "other nodes through other interfaces": (
        PLAIN + "ip addr add 10.77.1.11/24 dev eth2; ip route add 10.77.0.13/32 dev eth2 src 10.77.0.11",
        ["eth1", "eth2"],
        ["eth1", "eth2"],
    ),
}


def read_in(commands: str, arguments: Sequence[str]) -> Mapping[str, parse.Section]:
    """What the probe reads in a network that is made by these commands."""
    # /sys shows the interfaces of the namespace in which it was mounted.
    script = f"set -e\nmount -t sysfs none /sys\n{commands}\nexec sh -s -- /nowhere {' '.join(arguments)}"
    argv = ["unshare", "-rnm", "sh", "-c", script]
    done = subprocess.run(argv, input=gather.PROBE, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return parse.sections(done.stdout.decode())


def facts_in(commands: str, changes: Mapping[str, Any]) -> ClusterFacts:
    """Three good nodes, the first in that network."""
    found = read_in(commands, routing.asked(inventory(changes), "gpu1"))
    base = node_facts(1)
    machine = replace(base.system, interfaces=system.interfaces(found), routes=system.routes(found))
    first = replace(base, addresses=parse.addresses(found), routing=routing.routing(found), system=machine)
    others = {f"gpu{n}": node_facts(n) for n in (2, 3)}
    return ClusterFacts({"gpu1": first, **others}, {})


def the_way(facts: ClusterFacts, changes: Mapping[str, Any]) -> Way:
    way = way_of(inventory(changes), "gpu1", facts)
    assert way is not None
    return way


@NAMESPACE
@pytest.mark.parametrize("nodes", [NODES, DECLARED], ids=["the kernel's tables", "the kernel's answer"])
@pytest.mark.parametrize("case", NETWORKS)
def test_the_interface_is_the_routes(case: str, nodes: Any) -> None:
    commands, through, told = NETWORKS[case]
    changes = {"nodes": nodes}
    facts = facts_in(commands, changes)
    way = the_way(facts, changes)
    assert (sorted(way.interfaces), sorted(way.sockets), str(way.address)) == (through, told, "10.77.0.11")
    asked = inventory(changes)
    environment = network_environments(asked, facts)["gpu1"]
    assert environment["GLOO_SOCKET_IFNAME"] == way.sockets[0]
    assert environment["NCCL_SOCKET_IFNAME"] == f"={','.join(way.sockets)}"
    assert candidates(asked, facts)["gpu1"] == ("10.77.0.11", way.interface), "what is tried is the route's interface"
    (rules, *_) = cluster_rules(asked, addresses(asked, facts), [])
    assert {rule.interface for rule in rules.rules if rule.sources} == set(through)
    assert all("lo" not in (rule.interface or "") for rule in rules.rules)
    assert all(list(write(rules)) for write in FORMATS.values())


@NAMESPACE
def test_a_machine_without_ip_has_the_kernels_own_file(tmp_path: Path) -> None:
    commands, through, _ = NETWORKS["on lo"]
    facts = facts_in(commands, {"nodes": DECLARED})
    without = replace(facts.nodes["gpu1"], routing=None)
    way = the_way(replace(facts, nodes={**facts.nodes, "gpu1": without}), {"nodes": DECLARED})
    assert list(way.interfaces) == through


@NAMESPACE
def test_the_address_on_lo_is_no_mtu_of_65536() -> None:
    facts = facts_in(NETWORKS["on lo"][0], {"nodes": DECLARED})
    interfaces = facts.nodes["gpu1"].system.interfaces
    assert isinstance(interfaces, tuple)
    mtus = {each.name: each.mtu for each in interfaces}
    assert (mtus["lo"], mtus[the_way(facts, {"nodes": DECLARED}).interface]) == (65536, 1500)
    codes = [finding.code for finding in check(inventory({"nodes": DECLARED}), facts)]
    assert "mtu-differs" not in codes
    assert "route-missing" not in codes


@NAMESPACE
def test_no_route_is_said_and_not_guessed() -> None:
    commands = BGP + "ip route add unreachable 10.77.0.12/32; ip route add 10.77.0.13/32 via 172.16.1.0"
    for nodes in (NODES, DECLARED):
        facts = facts_in(commands, {"nodes": nodes})
        found = [each for each in check(inventory({"nodes": nodes}), facts) if each.code == "route-missing"]
        assert [each.nodes for each in found] == [("gpu1",)]
        assert "to gpu2" in found[0].seen
        assert the_way(facts, {"nodes": nodes}).interfaces == ("eth1",)


def test_one_node_asks_for_no_route() -> None:
    asked = inventory({"nodes": [{"name": "gpu1", "host": "a", "address": "10.77.0.11"}]})
    assert routing.asked(asked, "gpu1") == ()
    assert routing.routing({"routes_to_peers": parse.Section("", parse.ABSENT)}) is None


def test_of_many_nodes_only_some_are_asked_for() -> None:
    nodes = [{"name": f"n{i}", "host": f"h{i}", "address": f"10.77.0.{i}"} for i in range(1, 151)]
    asked = routing.asked(inventory({"nodes": nodes}), "n150")
    assert (asked[:3], len(asked)) == (("10.77.0.0/24", "10.77.0.150", "10.77.0.1"), 2 + routing.ASKED_FOR)


def test_an_address_on_lo_without_a_known_route_gives_rules_for_no_interface() -> None:
    facts = cluster_facts({"gpu1": {"addresses": {"127.0.0.1": "lo", "10.77.0.11": "lo"}}})
    one, two = cluster_rules(inventory(), addresses(inventory(), facts), [])
    assert {rule.interface for rule in one.rules} == {None}
    assert {rule.interface for rule in two.rules if rule.sources} == {"eth1"}


@pytest.mark.parametrize(
    "line",
    [
        "get\t10.77.0.12\t", "get\tnonsense\t10.77.0.12 dev eth1", "match\t10.77.0.12\t", "route\t", "route\tlocal",
        "rule\t", "rule\t0:", "rule\t5: from all", "rule\t5: from x lookup 7",
        "rule\t5: not from all fwmark 0x1 lookup 7",
        "route\t10.77.0.0/24 dev", "route\t10.77.0.0/99 dev eth1", "route\t10.77.0.0/24 dev eth1 metric", "x\ty",
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_read_says_nothing(line: str) -> None:
    good = "route\t10.77.0.0/24 dev eth1 scope link"
    read = routing.routing({"routes_to_peers": parse.Section(f"{line}\n{good}", 0)})
    assert isinstance(read, routing.Routing)
    answer = read.to(IPv4Address("10.77.0.12"), IPv4Address("10.77.0.11"))
    assert answer == routing.Answer(("eth1",))


@pytest.mark.parametrize(
    ("rule", "interface"),
    [
        ("5: from 10.77.0.11 lookup 7", "eth7"),
        ("5: from 10.77.0.99 lookup 7", "eth1"),
        ("5: from all to 10.77.0.12 lookup 7", "eth7"),
        ("5: from all fwmark 0x1 lookup 7", "eth1"),
        ("5: from all iif eth3 lookup 7", "eth1"),
        ("1000: from all lookup [l3mdev-table]", "eth1"),
        ("5: from all lookup 7 suppress_prefixlength 0", "eth1"),
        ("5: from all lookup 8", "eth1"),
    ],
)
def test_rules_are_followed_as_the_kernel_does(rule: str, interface: str) -> None:
    lines = [
        f"rule\t{rule}",
        "rule\t32766: from all lookup main",
        "route\tdefault via 172.16.7.0 dev eth7 table 7",
        "route\tthrow default table 8",
        "route\t10.77.0.0/24 via 172.16.1.0 dev eth1",
    ]
    read = routing.routing({"routes_to_peers": parse.Section("\n".join(lines), 0)})
    assert isinstance(read, routing.Routing)
    answer = read.to(IPv4Address("10.77.0.12"), IPv4Address("10.77.0.11"))
    # An empty suppress_prefixlength 0 leaves out default routes, as wg-quick's rule does.
    assert answer == routing.Answer((interface,))
