"""The network between nodes: what is tried, what is read, what each node is told, and the probe itself on loopback."""

from __future__ import annotations

import json
from collections import Counter
from ipaddress import IPv4Address
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterctl.deployment.environment import network_environments
from clusterctl.facts.cluster import DeepFacts
from clusterctl.facts.collective import Collective, read_run
from clusterctl.facts.fact import Unknown
from clusterctl.facts.pairs import End, read_end, read_links
from clusterctl.findings.rules.pair_ports import ranges
from clusterctl.modes.all import listens_of
from clusterctl.modes.ports import reached_ports, sampled
from clusterctl.planning.container import container_specs
from clusterctl.preflight.collective import collective_probe
from clusterctl.preflight.container import peers_container
from clusterctl.preflight.inside import peers
from clusterctl.preflight.network import peers_step, rounds
from clusterctl.ui import render
from clusterctl.ui.network import network_json
from tests.unit import networks
from tests.unit.support import cluster_facts, deployment, inventory

IB = {"infiniband": ["uverbs0"], "rdma": {"mlx5_0:1": {"link_layer": "InfiniBand"}}}


@given(st.integers(min_value=2, max_value=33))
def test_every_ordered_pair_is_measured_once_and_no_node_twice_at_a_time(count: int) -> None:
    names = [f"n{number}" for number in range(count)]
    made = list(rounds(names))
    assert Counter(pair for pairs in made for pair in pairs) == Counter(permutations(names, 2))
    for pairs in made:
        assert max(Counter(name for pair in pairs for name in pair).values()) == 1
    assert len(made) == 2 * (count - 1 + count % 2)


@given(st.integers(1, 60000), st.integers(0, 5000))
def test_a_sample_of_the_worker_range_has_both_ends(first: int, width: int) -> None:
    sample = sampled((first, first + width))
    assert (sample[0], sample[-1]) == (first, first + width)
    assert len(sample) == min(8, width + 1)


def test_the_control_store_is_tried_on_the_head_only_and_the_api_on_no_node() -> None:
    made = inventory()
    listens = listens_of(made)
    assert 6379 in reached_ports(listens, made, "gpu1")
    assert 6379 not in reached_ports(listens, made, "gpu2")
    assert 8000 not in reached_ports(listens, made, "gpu1")


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ([6380], ["6380"]),
        ([6384, 6381, 6380, 52365], ["6380-6381", "6384", "52365"]),
        ([10002, 10999], ["10002", "10999"]),
        ([*sampled((10002, 10999)), 6380], ["6380", "10002-10999"]),
    ],
)
def test_ports_as_ranges(ports: list[int], text: list[str]) -> None:
    assert ranges(inventory(), ports) == text


def test_two_probes_on_loopback_find_each_other() -> None:
    """What agent/peers.py does in two containers, in one process: real sockets, real routes, real datagrams."""
    made = inventory()
    ends: dict[str, End] = {}
    for name, address in (("gpu1", "127.0.0.1"), ("gpu2", "127.0.0.2")):
        config = {"node": name, "address": address, "interface": "lo", "ports": [], "ephemeral": 2}
        said = json.loads(json.dumps(peers.Listeners(config).describe()))
        end = read_end(address, "lo", said)
        assert isinstance(end, End)
        ends[name] = end
    asked: dict[str, Any] = json.loads(json.dumps(peers_step(made, ends, "gpu1")))
    asked["peers"][0]["ports"] = [*ends["gpu2"].ephemeral, 1]
    said = json.loads(json.dumps({"event": "peers", "peers": peers.look_at(asked["peers"], 1500)}))
    [(pair, link)] = read_links("gpu1", ends, said)
    assert pair == ("gpu1", "gpu2")
    assert link.ports == {**dict.fromkeys([*ends["gpu2"].ephemeral, ends["gpu2"].service], "ok"), 1: "refused"}
    assert link.route is not None
    assert link.route.interface == "lo"
    assert link.largest_packet == 1500
    assert link.bulk is True
    assert link.min_us is not None
    assert 0 < link.min_us < 1e6
    sent = peers.throughput("127.0.0.2", ends["gpu2"].service, 0.1)
    assert sent["bytes"] > 0


def test_a_port_that_something_else_holds_and_does_not_answer_on_says_nothing() -> None:
    ends = {"gpu2": End(IPv4Address("10.77.0.12"), "eth1", 1500, held=(6380, 6381), ephemeral=(), service=1, udp=2)}
    peer = {"ports": {"6380": "refused", "6381": "ok", "6382": "refused"}, "route": None, "largest_packet": None}
    [(_, link)] = read_links("gpu1", ends, {"peers": {"gpu2": peer}})
    assert link.ports == {6381: "ok", 6382: "refused"}


def test_a_node_that_was_lost_after_it_had_listened_has_no_links() -> None:
    """Its SSH connection was cut while all looked (found by a random fault run: every rule wants both ends)."""
    ends = {"gpu1": End(IPv4Address("10.77.0.11"), "eth1", 1500, held=(), ephemeral=(), service=1, udp=2)}
    peer = {"ports": {"6380": "ok"}, "route": None, "largest_packet": None}
    assert list(read_links("gpu1", ends, {"peers": {"gpu2": peer}})) == []


def test_a_probe_that_cannot_listen_is_unknown() -> None:
    said = {"event": "failed", "reason": "cannot listen on 10.77.0.12: Cannot assign requested address"}
    assert read_end("10.77.0.12", "eth1", said) == Unknown(said["reason"])


def test_the_probe_of_the_network_gets_the_network_and_nothing_else_and_goes_away() -> None:
    config, host_config = peers_container("demo", "gpu1", "sha256:one")
    assert config["image"] == "sha256:one"
    assert config["labels"] == {"clusterctl.cluster": "demo", "clusterctl.role": "probe", "clusterctl.node": "gpu1"}
    assert host_config["network_mode"] == "host"
    assert host_config["auto_remove"] is True
    assert not {"binds", "devices", "device_requests", "privileged"} & set(host_config)


@pytest.mark.parametrize(
    ("mode", "rdma", "told"),
    [
        ("auto", {}, {}),
        ("auto", {"mlx5_0:1": {}}, {"NCCL_IB_HCA": "=mlx5_0:1"}),
        ("required", {"mlx5_0:1": {}}, {"NCCL_IB_HCA": "=mlx5_0:1", "NCCL_NET": "IB"}),
        ("off", {"mlx5_0:1": {}}, {"NCCL_IB_DISABLE": "1"}),
        # RoCE: the port under the CIDR's interface, not storage's.
        ("auto", {"mlx5_0:1": {"interfaces": ["eth9"]}, "mlx5_1:1": {}}, {"NCCL_IB_HCA": "=mlx5_1:1"}),
        ("auto", {"a:1": {"interfaces": ["e8"]}, "b:1": {"interfaces": ["e9"]}}, {"NCCL_IB_HCA": "^=a:1,b:1"}),
        # A port that is down is none, and NCCL is kept from the one that is up elsewhere.
        ("auto", {"mlx5_0:1": {"state": "DOWN"}, "mlx5_1:1": {"interfaces": ["e9"]}}, {"NCCL_IB_HCA": "^=mlx5_1:1"}),
        ("required", {"mlx5_1:1": {"interfaces": ["e9"]}}, {"NCCL_IB_HCA": "^=mlx5_1:1"}),
        # InfiniBand: all ports of the fabric, not the Ethernet management port, not the slow one of storage.
        (
            "auto",
            {
                "mlx5_0:1": {"link_layer": "InfiniBand", "interfaces": ["ib0"], "lid": 11, "sm_lid": 1},
                "mlx5_1:1": {"link_layer": "InfiniBand", "interfaces": ["ib1"], "lid": 12, "sm_lid": 1},
                "mlx5_2:1": {"link_layer": "InfiniBand", "interfaces": ["ib2"], "lid": 13, "sm_lid": 1,
                             "rate": "100 Gb/sec (4X EDR)"},
                "mlx5_bond_0:1": {"interfaces": ["eth1"]},
            },
            {"NCCL_IB_HCA": "=mlx5_0:1,mlx5_1:1"},
        ),
    ],
)  # fmt: skip
def test_what_a_node_is_told_about_rdma(mode: str, rdma: dict[str, Any], told: dict[str, str]) -> None:
    other = {"mlx5_0:1": {"link_layer": "InfiniBand", "interfaces": ["ib0"], "lid": 21, "sm_lid": 1}}
    nodes: dict[str, dict[str, Any] | None] = {
        "gpu1": {"rdma": rdma or None, "infiniband": ["uverbs0"] if rdma else None},
        "gpu2": {"rdma": other},
    }
    facts = cluster_facts(nodes)
    variables = network_environments(inventory({"rdma": mode}), facts)["gpu1"]
    assert {name: value for name, value in variables.items() if name.startswith(("NCCL_IB", "NCCL_NET"))} == told
    assert variables["VLLM_HOST_IP"] == "10.77.0.11"
    made = deployment({"rdma": mode}, nodes)
    spec = container_specs(made)["gpu1"]
    assert variables.items() <= spec.config["environment"].items(), "check prints what up sets"
    assert ("/dev/infiniband:/dev/infiniband:rwm" in spec.host_config["devices"]) == (bool(rdma) and mode != "off")


def test_the_operators_own_choice_of_ports_wins() -> None:
    changes = {"rdma": "required", "container": {"env": {"NCCL_IB_HCA": "=mlx5_7:1", "NCCL_NET": "AWS Libfabric"}}}
    variables = network_environments(inventory(changes), cluster_facts({"gpu1": IB}))["gpu1"]
    assert (variables["NCCL_IB_HCA"], variables["NCCL_NET"]) == ("=mlx5_7:1", "AWS Libfabric")


def test_the_all_reduce_runs_as_the_server_would() -> None:
    env = {"NCCL_DEBUG": "WARN", "NCCL_DEBUG_FILE": "/tmp/nccl.log", "NCCL_ALGO": "Ring"}
    made = deployment({"container": {"env": env}, "rdma": "auto"}, {"gpu1": IB, "gpu2": IB})
    facts = cluster_facts({"gpu1": {**IB, "listeners": {"10999": None}}, "gpu2": IB})
    probe = collective_probe(made, facts)
    serving = container_specs(made)
    for index, (name, node) in enumerate(probe.nodes.items()):
        assert node.host_config == serving[name].host_config
        said = node.config["environment"]
        assert said["NCCL_DEBUG"] == "INFO"
        assert "NCCL_DEBUG_FILE" not in said
        assert (said["NCCL_ALGO"], said["NCCL_IB_HCA"]) == ("Ring", "=mlx5_0:1")
        config = json.loads(node.file.content)
        assert (config["first_rank"], config["ranks"], config["world"]) == (index * 2, 2, 4)
        assert (config["master_address"], config["master_port"]) == ("10.77.0.11", 10998), "10999 is taken on the head"
    assert probe.backend == "nccl"


def test_bus_bandwidth_is_that_of_nccl_tests_and_of_the_slowest_rank() -> None:
    def run(rank: int, seconds: float) -> list[str]:
        return [json.dumps({"event": "reduced", "rank": rank, "bytes": 10**9, "seconds": seconds})]

    runs = {"gpu1": read_run(run(0, 0.05)), "gpu2": read_run(run(1, 0.1))}
    ran = Collective("nccl", 10**9, {"gpu1": (0,), "gpu2": (1,)}, runs)
    assert ran.bus_gbyte_per_s == pytest.approx(10.0)
    lost = Collective("nccl", 10**9, ran.ranks, {**ran.nodes, "gpu2": Unknown("gone")})
    assert (lost.passed, lost.bus_gbyte_per_s) == (False, None)


def test_check_shows_the_network_in_text_and_in_json() -> None:
    asked = inventory()
    told = network_environments(asked, cluster_facts())
    nodes = {"gpu1": {"log": "socket-gpu1.log"}, "gpu2": {"log": "socket-gpu2.log"}}
    pairs, collective = networks.pairs(asked, {"gbit": {}}), networks.collective({"nodes": nodes})
    deep = DeepFacts(images={}, gpus_wanted=2, pairs=pairs, collective=collective)
    text = "\n".join(render.network(told, deep))
    assert "gpu1: VLLM_HOST_IP=10.77.0.11 GLOO_SOCKET_IFNAME=eth1 NCCL_SOCKET_IFNAME==eth1" in text
    assert "2 of 2 directions open" in text
    assert "all-reduce: 2 ranks (nccl), 4.14 GB/s bus bandwidth, between nodes via NET/Socket" in text
    assert "100.0" in text
    said = json.loads(json.dumps(network_json(told, deep)))
    assert said["environment"]["gpu2"]["NCCL_SOCKET_IFNAME"] == "=eth1"
    assert [(pair["from"], pair["to"]) for pair in said["pairs"]] == [("gpu1", "gpu2"), ("gpu2", "gpu1")]
    assert said["collective"]["nodes"]["gpu1"]["channels"] == {"Socket": 4}
    assert network_json(told, None)["collective"] is None
