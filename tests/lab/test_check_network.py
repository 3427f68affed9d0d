"""What `check` finds out about the network between the nodes, with real firewalls, MTUs and partitions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from .conftest import Rehearsal

pytestmark = pytest.mark.lab

PAIRS_WITHIN_S = 20
"""Two attempts of 2 s for each blocked port, all ports at once, and the containers around them."""


def findings(rehearsal: Rehearsal, *words: str) -> list[dict[str, Any]]:
    ran = rehearsal.clusterctl("check", "--json", *words)
    assert ran.seconds < PAIRS_WITHIN_S + (60 if "--nccl" in words else 0)
    return list(ran.json()["findings"])


@contextmanager
def firewall(rehearsal: Rehearsal, node: str, *rules: str) -> Iterator[None]:
    """nftables inside the node's network namespace."""
    script = "\n".join(
        [
            "table inet test {",
            "chain in { type filter hook input priority 0; }",
            "chain out { type filter hook output priority 0; }",
            "}",
            *(f"add rule inet test {rule}" for rule in rules),
        ]
    )
    rehearsal.lab.exec(node, ["nft", "-f", "-"], stdin=script + "\n")
    try:
        yield
    finally:
        rehearsal.lab.exec(node, ["nft", "delete", "table", "inet", "test"])


@contextmanager
def mtu(rehearsal: Rehearsal, node: str, size: int) -> Iterator[None]:
    rehearsal.lab.exec(node, ["ip", "link", "set", "eth0", "mtu", str(size)])
    try:
        yield
    finally:
        rehearsal.lab.exec(node, ["ip", "link", "set", "eth0", "mtu", "1500"])


def test_a_good_network_has_no_finding_and_is_described(clean: Rehearsal) -> None:
    ran = clean.clusterctl("check", "--json", "--bandwidth")
    found = ran.json()
    assert found["findings"] == []
    for node in clean.names():
        told = found["environment"][node]
        assert told["VLLM_HOST_IP"] == str(clean.lab.address(node))
        assert (told["GLOO_SOCKET_IFNAME"], told["NCCL_SOCKET_IFNAME"]) == ("eth0", "=eth0")
    assert [(pair["from"], pair["to"]) for pair in found["pairs"]] == [("node1", "node2"), ("node2", "node1")]
    for pair in found["pairs"]:
        assert set(pair["ports"].values()) == {"ok"}
        assert {"6380", "10002", "10999", "52365"} <= set(pair["ports"])
        assert pair["largest_packet_bytes"] == 1500
        assert pair["interface"] == "eth0"
        assert 0 < pair["round_trip_min_us"] < 2000
        assert pair["gbit_per_s"] > 0.1
    assert "6379" in found["pairs"][1]["ports"], "the control store's port, on the head only"
    assert "6379" not in found["pairs"][0]["ports"]


def test_nothing_of_the_probes_stays(clean: Rehearsal) -> None:
    clean.clusterctl("check")
    assert [clean.containers(node) for node in clean.names()] == [[], []]


def test_one_port_blocked_one_way_is_found_with_its_direction_and_up_refuses(clean: Rehearsal) -> None:
    with firewall(clean, "node2", f"in ip saddr {clean.lab.address('node1')} tcp dport 6380 drop"):
        found = findings(clean)
        refused = clean.clusterctl("up")
    assert [(f["code"], f["nodes"]) for f in found] == [("ports-blocked", ["node1", "node2"])]
    assert "node1 -> node2: connections to TCP 6380 of" in found[0]["seen"]
    assert "dropped" in found[0]["seen"]
    assert refused.code == 1
    assert "ports-blocked" in refused.err
    assert [clean.containers(node) for node in clean.names()] == [[], []]


def test_a_range_that_is_rejected_is_named_as_a_range(clean: Rehearsal) -> None:
    with firewall(clean, "node1", "in tcp dport { 6379-6384, 10002-10999 } reject with tcp reset"):
        found = findings(clean)
    assert [(f["code"], f["nodes"]) for f in found] == [("ports-blocked", ["node2", "node1"])]
    assert "node2 -> node1: connections to TCP 6379-6384, 10002-10999 of" in found[0]["seen"]
    assert "refused" in found[0]["seen"]


def test_nodes_that_do_not_reach_each_other_are_found_fast(clean: Rehearsal) -> None:
    other = clean.lab.address("node2")
    with firewall(clean, "node1", f"in ip saddr {other} drop", f"out ip daddr {other} drop"):
        found = findings(clean)
    assert [(f["code"], f["nodes"]) for f in found] == [
        ("pair-unreachable", ["node2", "node1"]),
        ("pair-unreachable", ["node1", "node2"]),
    ] or [(f["code"], f["nodes"]) for f in found] == [
        ("pair-unreachable", ["node1", "node2"]),
        ("pair-unreachable", ["node2", "node1"]),
    ]


def test_an_mtu_lowered_on_one_node_is_found_and_up_refuses(clean: Rehearsal) -> None:
    with mtu(clean, "node2", 1400):
        found = findings(clean)
        refused = clean.clusterctl("up")
    assert [(f["code"], f["nodes"]) for f in found if f["code"].startswith("mtu")] == [("mtu-differs", ["node2"])]
    assert "node2: 1400 B" in next(f for f in found if f["code"] == "mtu-differs")["seen"]
    assert refused.code == 1
    assert "mtu-differs" in refused.err


def test_packets_of_the_interfaces_size_that_get_lost_on_the_way_are_found(clean: Rehearsal) -> None:
    with firewall(clean, "node2", "in ip protocol udp ip length > 1400 drop"):
        found = findings(clean)
    assert [(f["code"], f["nodes"]) for f in found] == [("mtu-path", ["node1", "node2"])]
    assert "packets of 1500 B do not arrive, those of 1400 B do" in found[0]["seen"]


def test_an_all_reduce_over_gloo_passes_whatever_the_host_name_says(clean: Rehearsal) -> None:
    hosts = clean.lab.disk("node2") / "etc/hosts"
    before = hosts.read_text()
    hosts.write_text("127.0.0.1 localhost node2\n")
    try:
        ran = clean.clusterctl("check", "--json", "--nccl")
    finally:
        hosts.write_text(before)
    collective = ran.json()["collective"]
    assert collective["backend"] == "gloo"
    assert collective["ranks"] == 4
    assert collective["passed"]
    assert collective["bus_gbyte_per_s"] > 0.001
    assert not [f for f in ran.json()["findings"] if f["code"].startswith("collective")]
    assert [clean.containers(node) for node in clean.names()] == [[], []]


def test_an_all_reduce_that_cannot_meet_says_who_did_not_come(clean: Rehearsal) -> None:
    with firewall(clean, "node1", f"in ip saddr {clean.lab.address('node2')} tcp dport 10999 reject with tcp reset"):
        ran = clean.clusterctl("check", "--json", "--nccl", timeout_s=300)
    codes = {f["code"]: f for f in ran.json()["findings"]}
    assert codes["ports-blocked"]["nodes"] == ["node2", "node1"]
    assert codes["collective-failed"]["severity"] == "error"
    assert "node2" in codes["collective-failed"]["nodes"]
    assert ran.json()["collective"]["passed"] is False


@contextmanager
def address_on_lo(rehearsal: Rehearsal, node: str, link: str) -> Iterator[None]:
    """The node's address as a /32 on lo, as hosts that speak BGP have it, and another one on its link."""
    own, net = rehearsal.lab.address(node), rehearsal.lab.spec.subnet
    held = f"{own}/{net.prefixlen}"
    rehearsal.lab.exec(node, ["sh", "-ec", f"ip addr add {own}/32 dev lo; ip addr add {link}/32 dev eth0; "
                              f"ip addr del {held} dev eth0; ip route add {net} dev eth0 src {own}"])  # fmt: skip
    try:
        yield
    finally:
        # The interface's own route comes back with its address.
        back = f"ip addr add {held} dev eth0; ip addr del {own}/32 dev lo; ip addr del {link}/32 dev eth0"
        rehearsal.lab.exec(node, ["sh", "-ec", f"ip route del {net}; {back}"])


def test_an_address_on_lo_is_told_the_interface_of_the_route(clean: Rehearsal) -> None:
    own = str(clean.lab.address("node2"))
    with address_on_lo(clean, "node2", "169.254.7.2"):
        looked = clean.clusterctl("check", "--json").json()
        planned = clean.clusterctl("plan", "--json")
        rules = clean.clusterctl("firewall", "--node", "node2", "--format", "nft").out
    told = looked["environment"]["node2"]
    assert (told["VLLM_HOST_IP"], told["GLOO_SOCKET_IFNAME"], told["NCCL_SOCKET_IFNAME"]) == (own, "eth0", "=eth0")
    # No MTU of 65,536, no route through another interface: only that Gloo and NCCL take the link's own address.
    assert [(f["code"], f["nodes"]) for f in looked["findings"]] == [("interface-other-address", ["node2"])]
    assert {pair["largest_packet_bytes"] for pair in looked["pairs"]} == {1500}
    assert planned.code == 0
    assert 'iifname "eth0"' in rules
    assert f'iifname "lo" ip saddr {{ {clean.lab.address("node1")} }}' not in rules
