"""Which RDMA ports a node's processes are told: devices as sysfs has them, read by the probe, to the environment.

No real ones could be captured: names, files and values are as in public reports of such machines.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusterctl.deployment.environment import network_environments
from clusterctl.deployment.rdma import devices_passed, ports_of_network
from clusterctl.facts import gather, parse, rdma, system
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.rules import check
from clusterctl.ui.network import network_json, network_lines
from tests.unit.support import cluster_facts, inventory, node_facts
from tests.unit.test_rdma import tree

NODES = [{"name": "gpu1", "host": "a"}, {"name": "gpu2", "host": "b"}]


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
    "nodes": [{**n, "address": f"10.77.0.1{i}"} for i, n in enumerate(NODES, 1)],
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
        {"nodes": [{**node, "address": f"10.77.0.1{n}"} for n, node in enumerate(NODES, 1)]},
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
        {"nodes": [{**node, "address": f"10.77.0.1{n}"} for n, node in enumerate(NODES, 1)]},
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
