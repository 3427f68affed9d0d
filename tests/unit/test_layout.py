"""The layout's arithmetic: real configurations against numbers worked out by hand, and against what vLLM printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.records import Gpu
from clusterctl.facts.safetensors import Header, Tensor
from clusterctl.findings.finding import Finding
from clusterctl.findings.rules.layout_divides import layout_divides
from clusterctl.findings.rules.layout_memory import layout_memory
from clusterctl.layout.architecture import Architecture, architecture
from clusterctl.layout.candidate import GIB, Load, Memory, judge
from clusterctl.layout.divisible import Sizes, indivisible
from clusterctl.layout.kv_cache import bytes_per_token, capacity_tokens
from clusterctl.layout.load import load_of
from clusterctl.layout.report import Report, report
from clusterctl.layout.stages import layers_per_stage
from clusterctl.layout.weights import weights_per_gpu
from clusterctl.ui import layout as text
from tests.unit.support import FIXTURES, cluster_facts, inventory

CONFIGS: Mapping[str, dict[str, Any]] = yaml.safe_load((FIXTURES / "architectures.yaml").read_text(encoding="utf-8"))


def arch(name: str) -> Architecture:
    return architecture(CONFIGS[name])


def llama_tensors(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a Llama with these sizes, in 16 bits."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        own = {
            "self_attn.q_proj": (query, hidden), "self_attn.k_proj": (key, hidden), "self_attn.v_proj": (key, hidden),
            "self_attn.o_proj": (hidden, query), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        }  # fmt: skip
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in own.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return {
        name: Tensor("BF16", shape, 2 * shape[0] * (shape[1] if len(shape) > 1 else 1))
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize(
    ("layers", "stages", "split"),
    [
        (32, 2, (16, 16)),
        (61, 2, (31, 30)),
        (126, 4, (31, 32, 32, 31)),
        (30, 4, (7, 8, 8, 7)),
        (31, 4, (8, 8, 8, 7)),
        (29, 4, (7, 7, 8, 7)),
        (94, 8, (11, 12, 12, 12, 12, 12, 12, 11)),
        (4, 4, (1, 1, 1, 1)),
        (5, 1, (5,)),
    ],
)
def test_layers_per_stage(layers: int, stages: int, split: tuple[int, ...]) -> None:
    assert layers_per_stage(layers, stages) == split


@given(st.integers(1, 200), st.integers(1, 64))
def test_every_layer_has_one_stage(layers: int, stages: int) -> None:
    split = layers_per_stage(layers, stages)
    assert (len(split), sum(split)) == (stages, layers)
    assert max(split) - min(split) <= 1


def test_a_partition_that_is_given() -> None:
    assert layers_per_stage(32, 3, "10,12,10") == (10, 12, 10)
    for wrong in ("10,12", "10,12,11", "a,b,c"):
        with pytest.raises(ValueError, match="VLLM_PP_LAYER_PARTITION"):
            layers_per_stage(32, 3, wrong)


@pytest.mark.parametrize(
    ("name", "layers", "tensor", "expected"),
    [
        ("tiny", 4, 1, 1024),  # 4 layers x 2 KV heads x (K and V) x 32 x 2 bytes
        ("llama-8b", 32, 1, 131_072),  # 32 x 8 x 2 x 128 x 2: the 128 KiB that are often quoted
        ("llama-8b", 16, 2, 32_768),
        ("llama-70b", 40, 8, 20_480),  # 40 x 1 x 2 x 128 x 2
        ("llama-405b", 63, 8, 32_256),
        ("llama-405b", 63, 16, 32_256),  # eight KV heads on sixteen ranks: each has one, half of them copies
        ("qwen2.5-7b", 28, 4, 14_336),
        ("qwen3-32b", 64, 8, 32_768),
        ("qwen3-30b-a3b", 48, 8, 24_576),  # four KV heads on eight ranks
        ("mixtral-8x7b", 32, 8, 16_384),
        ("deepseek-v3", 61, 1, 70_272),  # 61 x (512 + 64) x 2
        ("deepseek-v3", 31, 8, 35_712),  # not divided by TP
        ("gpt-oss-20b", 24, 1, None),
        ("gemma-3-27b", 62, 1, None),
    ],
)
def test_kv_cache_of_a_token(name: str, layers: int, tensor: int, expected: int | None) -> None:
    assert bytes_per_token(arch(name), layers, tensor, 2) == expected


@pytest.mark.parametrize(
    ("name", "tensor", "pipeline", "words"),
    [
        ("llama-8b", 8, 2, []),
        ("llama-8b", 3, 1, ["32 attention heads", "8 KV heads", "size 14336"]),
        ("llama-8b", 16, 1, []),
        ("llama-8b", 1, 33, ["32 layers are fewer than 33"]),
        ("llama-3b", 16, 1, ["24 attention heads are not divisible by TP 16"]),
        ("llama-405b", 16, 1, []),
        ("qwen2.5-7b", 8, 1, ["28 attention heads"]),
        ("qwen2.5-7b", 4, 7, []),
        ("qwen3-30b-a3b", 8, 1, []),
        ("qwen3-235b-fp8", 8, 2, ["1536 / TP 8 = 192 is not divisible by block_n 128"]),
        ("qwen3-235b-fp8", 4, 4, []),
        ("qwen2-72b-gptq", 8, 1, ["29568 / TP 8 = 3696 is not divisible by the quantisation group 128"]),
        ("qwen2-72b-gptq", 1, 8, []),
        ("deepseek-v3", 16, 1, []),
        ("deepseek-v3", 32, 1, ["18432 / TP 32 = 576", "2048 / TP 32 = 64 is not divisible by block_n 128"]),
        ("mixtral-8x7b", 8, 2, []),
        ("gpt-oss-20b", 8, 2, []),
        ("gemma-3-27b", 32, 1, []),
        ("gemma-3-27b", 64, 1, ["32 attention heads"]),
    ],
)
def test_what_does_not_divide(name: str, tensor: int, pipeline: int, words: list[str]) -> None:
    said = [problem.text for problem in indivisible(arch(name), Sizes(tensor, pipeline))]
    assert len(said) == len(words), said
    assert all(word in text for word, text in zip(words, said, strict=True)), said


def test_whole_experts_need_not_divide() -> None:
    assert indivisible(arch("qwen3-235b-fp8"), Sizes(8, 2, whole_experts=True)) == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt-oss-20b", "sliding_attention"),
        ("gemma-3-27b", "1024 tokens"),
        ("qwen2.5-7b", None),  # sliding_window is given and not used
        ("mixtral-8x7b", None),
        ("deepseek-v3", None),
    ],
)
def test_an_architecture_that_allows_no_estimate_says_why(name: str, words: str | None) -> None:
    reason = arch(name).irregular
    assert reason is None if words is None else reason is not None and words in reason


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "jamba", "num_attention_heads": 32, "num_hidden_layers": 32},
        {"model_type": "qwen3_next", "num_attention_heads": 16, "linear_num_value_heads": 32},
        {"model_type": "deepseek_v32", "num_attention_heads": 128, "kv_lora_rank": 512, "index_topk": 2048},
        {"model_type": "llama4", "text_config": {"num_attention_heads": 40, "attention_chunk_size": 8192}},
        {"model_type": "mamba2", "state_size": 128},
        {},
    ],
)
def test_others_are_not_guessed(config: dict[str, Any]) -> None:
    assert architecture(config).irregular


CONTEXTS = {"llama-8b": 131072, "deepseek-v3": 163840, "qwen2.5-7b": 131072, "tiny": 2048, "gpt-oss-20b": 131072}


@pytest.mark.parametrize(("name", "tokens"), CONTEXTS.items())
def test_the_longest_request_where_none_is_declared(name: str, tokens: int) -> None:
    assert arch(name).context == tokens


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=3)
)
KEYS = sorted(
    {key for config in CONFIGS.values() for key in config} | {"mlp_only_layers", "group_size", "config_groups"}
)


@settings(
    suppress_health_check=[HealthCheck.too_slow]
)  # the first text takes seconds on a busy machine: a table is made
@given(
    st.dictionaries(st.sampled_from(KEYS), st.one_of(values, st.dictionaries(st.sampled_from(KEYS), values))),
    st.integers(1, 64),
)
def test_any_configuration_has_an_answer(config: dict[str, Any], tensor: int) -> None:
    found = architecture(config)
    judge(Load(found, None, Memory(GIB), found.context, 2), tensor, 2)


def test_weights_of_llama_8b_by_hand() -> None:
    # A layer: 2 x 4096 x 4096 (Q, O) + 2 x 1024 x 4096 (K, V) + 3 x 4096 x 14336 = 218,103,808 values in matrices,
    # 2 x 4096 in norms. Embeddings and output head: 128256 x 4096 each.
    tensors = llama_tensors(CONFIGS["llama-8b"])
    assert sum(tensor.size_bytes for tensor in tensors.values()) == 2 * 8_030_261_248
    stage = 16 * (218_103_808 * 2 // 2 + 8192 * 2)
    vocabulary = 128256 * 4096 * 2 // 2
    assert weights_per_gpu(arch("llama-8b"), tensors, (16, 16), 2) == (
        stage + vocabulary,
        stage + vocabulary + 4096 * 2,
    )


def test_tied_embeddings_are_on_the_last_stage_too() -> None:
    config = CONFIGS["llama-3b"]
    embeddings = 128256 * 3072 * 2
    one, two = weights_per_gpu(arch("llama-3b"), llama_tensors(config), (14, 14), 1)
    assert two - one == 3072 * 2  # the last norm
    assert one > embeddings
    assert weights_per_gpu(arch("llama-3b"), llama_tensors(config), (28,), 1)[0] == sum(
        tensor.size_bytes for tensor in llama_tensors(config).values()
    )


def test_kv_heads_that_are_copied_take_their_place() -> None:
    tensors = {"model.layers.0.self_attn.k_proj.weight": Tensor("BF16", (512, 64), 8000)}
    assert weights_per_gpu(arch("qwen3-30b-a3b"), tensors, (48,), 8) == (2000,)  # one of four heads, not an eighth


def test_layers_for_speculation_and_norms_and_latent_projections() -> None:
    tensors = {
        "model.layers.61.mlp.experts.0.up_proj.weight": Tensor("F8_E4M3", (1, 1), 1000),
        "model.layers.3.self_attn.q_a_proj.weight": Tensor("F8_E4M3", (1, 1), 1000),
        "model.layers.3.self_attn.q_b_proj.weight": Tensor("F8_E4M3", (1, 1), 1000),
        "model.layers.3.mlp.gate.weight": Tensor("BF16", (1, 1), 1000),
        "model.layers.3.mlp.experts.7.gate_proj.weight": Tensor("F8_E4M3", (1, 1), 1000),
    }
    assert weights_per_gpu(arch("deepseek-v3"), tensors, (31, 30), 10) == (2200, 0)


def test_what_vllm_printed_in_the_lab() -> None:
    # fixtures/logs/vllm-0.32-healthy.log: TP 1 x PP 2, VLLM_CPU_KVCACHE_SPACE=1, --max-model-len 512:
    # `CPU KV cache size: 2,097,152 tokens, Maximum concurrency for 512 tokens per request: 4096.00x`.
    load = Load(arch("tiny"), llama_tensors(CONFIGS["tiny"]), Memory(None, GIB, 128), 512, 2)
    found = judge(load, 1, 2)
    assert (found.kv_tokens, found.max_concurrency) == (2_097_152, 4096.0)
    assert judge(load, 2, 2).kv_tokens == 4_194_304  # half of the KV heads on each rank


def test_what_vllm_printed_on_real_gpus() -> None:
    # lab-facts: 8B Llama, TP 2 x PP 2 on four H200 (143771 MiB each), vLLM 0.26: 4,066,320 tokens.
    requested = int(143771 * 1024**2 * 0.92)
    load = Load(arch("llama-8b"), llama_tensors(CONFIGS["llama-8b"]), Memory(requested), 8192, 2)
    tokens = judge(load, 2, 2).kv_tokens
    assert tokens is not None
    assert abs(tokens / 4_066_320 - 1) < 0.005


def test_whole_blocks_only() -> None:
    assert capacity_tokens(1000, 1, 16, 16) == 992
    # A request of 20 tokens takes two blocks of 16: 62 blocks hold 31 of them, 620 tokens.
    assert capacity_tokens(1000, 1, 16, 20) == 620
    assert capacity_tokens(-5, 1, 16, 16) == 0


def test_405b_needs_two_nodes() -> None:
    load = Load(arch("llama-405b"), llama_tensors(CONFIGS["llama-405b"]), Memory(int(81559 * 1024**2 * 0.92)), 8192, 2)
    assert judge(load, 8, 1).fits is False
    assert judge(load, 8, 2).fits is True
    assert (judge(load, 8, 1).missing_bytes or 0) > 20 * GIB  # 811 GB / 8 = 94 GiB on 73 GiB


def facts_of(name: str, changes: Mapping[str, Any] | None = None, gpu_mib: int | None = 81559) -> ClusterFacts:
    config = CONFIGS[name]
    header = Header(100, 0, llama_tensors(config)) if config["model_type"] == "llama" else Unknown("not asked")
    files = ModelFiles({"model.safetensors": 1, "config.json": 1}, config, None, headers={"model.safetensors": header})
    gpus = tuple(Gpu(i, "GPU", f"GPU-{i}", gpu_mib, 0) for i in range(8))
    good = cluster_facts()
    return ClusterFacts(
        {n: replace(node, model=files, gpus=gpus, **(changes or {})) for n, node in good.nodes.items()}, {}
    )


EIGHT = {"accelerator": {"per_node": 8}}


def reported(name: str, changes: Mapping[str, Any] | None = None) -> Report:
    found = report(inventory({**EIGHT, **(changes or {})}), facts_of(name))
    assert isinstance(found, Report)
    return found


def findings(name: str, changes: Mapping[str, Any] | None = None) -> list[Finding]:
    declared = inventory({**EIGHT, **(changes or {})})
    return [f for rule in (layout_divides, layout_memory) for f in rule(declared, facts_of(name))]


def test_a_layout_that_fits_has_no_finding() -> None:
    assert findings("llama-70b") == []
    assert findings("gpt-oss-20b") == []  # no estimate is no finding


@pytest.mark.parametrize(
    ("name", "serve", "code", "word"),
    [
        ("qwen2.5-7b", {}, "layout-indivisible", "28 attention heads"),
        ("qwen3-235b-fp8", {}, "layout-blocks", "192"),
        ("llama-8b", {"tensor_parallel": 1, "pipeline_parallel": 34}, "layout-layers", "fewer than 34"),
    ],
)
def test_what_does_not_divide_is_a_finding(name: str, serve: Mapping[str, Any], code: str, word: str) -> None:
    (found,) = findings(name, {"serve": serve})
    assert found.code == code
    assert word in found.seen
    assert "set serve.tensor_parallel: " in found.fix


def test_too_large_a_model_and_too_long_a_request() -> None:
    (large,) = findings("llama-405b", {"serve": {"tensor_parallel": 2, "pipeline_parallel": 2}})
    assert (large.code, large.severity) == ("model-too-large", "error")
    (small,) = findings("llama-405b", {"serve": {"options": {"max-model-len": 2_000_000}}})
    assert (small.code, small.severity) == ("kv-cache-small", "error")
    assert "2,000,000" in small.seen


@pytest.mark.parametrize("option", [{"speculative-config": {"model": "x"}}, {"cpu-offload-gb": 10}])
def test_options_that_make_the_estimate_wrong_take_it_away(option: Mapping[str, Any]) -> None:
    found = reported("llama-70b", {"serve": {"options": option}})
    assert found.chosen.kv_tokens is None
    assert any(next(iter(option)) in reason for reason in found.unknown)


@pytest.mark.parametrize(
    ("said", "tokens"), [(4096, 4096), ("32k", 32_000), ("32K", 32_768), ("8192", 8192), (-1, None), ("auto", None)]
)
def test_longest_request(said: object, tokens: int | None) -> None:
    load = load_of(inventory({**EIGHT, "serve": {"options": {"max-model-len": said}}}), facts_of("llama-8b"))
    assert isinstance(load, Load)
    assert load.request_tokens == tokens


def test_fp8_kv_cache_holds_twice_as_much() -> None:
    one, two = reported("llama-70b"), reported("llama-70b", {"serve": {"options": {"kv-cache-dtype": "fp8"}}})
    assert one.chosen.kv_tokens is not None
    assert two.chosen.kv_tokens is not None
    assert two.chosen.kv_tokens / one.chosen.kv_tokens == pytest.approx(2, rel=1e-3)


def test_the_text_names_stages_alternatives_and_reasons() -> None:
    shown = text.text(reported("qwen2.5-7b"))
    assert "TP 8 x PP 2: impossible: 28 attention heads are not divisible by TP 8" in shown
    assert "use instead: serve.tensor_parallel: 4, serve.pipeline_parallel: 4" in shown
    shown = text.text(reported("llama-70b"))
    assert "stage 0 (gpu1): 40 layers" in shown
    assert "stage 1 (gpu2): 40 layers" in shown
    shown = text.text(reported("gpt-oss-20b"))
    assert "sliding_attention" in shown


def test_the_json_says_null_where_nothing_can_be_said() -> None:
    said = text.to_json(reported("gemma-3-27b"))
    assert said["chosen"]["kv_cache_tokens"] is None
    assert said["chosen"]["fits"] is None
    assert said["chosen"]["possible"] is True
    assert said["not_estimated"]


def test_no_configuration_no_layout() -> None:
    assert isinstance(report(inventory(EIGHT), ClusterFacts({}, {})), Unknown)
