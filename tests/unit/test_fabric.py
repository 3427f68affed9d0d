"""Which interface and which RDMA ports a node's processes are told: from what the probe reads to the environment.

Routes are read by the probe in network namespaces of their own, as the kernel has them. RDMA devices are trees as sysfs
has them (no real ones could be captured): names, files and values as in public reports of such machines.
"""

from __future__ import annotations

import os
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
from clusterctl.deployment.rdma import devices_passed, ports_of_network
from clusterctl.deployment.way import Way, way_of
from clusterctl.facts import gather, parse, rdma, routing, system
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.rules import check
from clusterctl.preflight.network import candidates
from clusterctl.ui.network import network_json, network_lines
from tests.unit.support import cluster_facts, inventory, node_facts
from tests.unit.test_rdma import tree

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


# RDMA.


def port(layer: str, net: str | None, *, rate: str = "400 Gb/sec (4X NDR)", **more: str) -> dict[str, str]:
    """One device with one port, as sysfs has it."""
    files = {
        "node_type": "1: CA",
        "ports/1/state": "4: ACTIVE",
        "ports/1/phys_state": "5: LinkUp",
        "ports/1/link_layer": layer,
        "ports/1/rate": rate,
        "ports/1/lid": "0x0",
        "ports/1/sm_lid": "0x0",
    }
    if net is not None:
        files[f"device/net/{net}/dev_port"] = "0"
    return {**files, **more}


def roce(net: str, address: str = "", *, gid_of: str = "", **more: str) -> dict[str, str]:
    if not address:
        return port("Ethernet", net, **more)
    word = "".join(f"{int(byte):02x}" for byte in address.split("."))
    gid = {
        "ports/1/gids/3": f"0000:0000:0000:0000:0000:ffff:{word[:4]}:{word[4:]}",
        "ports/1/gid_attrs/types/3": "RoCE v2",
        "ports/1/gid_attrs/ndevs/3": gid_of or net,
    }
    return port("Ethernet", net, **gid, **more)


def ib(
    net: str | None, lid: int, sm_lid: int = 1, *, prefix: str = "fe80:0000:0000:0000", **more: str
) -> dict[str, str]:
    own = {
        "ports/1/lid": hex(lid),
        "ports/1/sm_lid": hex(sm_lid),
        "ports/1/gids/0": f"{prefix}:cc40:f303:0027:{lid:04x}",
    }
    return port("InfiniBand", net, **own, **more)


def seen(root: Path, devices: Mapping[str, Mapping[str, str]]) -> Any:
    """The ports of a tree, as the probe reads them."""
    tree(root, devices)
    environment = {**os.environ, "CLUSTERCTL_ROOT": str(root)}
    argv = ["sh", "-s", "--", "/nowhere"]
    done = subprocess.run(argv, input=gather.PROBE, capture_output=True, env=environment, check=False, timeout=60)
    return rdma.rdma(parse.sections(done.stdout.decode()))


RAILS = {f"mlx5_{n}": f"gpu{n}rail" for n in range(8)}


def hgx_b200(number: int, *, root: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Eight RoCE rails, a subnet each, and four functions that manage the NVSwitches (siderolabs/extensions#893)."""
    own = {f"10.77.{n}.1{number}": net for n, net in enumerate(RAILS.values())}
    rails = {name: roce(net, address) for (name, net), address in zip(RAILS.items(), own, strict=True)}
    vpd: dict[str, Any] = {"device/vpd": "NVIDIA NVSwitch\x00\x01SMDL=SW_MNG"} if root else {}
    switches = {f"mlx5_{8 + n}": ib(f"ibp{n}s0", lid=n + 1, **vpd) for n in range(4)}
    return {**rails, **switches}, {**own, f"192.0.2.1{number}": "eno1"}


# name → devices and addresses of each of two nodes, the inventory's changes; the devices used on gpu1, and what the
# reason of those left out says.
Case = tuple[Sequence[tuple[Mapping[str, Any], Mapping[str, str]]], Mapping[str, Any], list[str], Mapping[str, str]]
WIDE = {
    "network": {"cidr": "10.77.0.0/16"},
    "nodes": [{**n, "address": f"10.77.0.1{i}"} for i, n in enumerate(NODES[:2], 1)],
}


def both(make: Any) -> Sequence[Any]:
    return [make(1), make(2)]


CASES: Mapping[str, Case] = {
    "HGX B200, read by root": (both(lambda n: hgx_b200(n, root=True)), WIDE, list(RAILS), {"mlx5_10": "NVSwitches"}),
    "HGX B200, read by another login": (
        both(lambda n: hgx_b200(n, root=False)), WIDE, list(RAILS), {"mlx5_10": "LID 3"},
    ),
    "HGX B200, only the first rail in network.cidr": (
        both(lambda n: hgx_b200(n, root=True)),
        {},
        ["mlx5_0"],
        {"mlx5_1": "its network is not the private one", "mlx5_8": "NVSwitches"},
    ),
    "eight InfiniBand ports without an address, the network on a RoCE card": (
        both(lambda n: (
            {**{f"mlx5_{i}": ib(f"ib{i}", lid=n * 16 + i) for i in range(8)},
             "mlx5_8": roce("eth1", f"10.77.0.1{n}", rate="25 Gb/sec (1X EDR)"),
             "mlx5_9": ib("ib9", lid=n * 16 + 9, rate="100 Gb/sec (4X EDR)")},
            {f"10.77.0.1{n}": "eth1"},
        )),
        {},
        [f"mlx5_{i}" for i in range(8)],
        {"mlx5_8": "Ethernet, and InfiniBand is used", "mlx5_9": "slower: 100 Gb/sec"},
    ),
    "the network on an IPoIB child interface": (
        both(lambda n: (
            {"mlx5_0": ib("ib0.8001", lid=n), "mlx5_1": ib("ib1", lid=n + 16)}, {f"10.77.0.1{n}": "ib0.8001"}
        )),
        {},
        ["mlx5_0", "mlx5_1"],
        {},
    ),
    "InfiniBand rails whose LIDs another node's NVSwitches have, too": (
        both(lambda n: (
            {"mlx5_0": ib("ib0", lid=n), "mlx5_8": ib("ibp0s0", lid=1), "mlx5_9": ib("ibp1s0", lid=2)},
            {f"10.77.0.1{n}": "eth1"},
        )),
        {},
        ["mlx5_0"],
        {"mlx5_8": "LID 1", "mlx5_9": "LID 2"},
    ),
    "two InfiniBand fabrics, one of them this node's alone": (
        both(lambda n: (
            {"mlx5_0": ib("ib0", lid=n, sm_lid=9), "mlx5_1": ib("ib1", lid=n, sm_lid=n + 40)}, {f"10.77.0.1{n}": "eth1"}
        )),
        {},
        ["mlx5_0"],
        {"mlx5_1": "no other node has a port in its InfiniBand subnet"},
    ),
    "two InfiniBand fabrics by their prefix": (
        both(lambda n: (
            {"mlx5_0": ib("ib0", lid=n, prefix="fec0:0000:0000:0001"),
             "mlx5_1": ib("ib1", lid=n, prefix=f"fec0:0000:0000:000{n + 4}")},
            {f"10.77.0.1{n}": "eth1"},
        )),
        {},
        ["mlx5_0"],
        {"mlx5_1": "no other node"},
    ),
    "a Mellanox card for ssh, with the default route": (
        both(lambda n: (
            {"mlx5_0": roce("eno1", f"192.0.2.1{n}", rate="25 Gb/sec (1X EDR)")},
            {f"10.77.0.1{n}": "eth1", f"192.0.2.1{n}": "eno1"},
        )),
        {},
        [],
        {"mlx5_0": "its network (192.0.2.0/24) is not the private one"},
    ),
    "rails with subnets of their own, the network on a card without RDMA": (
        both(lambda n: (
            {**{f"mlx5_{i}": roce(f"rail{i}", f"10.80.{i}.1{n}") for i in range(2)},
             "mlx5_2": roce("eno1", f"192.0.2.1{n}", rate="25 Gb/sec (1X EDR)")},
            {f"10.77.0.1{n}": "eth1", f"192.0.2.1{n}": "eno1", **{f"10.80.{i}.1{n}": f"rail{i}" for i in range(2)}},
        )),
        {},
        ["mlx5_0", "mlx5_1"],
        {"mlx5_2": "is not the private one"},
    ),
    "several rails in the private network": (
        both(lambda n: (
            {f"mlx5_{i}": roce(f"rail{i}", f"10.77.0.{i}{n}") for i in range(1, 4)},
            {f"10.77.0.{i}{n}": f"rail{i}" for i in range(1, 4)},
        )),
        {"nodes": [{**node, "address": f"10.77.0.1{n}"} for n, node in enumerate(NODES[:2], 1)]},
        ["mlx5_1", "mlx5_2", "mlx5_3"],
        {},
    ),
    "a bond as one device, a VLAN on it": (
        both(lambda n: (
            {"mlx5_bond_0": roce("ens1f0np0", f"10.77.0.1{n}", gid_of="bond0.100"), "mlx5_2": roce("ens2np0")},
            {f"10.77.0.1{n}": "bond0.100"},
        )),
        {},
        ["mlx5_bond_0"],
        {"mlx5_2": "its network (none)"},
    ),
    "a bond of two cards without a bond's GID": (
        both(lambda n: (
            {"mlx5_0": roce("ens1np0"), "mlx5_1": roce("ens2np0"), "mlx5_2": roce("ens3np0")},
            {f"10.77.0.1{n}": "bond0"},
        )),
        {},
        ["mlx5_0", "mlx5_1"],
        {"mlx5_2": "is not the private one"},
    ),
    "virtual functions beside their adapter": (
        both(lambda n: (
            {"mlx5_0": ib("ib0", lid=n),
             **{f"mlx5_{i}": {**ib(f"ib0v{i}", lid=n), "device/physfn/vendor": "x"} for i in (1, 2)}},
            {f"10.77.0.1{n}": "ib0"},
        )),
        {},
        ["mlx5_0"],
        {"mlx5_1": "virtual function", "mlx5_2": "virtual function"},
    ),
    "a virtual function that has the address": (
        both(lambda n: (
            {"mlx5_0": roce("ens1np0"), "mlx5_1": roce("ens1v0", f"10.77.0.1{n}", **{"device/physfn/vendor": "x"})},
            {f"10.77.0.1{n}": "ens1v0"},
        )),
        {},
        ["mlx5_1"],
        {},
    ),
    "bnxt_re, irdma with RoCE, and irdma with iWARP": (
        both(lambda n: (
            {"bnxt_re0": roce("ens5np0", f"10.77.0.1{n}"), "irdma0": roce("ens6", f"10.77.0.2{n}"),
             "irdma1": {**roce("ens7", f"10.77.0.3{n}"), "node_type": "4: RNIC"}},
            {f"10.77.0.1{n}": "ens5np0", f"10.77.0.2{n}": "ens6", f"10.77.0.3{n}": "ens7"},
        )),
        {"nodes": [{**node, "address": f"10.77.0.1{n}"} for n, node in enumerate(NODES[:2], 1)]},
        ["bnxt_re0", "irdma0"],
        {"irdma1": "iWARP"},
    ),
    "RDMA in software": (
        both(lambda n: (
            {"rxe0": {**roce("eth1", f"10.77.0.1{n}"), "parent": "eth1"},
             "siw0": {**port("Ethernet", None), "node_type": "4: RNIC", "parent": "eth1"}},
            {f"10.77.0.1{n}": "eth1"},
        )),
        {},
        [],
        {"rxe0": "in software", "siw0": "iWARP"},
    ),
    "ports that are down or wait for a subnet manager": (
        both(lambda n: (
            {"mlx5_0": ib("ib0", lid=n), "mlx5_1": {**ib("ib1", lid=0), "ports/1/state": "2: INIT"},
             "mlx5_2": {**roce("eth1", f"10.77.0.1{n}"), "ports/1/state": "1: DOWN"}},
            {f"10.77.0.1{n}": "eth1"},
        )),
        {},
        ["mlx5_0"],
        {"mlx5_1": "INIT", "mlx5_2": "DOWN"},
    ),
    "a card with one port of each kind": (
        both(lambda n: (
            {"mlx4_0": {**{f"ports/1/{k}": v for k, v in {"state": "4: ACTIVE", "link_layer": "InfiniBand",
                        "rate": "56 Gb/sec (4X FDR)", "lid": hex(n), "sm_lid": "0x9",
                        "gids/0": f"fe80:0000:0000:0000:0002:c903:0000:{n:04x}"}.items()},
                        **{f"ports/2/{k}": v for k, v in {"state": "4: ACTIVE", "link_layer": "Ethernet",
                           "rate": "40 Gb/sec (4X QDR)"}.items()},
                        "device/net/ib0/dev_port": "0", "device/net/eth1/dev_port": "1"}},
            {f"10.77.0.1{n}": "eth1"},
        )),
        {},
        ["mlx4_0"],
        {"mlx4_0:2": "Ethernet, and InfiniBand is used"},
    ),
    "EFA": (
        both(lambda n: ({"rdmap16s27": port("Unspecified", None)}, {f"10.77.0.1{n}": "eth1"})),
        {},
        [],
        {"rdmap16s27": "link layer Unspecified"},
    ),
}  # fmt: skip


BONDS = [{"name": "bond0.100", "lowers": ["bond0"]}, {"name": "bond0", "lowers": ["ens1np0", "ens2np0"]}]
NO_ROUTES = "Iface Destination Gateway Flags RefCnt Use Metric Mask"
DEFAULT_ROUTE = f"""{NO_ROUTES}
eno1 00000000 010200C0 0003 0 0 0 00000000
eth1 00004D0A 00000000 0001 0 0 0 00FFFFFF"""


def facts_of(root: Path, case: Case) -> ClusterFacts:
    """Two nodes with these devices and addresses, each in a network of 24 bits; the default route is eno1's."""
    made = {}
    for number, (devices, own) in enumerate(case[0], start=1):
        said = {"addresses": own, "infiniband": ["uverbs0"], "system": {"interfaces": BONDS}}
        node = node_facts(number, said)
        assert isinstance(node.addresses, tuple)
        table = DEFAULT_ROUTE if "eno1" in own.values() else NO_ROUTES
        made[f"gpu{number}"] = replace(
            node,
            addresses=tuple(replace(item, prefix=24) for item in node.addresses),
            rdma=seen(root / str(number), devices),
            system=replace(node.system, routes=system.routes({"routes": parse.Section(table, 0)})),
        )
    return ClusterFacts(made, {})


@pytest.mark.parametrize("name", CASES)
def test_a_port_is_used_because_it_belongs_to_the_private_network(tmp_path: Path, name: str) -> None:
    _, changes, used, left = CASES[name]
    facts, asked = facts_of(tmp_path, CASES[name]), inventory(changes)
    ports = ports_of_network(asked, "gpu1", facts)
    assert [each.device for each in ports.used] == used
    reasons = {each.port.name: each.reason for each in ports.left_out}
    for device, words in left.items():
        assert words in reasons[device if ":" in device else f"{device}:1"]
    environment = network_environments(asked, facts)["gpu1"]
    shown = "\n".join(network_lines({"gpu1": environment}, None, {"gpu1": ports}))
    assert all(each.text in shown for each in ports.left_out), "what was left out and why is shown"
    said = network_json({"gpu1": environment}, None, {"gpu1": ports})["rdma"]["gpu1"]
    assert said["used"] == [each.name for each in ports.used]
    assert {each["port"]: each["reason"] for each in said["left_out"]} == reasons
    if used:
        assert environment["NCCL_IB_HCA"] == f"={','.join(each.name for each in ports.used)}"


def test_nothing_is_forced_where_the_transport_is_not_known(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, CASES["EFA"])
    for mode in ("auto", "required"):
        environment = network_environments(inventory({"rdma": mode}), facts)["gpu1"]
        assert not {name for name in environment if name.startswith(("NCCL_IB", "NCCL_NET"))}
    assert not devices_passed("required", facts.nodes["gpu1"])
    codes = {finding.code for finding in check(inventory({"rdma": "required"}), facts)}
    assert {"rdma-link-layer-unknown", "rdma-not-in-network"} <= codes


def test_a_node_that_was_not_read_speaks_neither_for_nor_against_a_fabric(tmp_path: Path) -> None:
    name = "two InfiniBand fabrics, one of them this node's alone"
    facts = facts_of(tmp_path, CASES[name])
    alone = cluster_facts({"gpu1": None}, {"gpu2": "no answer"})
    lost = replace(facts, nodes={"gpu1": facts.nodes["gpu1"]}, unreachable=alone.unreachable)
    assert [each.device for each in ports_of_network(inventory(), "gpu1", lost).used] == ["mlx5_0", "mlx5_1"]
