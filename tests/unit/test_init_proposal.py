"""What `init` proposes from facts, and why."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
import yaml

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.kernel_net import Route
from clusterctl.facts.records import InterfaceAddress
from clusterctl.facts.survey import FoundImage, FoundModel, Survey, found_models, with_vllm
from clusterctl.facts.system import Interface
from clusterctl.hosts.engine.answers import local_images_of
from clusterctl.hosts.engine.engine import LocalImage
from clusterctl.inventory.rules.all import broken_rules
from clusterctl.inventory.rules.placeholders import PLACEHOLDER
from clusterctl.layout.report import report
from clusterctl.proposal import machines, network, served
from clusterctl.proposal.choice import Choice
from clusterctl.proposal.draft import Draft, LostNode, NodeDraft, scalar
from clusterctl.proposal.sizes import sizes
from tests.unit.support import cluster_facts, inventory

HOSTS = {"gpu1": "gpu1.example.com", "gpu2": "gpu2.example.com"}
OFFICE, FABRIC = "192.168.1", "10.10.0"


def facts_with(networks: dict[str, tuple[str, int | None]], default: str = "", **changes: Any) -> ClusterFacts:
    """Two nodes with an address in each network: `10.10.0` → interface and its Mbit/s."""
    facts = cluster_facts({"gpu1": dict(changes), "gpu2": dict(changes)})
    nodes = {}
    for number, (name, node) in enumerate(facts.nodes.items(), start=1):
        addresses = tuple(
            InterfaceAddress(interface, IPv4Address(f"{start}.{number}"), 24)
            for start, (interface, _) in networks.items()
        )
        interfaces = tuple(Interface(interface, 1500, "up", speed) for interface, speed in networks.values())
        routes = (Route(default, IPv4Network("0.0.0.0/0"), None, 0),) if default else ()
        system = replace(node.system, interfaces=interfaces, routes=routes)
        nodes[name] = replace(node, addresses=addresses, system=system)
    return replace(facts, nodes=nodes)


def chosen_network(facts: ClusterFacts, hosts: dict[str, str] | None = None) -> Choice:
    return network.network(facts, network.shared_networks(facts, hosts or HOSTS))


# The network.


def test_of_two_private_networks_the_one_with_rdma_comes_first() -> None:
    facts = facts_with({OFFICE: ("eth0", 100_000), FABRIC: ("ib0", None)}, rdma={"mlx5_0:1": {"interfaces": ["ib0"]}})
    choice = chosen_network(facts)
    assert choice.value == "10.10.0.0/24"
    assert "ib0, RDMA 400 Gbit/s" in choice.why
    assert [(each.value, each.why_not) for each in choice.rejected] == [("192.168.1.0/24", "eth0, 100 Gbit/s")]


def test_the_management_network_is_not_taken_though_it_is_faster() -> None:
    choice = chosen_network(facts_with({OFFICE: ("eth0", 25_000), FABRIC: ("eth1", 10_000)}, default="eth0"))
    assert choice.value == "10.10.0.0/24"
    assert "not the management network" in choice.why
    assert "default route" in choice.rejected[0].why_not


def test_nor_the_one_that_ssh_comes_in_by() -> None:
    facts = facts_with({OFFICE: ("eth0", 25_000), FABRIC: ("eth1", 10_000)})
    choice = chosen_network(facts, {"gpu1": f"{OFFICE}.1", "gpu2": f"{OFFICE}.2"})
    assert (choice.value, choice.rejected[0].value) == ("10.10.0.0/24", "192.168.1.0/24")
    assert "SSH comes in by it" in choice.rejected[0].why_not


def test_the_management_network_is_taken_where_there_is_no_other() -> None:
    choice = chosen_network(facts_with({OFFICE: ("eth0", 1000)}, default="eth0"))
    assert choice.value == "192.168.1.0/24"
    assert "only private network" in choice.why
    assert "also the management network" in choice.why


def test_docker_s_own_network_and_a_tunnel_come_last_or_not_at_all() -> None:
    facts = facts_with({"172.17.0": ("docker0", None), "100.64.0": ("wg0", None), FABRIC: ("eth1", None)})
    choice = chosen_network(facts)
    assert [choice.value, *(each.value for each in choice.rejected)] == ["10.10.0.0/24", "100.64.0.0/24"]


def test_public_addresses_are_not_proposed() -> None:
    choice = chosen_network(facts_with({"8.8.8": ("eth0", 1000)}))
    assert choice.missing
    assert "public" in choice.rejected[0].why_not


@pytest.mark.parametrize("state", ["down", "lowerlayerdown"])
def test_a_network_without_a_link_is_not_proposed_however_fast_it_is(state: str) -> None:
    facts = facts_with({OFFICE: ("eth0", 1000), FABRIC: ("eth1", 100_000)}, default="eth0")
    nodes = dict(facts.nodes)
    interfaces = tuple(Interface(name, 1500, state if name == "eth1" else "up", 100_000) for name in ("eth0", "eth1"))
    nodes["gpu2"] = replace(nodes["gpu2"], system=replace(nodes["gpu2"].system, interfaces=interfaces))
    choice = chosen_network(replace(facts, nodes=nodes))
    assert choice.value == "192.168.1.0/24"
    assert (choice.rejected[0].value, choice.rejected[0].why_not) == (
        "10.10.0.0/24",
        "eth1, 100 Gbit/s: no link on gpu2",
    )


def test_an_address_that_both_nodes_have_makes_no_network() -> None:
    facts = facts_with({FABRIC: ("eth1", 1000)})
    same = {name: replace(node, addresses=facts.nodes["gpu1"].addresses) for name, node in facts.nodes.items()}
    assert chosen_network(replace(facts, nodes=same)).missing


# Images and models.


def surveys(images: dict[str, list[str]], models: dict[str, list[str]]) -> dict[str, Survey]:
    """Node → images as `name=content`, and models as `path=bytes`."""
    return {
        name: Survey(
            tuple(
                FoundImage(each.partition("=")[0], (each.partition("=")[2],), "2026") for each in images.get(name, [])
            ),
            tuple(FoundModel(each.split("=")[0], "config", int(each.split("=")[1])) for each in models.get(name, [])),
        )
        for name in HOSTS
    }


def test_the_image_is_the_newest_that_is_the_same_everywhere() -> None:
    both = ["vllm:0.9=a", "vllm:0.32=b"]
    choice = served.image(surveys({"gpu1": [*both, "vllm:0.33=c"], "gpu2": both}, {}), None)
    assert (choice.value, choice.warnings) == ("vllm:0.32", ())
    assert [(each.value, each.why_not) for each in choice.rejected] == [
        ("vllm:0.9", "an older one"),
        ("vllm:0.33", "on gpu1, not on gpu2"),
    ]


def test_different_images_of_one_name_are_told() -> None:
    choice = served.image(surveys({"gpu1": ["vllm:1=a"], "gpu2": ["vllm:1=b"]}, {}), None)
    assert choice.value == "vllm:1"
    assert choice.warnings == ("vllm:1 is on every node, but not the same",)


def test_without_any_image_a_placeholder_stands_there() -> None:
    choice = served.image(surveys({}, {}), None)
    assert choice.missing
    assert served.image(surveys({}, {}), "mine:1").value == "mine:1"


def test_an_engine_that_could_not_be_asked_is_told() -> None:
    said = surveys({"gpu1": ["vllm:1=a"]}, {})
    choice = served.image({**said, "gpu2": replace(said["gpu2"], images=Unknown("no engine"))}, None)
    assert choice.value == "vllm:1"
    assert choice.warnings == ("the engine of gpu2 could not be asked",)


def test_the_model_is_the_largest_that_is_everywhere_and_fits() -> None:
    both = ["/models/small=10", "/models/large=80", "/models/huge=1000"]
    choice = served.model(surveys({}, {"gpu1": [*both, "/models/own=90"], "gpu2": both}), None, 100)
    assert choice.value == "/models/large"
    assert [each.value for each in choice.rejected] == ["/models/small", "/models/huge", "/models/own"]
    assert "too large" in choice.rejected[1].why_not
    assert choice.rejected[2].why_not == "on gpu1, not on gpu2"


def test_a_model_on_one_node_only_is_proposed_with_a_warning() -> None:
    choice = served.model(surveys({}, {"gpu1": ["/models/own=90"]}), None, None)
    assert choice.value == "/models/own"
    assert choice.warnings == ("/models/own is on gpu1, not on gpu2",)


def test_a_model_of_another_size_is_not_the_same() -> None:
    choice = served.model(surveys({}, {"gpu1": ["/models/m=90"], "gpu2": ["/models/m=80"]}), None, None)
    assert choice.warnings == ("/models/m is on every node, but not the same",)


def test_what_the_search_prints() -> None:
    said = "config\t5000\t/models/a b\ngguf\t7\t/models/g\nnoise\nparams\tx\t/models/p\n"
    assert found_models(said) == (FoundModel("/models/a b", "config", 5000), FoundModel("/models/g", "gguf", 7))


def test_images_with_vllm_in_them_are_known_by_name_or_by_what_they_run() -> None:
    def local(name: str, **config: Any) -> Any:
        return local_images_of({"Id": "sha256:1", "RepoTags": [name], "RootFS": {"Layers": ["l"]}, "Config": config})

    images = (
        *local("vllm/vllm-openai:v1"),
        *local("own:2", Entrypoint=["python3", "-m", "vllm.entrypoints.openai.api_server"]),
        *local("nginx:1", Cmd=["nginx"], Env=None, Labels=None),
        *local("<none>:<none>", Cmd=["vllm"]),
    )
    found = with_vllm({"gpu1": images})["gpu1"]
    assert not isinstance(found, Unknown)
    assert [each.name for each in found] == ["vllm/vllm-openai:v1", "own:2"]


def test_something_else_by_the_name_of_an_image_with_vllm_is_not_the_same_and_not_nothing() -> None:
    def images(layer: str, **config: Any) -> tuple[LocalImage, ...]:
        entry = {"Id": layer, "RepoTags": ["own:2"], "RootFS": {"Layers": [layer]}, "Config": config}
        return tuple(local_images_of(entry))

    lost = Unknown("no engine")
    found = with_vllm({"gpu1": images("a", Cmd=["vllm"]), "gpu2": images("b", Cmd=["sh"]), "gpu3": lost})
    assert found["gpu3"] is lost
    choice = served.image({name: Survey(each, ()) for name, each in found.items() if name != "gpu3"}, None)
    assert choice.warnings == ("own:2 is on every node, but not the same",)


# The machines.


@pytest.mark.parametrize(
    ("hosts", "hostnames", "expected"),
    [
        (["gpu1.example.com", "GPU2"], [None, None], ["gpu1", "gpu2"]),
        (["10.0.0.1", "10.0.0.2"], ["alpha.lan", "beta"], ["alpha", "beta"]),
        (["10.0.0.1", "10.0.0.2"], ["ubuntu", "ubuntu"], ["node1", "node2"]),
        (["10.0.0.1", "under_score"], [None, "x" * 60], ["node1", "node2"]),
    ],
)
def test_names(hosts: list[str], hostnames: list[str | None], expected: list[str]) -> None:
    assert [choice.value for choice in machines.names(hosts, hostnames)] == expected


def test_the_head_is_the_first_that_answers_with_an_engine() -> None:
    assert machines.head(["gpu1", "gpu2"], cluster_facts()).value == "gpu1"
    facts = cluster_facts(unreachable={"gpu1": "no route to host"})
    choice = machines.head(["gpu1", "gpu2"], facts)
    assert choice.value == "gpu2"
    assert "not gpu1" in choice.why
    without = cluster_facts({"gpu1": {"engine": None}})
    assert machines.head(["gpu1", "gpu2"], without).value == "gpu2"


def test_a_node_without_an_engine_is_told() -> None:
    choice = machines.sudo(cluster_facts({"gpu2": {"engine": None}}), with_sudo=False)
    assert "Docker 20.10 on 1 of 2 nodes" in choice.why
    assert choice.warnings == ("gpu2: no container engine",)


def test_accelerators_and_how_containers_get_them() -> None:
    engine = {"runtimes": ["nvidia", "runc"]}
    kind, per_node = machines.accelerators(inventory(), cluster_facts({"gpu1": {"engine": engine, "gpus": 4}, "gpu2": {
        "engine": {"version": "28.3.0", "cdi_directories": ["/etc/cdi"]}, "nvidia": {"hook": False},
        "cdi": {"/etc/cdi/nvidia.yaml": {}}}}))  # fmt: skip
    assert (kind.value, per_node.value) == ("nvidia", 2)
    assert "gpu1 by toolkit" in kind.why
    assert "gpu2 by CDI" in kind.why
    assert per_node.warnings == ("the nodes have gpu1: 4, gpu2: 2; 2 of each are used",)


def test_without_gpus_it_is_the_cpu_and_says_so() -> None:
    kind, per_node = machines.accelerators(inventory(), cluster_facts({"gpu1": {"gpus": None}, "gpu2": {"gpus": None}}))
    assert (kind.value, per_node.value) == ("cpu", 1)
    assert "no GPU was seen on any node" in kind.why


def test_gpus_that_could_not_be_read_are_no_cpu() -> None:
    lost = {"gpus": {"unknown": "driver and library differ"}}
    kind, per_node = machines.accelerators(inventory(), cluster_facts({"gpu1": lost, "gpu2": lost}))
    assert (kind.value, per_node.value) == ("nvidia", "auto")
    assert kind.warnings[0] == "gpu1: its GPUs could not be read (driver and library differ)"


def test_the_limit_of_locked_memory_is_left_where_the_engine_may_not_raise_it() -> None:
    bound = {"system": {"engine_process": {"memlock_hard_bytes": 8 << 20, "may_raise_limits": False}}}
    choice = machines.ulimits(cluster_facts({"gpu2": bound}))
    assert choice is not None
    assert (choice.value, "gpu2" in choice.why) == ({"stack": 67108864}, True)
    assert machines.ulimits(cluster_facts()) is None
    assert machines.ulimits(cluster_facts({"gpu2": {**bound, "infiniband": ["uverbs0"]}})) is None


# Sizes.


def test_sizes_are_those_of_the_planner_with_the_rejected_ones() -> None:
    facts = cluster_facts({"gpu1": {}, "gpu2": {}})
    found = report(inventory(), facts)
    choice = sizes(found)
    assert not isinstance(found, Unknown)
    best = next(way for way in found.ranking.ways if way.candidate.possible)
    assert {key: value for key, value in choice.value.items() if key != "executor"} == best.settings
    assert choice.rejected
    assert all(each.why_not for each in choice.rejected)


def test_several_engines_on_several_nodes_are_served_without_ray() -> None:
    found = report(inventory(), cluster_facts())
    assert not isinstance(found, Unknown)
    several = next(way for way in found.ranking.ways if way.engines > 1)
    choice = sizes(replace(found, ranking=replace(found.ranking, ways=(several,))))
    assert (choice.value["executor"], choice.value["data_parallel"]) == ("mp", several.engines)


def test_sizes_stay_auto_where_nothing_is_known() -> None:
    choice = sizes(Unknown("no config.json"))
    assert (choice.value, "no config.json" in choice.why) == ({}, True)


# The file.


def draft(**changes: Any) -> Draft:
    values: dict[str, Any] = {
        "cluster": "demo",
        "nodes": (NodeDraft("gpu1", "10.0.0.1", {"address": "10.10.0.1"}), NodeDraft("gpu2", "10.0.0.2", {})),
        "lost": (),
        "ssh": {"user": "ubuntu"},
        "network": Choice("network.cidr", "10.10.0.0/24", "why\nnot: {x}"),
        "head": Choice("head", "gpu1", "first"),
        "engine": "docker",
        "sudo": Choice("container.sudo", False, ""),
        "ulimits": None,
        "kind": Choice("accelerator.kind", "nvidia", ""),
        "per_node": Choice("accelerator.per_node", 8, ""),
        "image": Choice("container.image", "vllm:1", ""),
        "model": Choice("model.path", "/models/a b", ""),
        "serve": Choice("serve", {"tensor_parallel": 8, "pipeline_parallel": 2}, ""),
    }
    return Draft(**{**values, **changes})


def test_the_file_holds_what_was_proposed() -> None:
    data = yaml.safe_load(draft().text())
    assert data == {
        "version": 1,
        "cluster": "demo",
        "network": {"cidr": "10.10.0.0/24"},
        "ssh": {"user": "ubuntu"},
        "nodes": [
            {"name": "gpu1", "host": "10.0.0.1", "address": "10.10.0.1"},
            {"name": "gpu2", "host": "10.0.0.2"},
        ],
        "container": {"image": "vllm:1"},
        "accelerator": {"kind": "nvidia", "per_node": 8},
        "model": {"path": "/models/a b"},
        "serve": {"tensor_parallel": 8, "pipeline_parallel": 2},
    }
    assert broken_rules(data) == []


def test_podman_is_written_and_docker_is_what_is_meant_without_a_word() -> None:
    assert yaml.safe_load(draft(engine="podman").text())["container"]["engine"] == "podman"
    assert "engine" not in yaml.safe_load(draft().text())["container"]


def test_the_engine_is_said_by_its_name() -> None:
    facts = cluster_facts({name: {"engine": {"kind": "podman", "version": "5.4.2"}} for name in ("gpu1", "gpu2")})
    assert "Podman 5.4.2 on 2" in machines.sudo(facts, with_sudo=False).why


def test_another_head_and_sudo_are_written() -> None:
    moved = draft(head=Choice("head", "gpu2", ""), sudo=Choice("container.sudo", True, ""), network=None)
    data = yaml.safe_load(moved.text())
    assert (data["head"], data["container"]["sudo"]) == ("gpu2", True)


def test_a_node_that_did_not_answer_is_a_comment() -> None:
    lost = LostNode(NodeDraft("gpu3", "c", {"port": 2222}), "no route\nto: host", "is it on?")
    with_one = draft(lost=(lost,))
    assert yaml.safe_load(with_one.text()) == yaml.safe_load(draft().text())
    assert "  # Left out, and nothing below counts on it: gpu3 did not answer: no route to: host\n" in with_one.text()
    assert "  # - name: gpu3\n  #   host: c\n  #   port: 2222\n" in with_one.text()


def test_placeholders_are_explained_by_the_loader_s_rules() -> None:
    nothing = {
        name: Choice(field, PLACEHOLDER, "nothing found")
        for name, field in (("network", "network.cidr"), ("image", "container.image"), ("model", "model.path"))
    }
    issues = broken_rules(yaml.safe_load(draft(**nothing).text()))
    assert [issue.path for issue in issues] == [("network", "cidr"), ("container", "image"), ("model", "path")]
    assert all("to be filled in" in issue.message and issue.hint for issue in issues)


@pytest.mark.parametrize(
    "value",
    ["no", "1.5", "a: b", "2026-01-01", "x#y", " x", "", "on", "0x10", "é", "null", "~", "a:", "10.0.0.1", "1:30", "=",
     5, True, {"a": "no"}, "{x}", "*a", "&a", "!a", "%a", "- a", "it's", 'say "x"'],
)  # fmt: skip
def test_any_value_survives_yaml(value: Any) -> None:
    assert yaml.safe_load(f"key: {scalar(value)}") == {"key": value}
