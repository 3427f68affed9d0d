"""The ranking of ways to serve: against measurements, and where figures or links are missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clusterctl.cli.layout import BYTES
from clusterctl.cli.main import cli
from clusterctl.errors import ClusterctlError
from clusterctl.facts.cluster import ClusterFacts, DeepFacts
from clusterctl.facts.collective import Collective, NodeRun
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.nvidia import NvidiaFacts, Topology
from clusterctl.facts.pairs import Pairs
from clusterctl.facts.records import Gpu
from clusterctl.facts.safetensors import Header, Tensor
from clusterctl.facts.system import Interface
from clusterctl.findings.finding import Finding
from clusterctl.findings.rules.tensor_parallel_spans import tensor_parallel_spans
from clusterctl.layout.architecture import architecture
from clusterctl.layout.divisible import Sizes, indivisible
from clusterctl.layout.estimate import Model, Shape, Workload, exchanged_bytes, model_of, speed
from clusterctl.layout.hardware import accelerator
from clusterctl.layout.links import Link, between, inside
from clusterctl.layout.ranking import Ranking, Way
from clusterctl.layout.report import Report, report
from clusterctl.signatures.nccl import Transport
from clusterctl.ui import layout as text
from tests.unit.support import cluster_facts, inventory
from tests.unit.test_layout import CONFIGS, llama_tensors

MEASURED = {"DP2": 9824, "one": 6159, "PP2": (5053 + 6393 + 6174 + 4754) / 4, "TP2": 1424}
"""Output tokens a second of 400 requests at once, 512 tokens in and 128 out: an 8B Llama on two H100 of two nodes, over
TCP (vLLM 0.26, `vllm bench serve`; of the pipeline three runs over Ray and one without)."""
BUS_GBYTE_PER_S = 2.59
"""Of an all-reduce between these two, as `check --nccl` measured it."""
THERE = Workload(400, 512, 128)
SIZES = ("data_parallel", "tensor_parallel", "pipeline_parallel")

H100 = "NVIDIA H100 80GB HBM3"
UUID = "GPU-00000000-0000-0000-0000-00000000000{}"
NVLINKED = {f"GPU{i}": {f"GPU{j}": "NV18" for j in range(8) if j != i} for i in range(8)}


def all_reduce(gbyte_per_s: float, nodes: tuple[str, ...] = ("gpu1", "gpu2")) -> Collective:
    world, size = len(nodes), 256 * 1024**2
    seconds = size / (gbyte_per_s * 1e9) * 2 * (world - 1) / world
    ranks = {name: (rank,) for rank, name in enumerate(nodes)}
    silent = Transport(None, None, {}, 0, {}, (), None)
    runs = {
        name: NodeRun((rank,), {rank: seconds}, errors={}, late=(), transport=silent, causes=(), lines=())
        for name, (rank,) in ranks.items()
    }
    return Collective("nccl", size, ranks, runs)


def facts_of(
    model: str,
    gpu: str = H100,
    per_node: int = 1,
    deep: DeepFacts | None = None,
    links: Mapping[str, Any] | None = None,
) -> ClusterFacts:
    config = CONFIGS[model]
    header = Header(100, 0, experts_of(config) if "num_experts_per_tok" in config else llama_tensors(config))
    files = ModelFiles({"model.safetensors": 1, "config.json": 1}, config, None, headers={"model.safetensors": header})
    gpus = tuple(Gpu(index, gpu, UUID.format(index), 81559, 0) for index in range(per_node))
    nodes = {}
    for name, node in cluster_facts().nodes.items():
        assert isinstance(node.nvidia, NvidiaFacts)
        nvidia = replace(node.nvidia, topology=Topology(NVLINKED if links is None else links, {}))
        nodes[name] = replace(node, model=files, gpus=gpus, nvidia=nvidia, rdma=None)
    return ClusterFacts(nodes, {}, deep)


def experts_of(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A model with experts, in 16 bits; what is not an expert is a Llama without feed-forward parts."""
    dense = {
        name: tensor
        for name, tensor in llama_tensors({"tie_word_embeddings": False, **config}).items()
        if ".mlp." not in name
    }
    size = config["hidden_size"] * (config.get("moe_intermediate_size") or config["intermediate_size"])
    count = config.get("num_experts") or config["num_local_experts"]
    experts = {
        f"model.layers.{layer}.mlp.experts.{expert}.{part}.weight": Tensor("BF16", (size,), 2 * size)
        for layer in range(config["num_hidden_layers"])
        for expert in range(count)
        for part in ("gate_proj", "up_proj", "down_proj")
    }
    return dense | experts


def reported(facts: ClusterFacts, changes: Mapping[str, Any] | None = None, work: Workload = THERE) -> Report:
    own = {"accelerator": {"per_node": "auto"}, "serve": {"options": {"max-model-len": 4096}}, **(changes or {})}
    found = report(inventory(own), facts, work)
    assert isinstance(found, Report)
    return found


def ranked(facts: ClusterFacts, changes: Mapping[str, Any] | None = None, work: Workload = THERE) -> Ranking:
    return reported(facts, changes, work).ranking


def rate(way: Way) -> float:
    assert way.speed is not None
    return way.speed.tokens_per_s


def over_tcp(gbyte_per_s: float = BUS_GBYTE_PER_S) -> DeepFacts:
    return DeepFacts(images={}, gpus_wanted=1, collective=all_reduce(gbyte_per_s))


# Against what was measured.


def test_8b_on_two_gpus_over_tcp_comes_out_as_measured() -> None:
    found = ranked(facts_of("llama-8b", deep=over_tcp()))
    engines, stages, spanning = found.ways
    assert [way.settings for way in found.ways] == [
        {"data_parallel": 2, "tensor_parallel": 1, "pipeline_parallel": 1},
        {"tensor_parallel": 1, "pipeline_parallel": 2},
        {"tensor_parallel": 2, "pipeline_parallel": 1},
    ]
    assert found.alone is not None
    estimates = {"DP2": rate(engines), "one": found.alone.tokens_per_s, "PP2": rate(stages), "TP2": rate(spanning)}
    assert estimates["DP2"] > max(estimates["one"], estimates["PP2"]) > 2 * estimates["TP2"]
    assert abs(estimates["PP2"] / estimates["one"] - 1) < 0.2, "about equal"
    for name, measured in MEASURED.items():
        assert 0.6 < estimates[name] / measured < 1.2, name


def test_8b_on_two_nodes_with_two_gpus_each_comes_out_as_measured() -> None:
    """On four H200 (docs/reference/gpus-tested.md): the middle of what was measured, and its order."""
    found = ranked(facts_of("llama-8b", gpu="NVIDIA H200", per_node=2, deep=over_tcp(4.74)))
    estimates = [
        next(
            rate(way)
            for way in found.ways
            if {"data_parallel": 1, **way.settings} == dict(zip(SIZES, sizes, strict=True))
        )
        for sizes in ((4, 1, 1), (2, 2, 1), (1, 2, 2))
    ]
    assert estimates == sorted(estimates, reverse=True)
    for estimate, seen in zip(estimates, (12216, 10203, 5778), strict=True):
        assert 0.6 < estimate / seen < 1.4


def test_a_fast_link_turns_the_order_for_a_single_request() -> None:
    slow, fast = (ranked(facts_of("llama-8b", deep=over_tcp(rate))) for rate in (BUS_GBYTE_PER_S, 40))
    assert slow.for_one is not None
    assert not slow.for_one.tensor_spans_nodes
    fabric = replace(fast.ways[-1].links[0], name="RDMA", latency_s=30e-6)
    assert rate(fast.ways[-1]) > 3 * rate(slow.ways[-1])
    assert fabric.text == "RDMA, 40 GB/s measured"


# What is exchanged.


MODEL = Model(
    layers=32, hidden=4096, weight_bytes=16 * 10**9, expert_bytes=0, experts=0, experts_per_token=0, kv_bytes=131072,
    flops=16e9,
)  # fmt: skip
TCP = Link("TCP", 1.25e9, 60e-6, measured=False)


@pytest.mark.parametrize(
    ("shape", "exchanged"),
    [
        (Shape(1, 1, 1, None, None), 0),
        (Shape(4, 1, 1, None, None), 0),
        (Shape(1, 2, 1, TCP, None), 32 * 2 * 4096 * 2),  # 2(n-1)/n of it, which is all of it with two ranks
        (Shape(1, 8, 1, TCP, None), round(32 * 2 * 4096 * 2 * 2 * 7 / 8)),
        (Shape(1, 1, 2, None, TCP), 2 * 4096 * 2),
        (Shape(1, 2, 2, TCP, TCP), 16 * 2 * 4096 * 2 + 2 * 4096 * 2),
    ],
)
def test_what_a_token_exchanges(shape: Shape, exchanged: int) -> None:
    assert exchanged_bytes(MODEL, shape) == exchanged


def test_a_slower_link_is_never_faster_and_engines_scale() -> None:
    h100 = accelerator(H100)
    assert h100 is not None
    slow, fast = (Link("TCP", each, 60e-6, measured=False) for each in (1e9, 10e9))
    for shape in (Shape(1, 2, 1, slow, None), Shape(1, 1, 2, None, slow)):
        better = replace(shape, tensor_link=shape.tensor_link and fast, pipeline_link=shape.pipeline_link and fast)
        assert speed(MODEL, h100, better, THERE).tokens_per_s > speed(MODEL, h100, shape, THERE).tokens_per_s
    one, four = (speed(MODEL, h100, Shape(count, 1, 1, None, None), THERE).tokens_per_s for count in (1, 4))
    assert 2 < four / one <= 4


def test_requests_that_do_not_fit_the_kv_cache_wait() -> None:
    h100 = accelerator(H100)
    assert h100 is not None
    alone = Shape(1, 1, 1, None, None)
    plenty, little = (speed(MODEL, h100, alone, THERE, tokens).tokens_per_s for tokens in (10**7, 640 * 4))
    assert little < plenty / 3


# Models with experts.


def test_a_model_with_experts_is_offered_whole_experts_and_reads_those_that_it_needs() -> None:
    found = ranked(facts_of("mixtral-8x7b", per_node=8, deep=over_tcp(40)))
    with_experts = [way for way in found.ways if way.expert_parallel and way.candidate.possible]
    assert with_experts
    assert all(way.settings["expert_parallel"] is True and way.speed is not None for way in with_experts)
    arch = architecture(CONFIGS["mixtral-8x7b"])
    model = model_of(arch, experts_of(CONFIGS["mixtral-8x7b"]), 131072)
    assert model is not None
    assert model.flops < 2 * model.weight_bytes / 2 * 0.4, "two of eight experts work on a token"
    assert not [way for way in ranked(facts_of("llama-8b", per_node=8)).ways if way.expert_parallel]


def test_experts_are_divided_over_the_ranks_of_all_engines_whole_or_not() -> None:
    found = ranked(facts_of("mixtral-8x7b", per_node=8, deep=over_tcp(40))).ways
    whole, parts = (
        next(way for way in found if way.engines == 16 and way.expert_parallel is experts) for experts in (True, False)
    )
    (stage,) = whole.candidate.stages
    assert whole.candidate.stages == parts.candidate.stages
    assert stage.weights_bytes is not None
    assert stage.weights_bytes < 10 * 2**30, "of 87 GiB"
    assert parts.exchanged_bytes, "the engines work in step"
    arch = architecture(CONFIGS["qwen3-30b-a3b"])
    problems = indivisible(arch, Sizes(1, 1, engines=512))
    assert [problem.text for problem in problems] == [
        "the experts' feed-forward size 768 is not divisible by DP 512 x TP 1"
    ]
    assert indivisible(arch, Sizes(1, 1, engines=512, whole_experts=True)) == ()


# Where something is not known.


def test_without_known_figures_what_exchanges_least_comes_first() -> None:
    found = ranked(facts_of("llama-8b", gpu="Some GPU", per_node=2))
    assert [way.speed for way in found.ways] == [None] * len(found.ways)
    assert found.ways[0].settings == {"data_parallel": 4, "tensor_parallel": 1, "pipeline_parallel": 1}
    assert found.ways[-1].tensor_spans_nodes
    assert found.unknown == ("no estimate of speed: what a Some GPU can do is not known here",)


def test_what_does_not_fit_comes_last_with_its_reason() -> None:
    found = ranked(facts_of("llama-70b", per_node=8))
    assert found.alone is None
    possible = [way.candidate.possible for way in found.ways]
    assert possible == sorted(possible, reverse=True)
    assert found.ways[0].candidate.fits
    assert not found.ways[-1].candidate.possible
    assert all(way.speed is None for way in found.ways if not way.candidate.possible)


def test_a_link_that_nobody_knows_takes_the_estimates_that_need_it() -> None:
    facts = facts_of("llama-8b")
    found = ranked(facts)
    assert found.between is None
    assert [way.speed is None for way in found.ways] == [False, True, True]
    assert "clusterctl layout --bandwidth" in found.unknown[0]


def test_links_are_measured_before_they_are_nominal() -> None:
    facts, made = facts_of("llama-8b", per_node=2), inventory({"rdma": "off"})
    port = Interface("eth1", 1500, "up", 25_000)
    facts = ClusterFacts(
        {name: replace(node, system=replace(node.system, interfaces=(port,))) for name, node in facts.nodes.items()}, {}
    )
    nominal = between(made, facts)
    assert nominal is not None
    assert (nominal.bytes_per_s, nominal.measured) == (25e9 / 8, False)
    pairs = Pairs(ends={}, gbit_per_s={("gpu1", "gpu2"): 9.4, ("gpu2", "gpu1"): 8.0})
    sent = between(made, replace(facts, deep=DeepFacts(images={}, gpus_wanted=1, pairs=pairs)))
    assert sent is not None
    assert (sent.bytes_per_s, sent.measured) == (1e9, True)
    reduced = between(
        made, replace(facts, deep=DeepFacts(images={}, gpus_wanted=1, pairs=pairs, collective=all_reduce(3)))
    )
    assert reduced is not None
    assert round(reduced.bytes_per_s / 1e9, 2) == 3.0


def test_inside_a_node_the_slowest_pair_counts() -> None:
    asked = inventory({"accelerator": {"per_node": "auto"}})
    nvlink = inside(asked, facts_of("llama-8b", per_node=2), 2)
    assert nvlink is not None
    assert (nvlink.name, nvlink.bytes_per_s) == ("NVLink", 18 * 25e9)
    mixed = {**NVLINKED, "GPU0": {**NVLINKED["GPU0"], "GPU1": "SYS"}}
    pcie = inside(asked, facts_of("llama-8b", per_node=2, links=mixed), 2)
    assert pcie is not None
    assert pcie.name == "PCIe"
    assert inside(asked, facts_of("llama-8b", per_node=1), 1) is None


ISLANDS = {
    f"GPU{one}": {f"GPU{other}": "NV18" if one // 2 == other // 2 else "SYS" for other in range(4) if other != one}
    for one in range(4)
}
"""Four GPUs in two pairs with NVLink inside each."""


@pytest.mark.parametrize(
    ("devices", "name"),
    [
        ([0, 1], "NVLink"),
        ([2, 3], "NVLink"),
        ([3, 2], "NVLink"),
        ([1, 2], "PCIe"),
        ([UUID.format(3), UUID.format(2)], "NVLink"),
        ([UUID.format(0), UUID.format(3)], "PCIe"),
    ],
)
def test_the_links_are_those_of_the_chosen_gpus(devices: list[int | str], name: str) -> None:
    facts = facts_of("llama-8b", per_node=4, links=ISLANDS, deep=over_tcp())
    found = reported(facts, {"accelerator": {"per_node": "auto", "devices": devices}})
    assert found.per_node == 2
    assert found.ranking.inside is not None
    assert found.ranking.inside.name == name
    assert any("without NVLink" in note for note in found.notes) is (name == "PCIe")


def test_the_memory_and_name_are_those_of_the_chosen_gpus() -> None:
    facts = facts_of("llama-8b", per_node=3)
    small = Gpu(2, "NVIDIA T4", UUID.format(2), 15360, 0)
    mixed = {name: replace(node, gpus=(*(node.gpus or ())[:2], small)) for name, node in facts.nodes.items()}  # type: ignore[index]
    found = reported(replace(facts, nodes=mixed), {"accelerator": {"per_node": "auto", "devices": [0, 1]}})
    assert found.gpu_memory_bytes == 81559 * 1024**2
    assert found.ranking.alone is not None, "all that are used are of one kind"
    with_it = reported(replace(facts, nodes=mixed), {"accelerator": {"per_node": "auto", "devices": [1, 2]}})
    assert with_it.gpu_memory_bytes == 15360 * 1024**2
    assert with_it.ranking.alone is None


@pytest.mark.parametrize(
    ("name", "gbyte_per_s"),
    [
        (H100, 3350),
        ("NVIDIA H100 PCIe", 2000),
        ("NVIDIA H100 NVL", 3900),
        ("NVIDIA H200", 4800),
        ("NVIDIA H20", 4000),
        ("NVIDIA A100-SXM4-80GB", 2000),
        ("NVIDIA A100-SXM4-40GB", 1555),
        ("NVIDIA L40S", 864),
        ("NVIDIA L4", 300),
        ("NVIDIA GB10", 273),
        ("NVIDIA GeForce RTX 4090", 1008),
        ("Tesla T4", 320),
        ("AMD Instinct MI300X", 5300),
        ("Quadro P400", None),
    ],
)
def test_accelerators_by_the_names_that_they_give_themselves(name: str, gbyte_per_s: int | None) -> None:
    found = accelerator(name)
    assert (found and found.memory_bytes_per_s) == (gbyte_per_s and gbyte_per_s * 1e9)


# How it is shown.


def test_the_best_is_said_as_lines_of_the_inventory() -> None:
    found = reported(facts_of("llama-8b", deep=over_tcp()))
    shown = text.text(found)
    assert "best for many requests: serve: {data_parallel: 2, tensor_parallel: 1, pipeline_parallel: 1}" in shown
    assert "512 KiB over TCP" in shown
    assert "between the nodes TCP, 2.59 GB/s measured" in shown
    assert "one accelerator alone" in shown
    assert max(len(line) for line in shown.splitlines()) <= 110
    said = text.to_json(found)["ranking"]
    assert said["best_for_many"] == {"data_parallel": 2, "tensor_parallel": 1, "pipeline_parallel": 1}
    assert [way["possible"] for way in said["ways"]] == [True, True, True]


def test_without_an_estimate_no_column_pretends_one() -> None:
    shown = text.text(reported(facts_of("llama-8b", gpu="Some GPU", per_node=2)))
    assert "tokens/s" not in shown
    assert "those that exchange least first" in shown


# What `check` says of layers that are divided across nodes.


def spanning(changes: Mapping[str, Any], deep: DeepFacts | None = None) -> list[Finding]:
    own = {"accelerator": {"per_node": "auto"}, **changes}
    return list(tensor_parallel_spans(inventory(own), facts_of("llama-8b", deep=deep)))


def test_layers_across_nodes_are_said_with_what_they_exchange_over_which_link() -> None:
    (found,) = spanning({"serve": {"tensor_parallel": 2}}, over_tcp())
    assert (found.code, found.severity) == ("tensor-parallel-spans-nodes", "warning")
    assert "spans 2 nodes" in found.seen
    assert "512 KiB, over TCP, 2.59 GB/s measured" in found.seen
    (unknown,) = spanning({"serve": {"tensor_parallel": 2}})
    assert "a network whose rate is not known" in unknown.seen


def test_with_rdma_required_and_none_there_it_is_an_error() -> None:
    (found,) = spanning({"serve": {"tensor_parallel": 2}, "rdma": "required"}, over_tcp())
    assert found.severity == "error"


@pytest.mark.parametrize("serve", [{}, {"pipeline_parallel": 2}, {"data_parallel": 2}])
def test_what_stays_inside_nodes_is_no_finding(serve: Mapping[str, Any]) -> None:
    assert spanning({"serve": serve}, over_tcp()) == []


# Without an inventory and without a node.


def model_directory(folder: Path, name: str) -> Path:
    """A model's directory with headers and no weights."""
    config, tensors = CONFIGS[name], llama_tensors(CONFIGS[name])
    place = folder / name
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    entries, end = {}, 0
    for tensor_name, tensor in tensors.items():
        entries[tensor_name] = {
            "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [end, end + tensor.size_bytes],
        }  # fmt: skip
        end += tensor.size_bytes
    said = json.dumps(entries).encode()
    with (place / "model.safetensors").open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        file.truncate(8 + len(said) + end)
    return place


def layout_of(*words: str) -> Any:
    return CliRunner().invoke(cli, ["layout", *words])


def test_a_model_is_planned_from_its_directory_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = str(model_directory(tmp_path, "llama-70b"))
    machines = ["--nodes", "2", "--gpus", "8", "--memory", "80GiB", "--gpu", "H100", "--link", "100"]
    done = layout_of("--model", place, *machines, "--max-model-len", "8192", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["model"], said["nodes"], said["accelerators_per_node"]) == ("llama-70b", ["node1", "node2"], 8)
    assert said["max_model_len"] == 8192
    assert said["chosen"]["stages"][0]["weights_bytes"] > 8 * 2**30
    ways = said["ranking"]["ways"]
    assert all(way["speed"] is not None for way in ways if way["possible"])
    assert not next(way for way in ways if way["serve"].get("data_parallel") == 16)["possible"], "141 GB on one GPU"
    text_of = layout_of("--model", place, *machines).stdout
    assert "best for many requests: serve: {data_parallel:" in text_of


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "2"], "--nodes goes with --model only"),
        (["--model", "/nowhere"], "cannot read /nowhere"),
        (["--model", ".", "--bandwidth"], "--bandwidth asks nodes"),
    ],
)
def test_options_that_do_not_go_together(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = layout_of(*words)
    assert isinstance(done.exception, ClusterctlError)
    assert (done.exception.exit_code, message in done.exception.message) == (2, True)


def test_sizes_have_units(tmp_path: Path) -> None:
    assert "write it as 80GiB or 141GB" in layout_of("--model", str(tmp_path), "--memory", "80").output
    assert [BYTES.convert(text, None, None) for text in ("80GiB", "141GB", "1.5TiB")] == [
        80 * 2**30, 141 * 10**9, int(1.5 * 2**40),
    ]  # fmt: skip


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    done = layout_of("--model", str(tmp_path))
    assert isinstance(done.exception, ClusterctlError)
    assert "no config.json" in done.exception.message
