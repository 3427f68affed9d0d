"""Models as they lie on disks: real directories in every format, read by the probe and by `layout`, which agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clusterctl.cli.main import cli
from clusterctl.errors import ClusterctlError
from clusterctl.facts.fact import Unknown
from clusterctl.facts.gguf import Gguf, gguf
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.model_formats import Asked, config_format, config_of, load_format, loaded, wanted
from clusterctl.facts.model_here import model_here
from clusterctl.facts.safetensors import header
from clusterctl.layout.architecture import architecture
from clusterctl.layout.divisible import Sizes, indivisible
from clusterctl.layout.tensors import tensors_of
from clusterctl.layout.weights import weights_per_gpu
from tests.unit.model_files import gguf_bytes, header_json, safetensors
from tests.unit.test_model_files import read

# A Llama with two layers: embeddings 1000, each layer Q 100, K 40, gate 60 and a norm 8, the norm 8, the head 1000.
HF = {
    "model.embed_tokens.weight": 1000, "model.norm.weight": 8, "lm_head.weight": 1000,
    **{f"model.layers.{n}.{name}.weight": size for n in (0, 1) for name, size in (
        ("self_attn.q_proj", 100), ("self_attn.k_proj", 40), ("mlp.gate_proj", 60), ("input_layernorm", 8))},
}  # fmt: skip
MISTRAL = {
    "tok_embeddings.weight": 1000, "norm.weight": 8, "output.weight": 1000,
    **{f"layers.{n}.{name}.weight": size for n in (0, 1) for name, size in (
        ("attention.wq", 100), ("attention.wk", 40), ("feed_forward.w1", 60), ("attention_norm", 8))},
}  # fmt: skip
TOTAL = 1000 + 8 + 1000 + 2 * 208
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 4096,
}  # fmt: skip
PARAMS = {"dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 4, "hidden_dim": 128, "head_dim": 8, "vocab_size": 32}
GGUF = {
    "general.architecture": "llama", "llama.block_count": 2, "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 4, "llama.embedding_length": 64, "llama.feed_forward_length": 128,
    "llama.context_length": 4096, "tokenizer.ggml.tokens": ["texts", [f"t{n}" for n in range(3000)]],
    "tokenizer.ggml.scores": ["f32", [0.5] * 3000], "general.file_type": ["u32", 15],
    "llama.rope.freq_base": ["f32", 10000.0], "tokenizer.ggml.add_bos_token": ["bool", True],
}  # fmt: skip
GGUF_TENSORS = {
    "token_embd.weight": ["Q8_0", [64, 32], 2176], "output_norm.weight": ["F32", [64], 256],
    **{f"blk.{n}.{name}.weight": tensor for n in (0, 1) for name, tensor in {
        "attn_q": ["Q4_K", [256, 16], 2304], "attn_k": ["Q4_K", [256, 8], 1152],
        "ffn_down": ["Q4_K", [256, 16], 2304], "attn_norm": ["F32", [64], 256],
    }.items()},
}  # fmt: skip


def shard(sizes: Mapping[str, int]) -> bytes:
    end, tensors = 0, {}
    for name, size in sizes.items():
        end += size
        tensors[name] = ["BF16", [size // 2], end]
    return safetensors(tensors)


def write(directory: Path, name: str, sizes: Mapping[str, int], parts: int = 1, *, index: bool = False) -> None:
    """Weights in so many files, as Hugging Face numbers them."""
    names = [name if parts == 1 else f"{name[:-12]}-{n:05}-of-{parts:05}.safetensors" for n in range(1, parts + 1)]
    places = {tensor: names[position % parts] for position, tensor in enumerate(sizes)}
    for file in names:
        (directory / file).write_bytes(shard({t: size for t, size in sizes.items() if places[t] == file}))
    if index:
        (directory / f"{name}.index.json").write_text(json.dumps({"weight_map": places}, indent=1), encoding="utf-8")


def put(directory: Path, **files: Mapping[str, Any]) -> None:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def hf(directory: Path) -> None:
    put(directory, config=CONFIG, tokenizer={})
    write(directory, "model.safetensors", HF)


def hf_indexed(directory: Path) -> None:
    put(directory, config=CONFIG, tokenizer={})
    write(directory, "model.safetensors", HF, 3, index=True)


def hf_numbered(directory: Path) -> None:
    put(directory, config=CONFIG, tokenizer={})
    write(directory, "model.safetensors", HF, 3)


def mistral(directory: Path) -> None:
    put(directory, params=PARAMS, tekken={})
    write(directory, "consolidated.safetensors", MISTRAL)


def mistral_indexed(directory: Path) -> None:
    put(directory, params=PARAMS, tekken={})
    write(directory, "consolidated.safetensors", MISTRAL, 2, index=True)


def both(directory: Path) -> None:
    hf_indexed(directory)
    mistral(directory)


def both_without_an_index(directory: Path) -> None:
    hf(directory)
    write(directory, "consolidated.safetensors", MISTRAL)


def snapshot(directory: Path) -> None:
    """As huggingface_hub keeps it: links to blobs."""
    blobs = directory.parent / "blobs"
    blobs.mkdir()
    hf_indexed(directory)
    for number, file in enumerate(sorted(directory.iterdir())):
        file.rename(blobs / f"{number:064x}")
        file.symlink_to(f"../blobs/{number:064x}")


LAYOUTS = {
    hf: ("hf", "hf", 1), hf_indexed: ("hf", "hf", 3), hf_numbered: ("hf", "hf", 3), snapshot: ("hf", "hf", 3),
    mistral: ("mistral", "mistral", 1), mistral_indexed: ("mistral", "mistral", 2),
    both: ("mistral", "mistral", 1), both_without_an_index: ("hf", "mistral", 1),
}  # fmt: skip


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_each_format_is_read_here_and_on_a_node_and_counted_once(make: Any, tmp_path: Path) -> None:
    place = tmp_path / "model"
    place.mkdir()
    make(place)
    for files in (model_here(place), read(place)):
        assert (config_format(files), load_format(files), len(loaded(files))) == LAYOUTS[make]
        config = config_of(files)
        assert isinstance(config, Mapping)
        arch = architecture(config)
        assert (arch.layers, arch.heads, arch.kv_heads, arch.hidden, arch.intermediate) == (2, 8, 4, 64, 128)
        tensors = tensors_of(files)
        assert tensors is not None
        assert weights_per_gpu(arch, tensors, (1, 1), 1) == (1000 + 208, 208 + 8 + 1000)
        # By TP 2 a half of all but norms; K has four heads, two on each rank.
        assert weights_per_gpu(arch, tensors, (2,), 2) == ((TOTAL - 3 * 8) // 2 + 3 * 8,)


@pytest.mark.parametrize("make", [hf_indexed, hf_numbered, mistral_indexed, snapshot], ids=lambda make: make.__name__)
def test_a_missing_shard_is_noticed_in_every_layout(make: Any, tmp_path: Path) -> None:
    place = tmp_path / "model"
    place.mkdir()
    make(place)
    last = max(file.name for file in place.glob("*.safetensors"))
    (place / last).resolve().unlink()
    for files in (model_here(place), read(place)):
        assert last in wanted(files) - set(loaded(files))
        assert tensors_of(files) is None
    said = CliRunner().invoke(cli, ["layout", "--model", str(place), "--memory", "80GiB", "--json"])
    assert any("missing" in reason for reason in json.loads(said.stdout)["not_estimated"])


def test_an_option_chooses_the_other_format(tmp_path: Path) -> None:
    both(tmp_path)
    files = model_here(tmp_path)
    said = Asked(config="hf", load="hf")
    assert (config_format(files, said), len(loaded(files, said))) == ("hf", 3)
    tensors = tensors_of(files, said)
    assert tensors is not None
    assert sum(tensor.size_bytes for tensor in tensors.values()) == TOTAL


def gguf_file(place: Path, **changes: Any) -> Path:
    place.write_bytes(gguf_bytes({**GGUF, **changes}, GGUF_TENSORS, data=True))
    return place


def test_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    place = gguf_file(tmp_path / "m-Q4_K_M.gguf")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    for files in (model_here(place), read(place)):
        assert (files.single, list(files.sizes), files.config) == ("m-Q4_K_M.gguf", ["m-Q4_K_M.gguf"], None)
        header = files.ggufs["m-Q4_K_M.gguf"]
        assert isinstance(header, Gguf)
        assert header.file_bytes == place.stat().st_size
        config = config_of(files)
        assert isinstance(config, Mapping)
        assert config["vocab_size"] == 3000
        arch = architecture(config)
        assert (arch.layers, arch.heads, arch.kv_heads, arch.head_dim, arch.context) == (2, 8, 4, 8, 4096)
        assert arch.quantization is not None
        assert (arch.quantization.method, arch.quantization.group_size) == ("gguf", 256)
        tensors = tensors_of(files)
        assert tensors is not None
        # Two layers of 2304 + 1152 + 2304 and a norm, which is loaded with 16 bits; no output: tied to the embeddings.
        layer = 2304 + 1152 + 2304 + 128
        assert weights_per_gpu(arch, tensors, (1, 1), 1) == (2176 + layer, layer + 128 + 2176)
    done = CliRunner().invoke(cli, ["layout", "--model", str(place), "--memory", "24GiB", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["architecture"]["layers"] == 2


def test_parts_of_a_gguf_model_and_its_vision_part(tmp_path: Path) -> None:
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(gguf_bytes(GGUF, GGUF_TENSORS, data=True))
    second = {"blk.1.ffn_up.weight": ["F16", [64, 2], 256]}
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(gguf_bytes({"split.no": ["u16", 1]}, second, data=True))
    (tmp_path / "mmproj-F16.gguf").write_bytes(gguf_bytes({"general.architecture": "clip"}, {}))
    for files in (model_here(tmp_path), read(tmp_path)):
        assert loaded(files) == ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
        tensors = tensors_of(files)
        assert tensors is not None
        assert "layers.1.mlp.up_proj.weight" in tensors
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    assert wanted(model_here(tmp_path)) - set(loaded(model_here(tmp_path))) == {"m-00002-of-00002.gguf"}
    assert tensors_of(model_here(tmp_path)) is None


def test_layers_for_speculation_in_a_gguf_file_are_not_the_models(tmp_path: Path) -> None:
    place = gguf_file(tmp_path / "m.gguf", **{"llama.nextn_predict_layers": 1})
    config = config_of(model_here(place))
    assert isinstance(config, Mapping)
    assert architecture(config).layers == 1


@pytest.mark.parametrize(
    "content",
    [
        b"", b"GGUF", b"GGML" + b"\0" * 60, b"GGUF\x01\0\0\0" + b"\0" * 60, b"GGUF\x03\0\0\0" + b"\xff" * 60,
        gguf_bytes(GGUF, GGUF_TENSORS)[:2000], gguf_bytes({"a": ["f64", 1.0]}).replace(b"\x0c\0\0\0", b"\x63\0\0\0"),
        gguf_bytes({}, {"w": ["F32", [1], 4]}).replace(b"\x01\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0", b"\x63" * 16),
    ],
    ids=range(8),
)  # fmt: skip
def test_what_is_no_gguf_header_is_unknown(content: bytes) -> None:
    assert isinstance(gguf(content), Unknown)


def test_big_endian_and_every_kind_of_value() -> None:
    kinds = ["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64"]
    metadata = {kind: [kind, 7] for kind in kinds} | {"list": ["i32", [1, 2]], "flag": ["bool", False]}
    said = gguf(gguf_bytes(metadata, {"w": ["F16", [4, 2], 16]}, order=">"))
    assert isinstance(said, Gguf)
    assert [said.metadata[kind] for kind in kinds] == [7] * 8
    assert (said.metadata["list"], said.tensors["w"].shape, said.tensors["w"].size_bytes) == ([1, 2], (2, 4), 16)


def files_with(config: Mapping[str, Any], sizes: Mapping[str, int]) -> ModelFiles:
    end, tensors = 0, {}
    for name, size in sizes.items():
        end += size
        tensors[name] = ["BF16", [size], end]
    return ModelFiles(
        {"model.safetensors": 1}, config, None, headers={"model.safetensors": header(header_json(tensors))}
    )


PREDICTION = [
    "mtp.layers.0.self_attn.q_proj.weight", "mtp.fc.weight", "model.mtp_layers.0.mlp.up_proj.weight",
    "model.mtp_block.0.mlp.up_proj.weight", "model.mtp.layers.0.eh_proj.weight", "model.layers.2.eh_proj.weight",
    "model.mtp_emb_norm.0.weight", "model.layers.3.self_attn.q_proj.weight",
]  # fmt: skip


@pytest.mark.parametrize("name", PREDICTION)
def test_layers_for_speculation_are_not_layer_0(name: str) -> None:
    tensors = tensors_of(files_with(CONFIG, {**HF, name: 5000}))
    assert tensors is not None
    assert weights_per_gpu(architecture(CONFIG), tensors, (1, 1), 1) == (1000 + 208, 208 + 8 + 1000)


TOWERS = [
    # model_type, its part, TP, what does not divide, whether data is possible
    ("glm4v", {"vision_config": {"num_heads": 12, "intermediate_size": 13699}}, 8, "12 attention heads", True),
    ("qwen2_5_vl", {"vision_config": {"num_heads": 16, "intermediate_size": 3420}}, 8, "feed-forward size 3420", True),
    ("qwen2_5_vl", {"vision_config": {"num_heads": 16, "intermediate_size": 3420}}, 4, None, True),
    ("qwen3_vl", {"vision_config": {"num_heads": 16, "intermediate_size": 4304}}, 3, "16 attention heads", True),
    ("llava", {"vision_config": {"num_attention_heads": 16, "intermediate_size": 4096}}, 8, None, False),
    ("paligemma", {"vision_config": {"num_attention_heads": 16, "intermediate_size": 4304}}, 32, "16 attention", False),
    ("internvl_chat", {"vision_config": {"num_attention_heads": 25}}, 8, None, False),  # vLLM leaves it whole itself
    ("gemma3n", {"vision_config": {"num_attention_heads": 12}}, 8, None, False),
    ("voxtral", {"audio_config": {"encoder_attention_heads": 20}}, 8, "audio encoder's 20 attention heads", False),
    ("qwen2_audio", {"audio_config": {"encoder_attention_heads": 20}}, 8, None, False),
    ("llama", {}, 8, None, False),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "part", "tensor", "words", "data"), TOWERS)
def test_encoders_of_images_and_sound(
    model_type: str, part: Mapping[str, Any], tensor: int, words: str | None, data: bool
) -> None:
    text = {"num_attention_heads": 96, "num_hidden_layers": 2, "num_key_value_heads": 96, "model_type": "llama"}
    found = indivisible(architecture({"model_type": model_type, "text_config": text, **part}), Sizes(tensor, 1))
    said = [problem.text for problem in found if problem.kind == "tower"]
    assert bool(said) == (words is not None), said
    if words is not None:
        assert words in said[0]
        assert ("mm-encoder-tp-mode: data" in said[0]) == data


def test_the_vision_part_of_mistrals_own_format() -> None:
    vision = {"num_attention_heads": 12, "intermediate_size": 4096}
    for params in ({**PARAMS, "vision_encoder": vision}, {**PARAMS, "multimodal": {"vision_encoder_args": vision}}):
        files = ModelFiles({"consolidated.safetensors": 1, "params.json": 1}, None, None, params=params)
        config = config_of(files)
        assert isinstance(config, Mapping)
        arch = architecture(config)
        assert (arch.name, arch.layers, arch.context) == ("PixtralForConditionalGeneration", 2, 128_000)
        assert [p.text for p in indivisible(arch, Sizes(8, 1)) if "encoder" in p.text]


def test_experts_and_latent_attention_of_mistrals_own_format() -> None:
    moe = {"num_experts": 128, "num_experts_per_tok": 4, "expert_hidden_dim": 96, "num_shared_experts": 1}
    large = {**PARAMS, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "moe": moe}
    config = config_of(ModelFiles({"consolidated.safetensors": 1, "params.json": 1}, None, None, params=large))
    assert isinstance(config, Mapping)
    arch = architecture(config)
    assert (arch.experts, arch.experts_per_token, arch.expert_intermediate, arch.latent) == (128, 4, 96, 576)


def test_a_window_in_mistrals_own_format_is_no_estimate() -> None:
    said = config_of(
        ModelFiles(
            {"consolidated.safetensors": 1, "params.json": 1},
            None,
            None,
            params={**PARAMS, "sliding_window": [None, 32768]},
        )
    )
    assert isinstance(said, Mapping)
    assert architecture(said).irregular


@pytest.mark.parametrize("name", ["nowhere", "file.safetensors"])
def test_what_is_no_model_is_exit_code_2(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_bytes(b"12345678")
    done = CliRunner().invoke(cli, ["layout", "--model", str(tmp_path / name)])
    assert isinstance(done.exception, ClusterctlError)
    assert done.exception.exit_code == 2


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no config.json"), ({"config.json": b"{"}, "config.json"), ({"params.json": b"{}"}, "no config.json"),
        ({"consolidated.safetensors": b"", "params.json": b"nope"}, "params.json"), ({"m.gguf": b"GGUF"}, "cut off"),
        ({"snapshots/abc/config.json": b"{}"}, "snapshots/abc"),
    ],
)  # fmt: skip
def test_a_directory_without_a_configuration_says_what_is_wrong(
    files: Mapping[str, bytes], words: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    done = CliRunner().invoke(cli, ["layout", "--model", str(tmp_path), "--json"])
    assert isinstance(done.exception, ClusterctlError)
    assert done.exception.exit_code == 2
    assert words in done.exception.message
