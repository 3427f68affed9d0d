"""The image's report: what a real one says, what is made of broken ones, and what is started to get it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusterctl.facts.cluster import DeepFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.image_report import ImageReport, RunFailed, parse_report, read_output
from clusterctl.findings.rules import check
from clusterctl.hosts.engine.engine import Output
from clusterctl.planning.container import container_specs
from clusterctl.preflight.image import image_probe
from clusterctl.preflight.inside import REPORT_SOURCE
from tests.unit.reports import GOOD
from tests.unit.support import FIXTURES, cluster_facts, deployment, inventory


def reported(*arguments: str) -> dict[str, Any]:
    """What report.py says of the Python that runs the tests."""
    argv = [sys.executable, str(REPORT_SOURCE), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True, env={"NCCL_DEBUG": "INFO"})
    return dict(json.loads(done.stdout))


def test_the_report_of_this_python_is_read() -> None:
    found = parse_report("a line of the image's own\n" + json.dumps(reported("50", "/nonexistent")))
    assert isinstance(found, ImageReport)
    assert found.python == ".".join(str(part) for part in sys.version_info[:3])
    assert found.distributions["pydantic"]
    assert len(found.digest) == 64
    assert found.environment == {"NCCL_DEBUG": "INFO"}


def test_the_report_ends_at_its_deadline(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("import time\ntime.sleep(600)\n")
    for deadline_s in ("0.5", "5", "25"):  # on a busy machine the short ones end it before it comes to its imports
        argv = [sys.executable, str(REPORT_SOURCE), deadline_s, "/nonexistent", "--deep"]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=120, check=False, env={"PYTHONPATH": str(tmp_path)}
        )
        assert done.returncode != 0
        assert "Timeout" in done.stderr
        if "ray.py" in done.stderr:
            break
    assert "ray.py" in done.stderr, "it says where it hung"


def test_a_module_that_does_not_import_is_named(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise SystemExit('no libgomp')\n")
    argv = [sys.executable, str(REPORT_SOURCE), "50", "/nonexistent", "--deep"]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, check=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert json.loads(done.stdout)["broken_imports"]["ray"] == "SystemExit: no libgomp"


@pytest.mark.parametrize("name", [path.name for path in sorted((FIXTURES / "image_report").glob("*.json"))])
def test_captured_reports_are_read(name: str) -> None:
    found = parse_report((FIXTURES / "image_report" / name).read_text())
    assert isinstance(found, ImageReport)
    assert (found.cuda, found.driver_cuda, found.nccl, found.gpus) == ("13.0", "13.0", "2.28.9", 2)


@pytest.mark.parametrize("text", ["", "\n", "hello", "[]", "{}", '{"python": "3.12"}', "null"])
def test_what_is_no_report_is_unknown(text: str) -> None:
    assert isinstance(parse_report(text), Unknown)


def test_a_script_that_ended_early_says_its_last_words() -> None:
    found = read_output(Output(b"", b"Traceback\nModuleNotFoundError: No module named 'importlib.metadata'\n"))
    assert found == RunFailed(
        "python3 in the image made no report: ModuleNotFoundError: No module named 'importlib.metadata'"
    )


def test_the_probe_has_the_serving_containers_flags() -> None:
    changes = {"container": {"volumes": ["/scratch:/cache:ro"], "env": {"NCCL_DEBUG": "WARN"}}}
    nodes = {"gpu2": {"infiniband": ["uverbs0"]}}
    probe = image_probe(inventory(changes), cluster_facts(nodes), "gpu2")
    serving = dict(container_specs(deployment(changes, nodes))["gpu2"].host_config)
    probed = dict(probe.host_config)
    mounts = [(m["Source"], m["Target"], bool(m.get("ReadOnly"))) for m in probed.pop("mounts")]
    assert mounts == [("/models/llama", "/models/llama", True), ("/scratch", "/cache", True)]
    own = "demo-cache:/var/cache/clusterctl"  # compiled code: for who serves, not for who looks
    assert serving.pop("binds") == ["/models/llama:/models/llama:ro", "/scratch:/cache:ro", own]
    assert probed == serving
    assert probe.gpus == 2
    assert probe.config["environment"] == {"NCCL_DEBUG": "WARN"}
    assert probe.config["labels"]["clusterctl.role"] == "probe"


def test_a_model_that_is_not_there_is_not_made_by_looking() -> None:
    probe = image_probe(inventory(), cluster_facts({"gpu2": {"model": None}}), "gpu2")
    assert probe.host_config["mounts"] == []


def test_what_the_engine_refuses_can_be_left_out() -> None:
    probe = image_probe(inventory({"container": {"volumes": ["/scratch:/cache"]}}), cluster_facts(), "gpu1")
    assert [mount["Target"] for mount in probe.without_volumes.host_config["mounts"]] == ["/models/llama"]
    assert "device_requests" not in probe.without_gpus.host_config
    assert probe.without_gpus.gpus == 0


def test_without_nvidia_no_gpus_are_asked_for() -> None:
    probe = image_probe(inventory({"accelerator": {"kind": "cpu", "per_node": 1}}), cluster_facts(), "gpu1")
    assert (probe.gpus, "device_requests" in probe.host_config) == (0, False)


# What vLLM says of the options.

SERVE = """
import argparse
class ServeSubcommand:
    def subparser_init(self, subparsers):
        parser = subparsers.add_parser("serve")
        parser.add_argument("--config")
        parser.add_argument("--model", default="other")
        parser.add_argument("--headless", action="store_true")
    def validate(self, args):
        self.checked = args
"""
ARGUMENTS = """
class AsyncEngineArgs:
    @classmethod
    def from_cli_args(cls, args):
        found = cls(); found.args = args
        return found
    def create_engine_config(self, headless):
        {body}
"""


def vllm_package(folder: Path, body: str, flags: str = "") -> Path:
    """A package that stands where vLLM does, as far as the report asks it."""
    files = {
        "vllm/__init__.py": "",
        "vllm/utils/__init__.py": "",
        "vllm/utils/argparse_utils.py": "import argparse\nFlexibleArgumentParser = argparse.ArgumentParser\n",
        "vllm/engine/__init__.py": "",
        "vllm/engine/arg_utils.py": ARGUMENTS.format(body=body) + flags,
        "vllm/entrypoints/__init__.py": "",
        "vllm/entrypoints/launchers/cli_args.py": 'group.add_argument("--headless")\n',
        "vllm/entrypoints/cli/__init__.py": "",
        "vllm/entrypoints/cli/serve.py": SERVE,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "asked.yaml").write_text("port: 8000\n")
    return folder


def asked(folder: Path) -> dict[str, Any]:
    argv = [sys.executable, str(REPORT_SOURCE), "50", "/nonexistent", "--deep", f"--options={folder / 'asked.yaml'}"]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, check=True, env={"PYTHONPATH": str(folder)}
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", None),
        ("raise ValueError('TP 3 does not divide 4 heads')", "ValueError: TP 3 does not divide 4 heads"),
        (
            "error = ValueError('…'); error.errors = lambda: [{'msg': 'Value error, no awq'}]; raise error",
            "no awq",
        ),
        (
            "assert self.args.config.endswith('asked.yaml'); raise SystemExit(2)",
            "it refuses the options",
        ),
    ],
)
def test_what_vllm_says_of_the_options_is_reported_in_its_words(tmp_path: Path, body: str, words: str | None) -> None:
    assert asked(vllm_package(tmp_path, body))["refused_options"] == words


def test_an_option_that_it_does_not_know_is_refused_by_its_parser(tmp_path: Path) -> None:
    folder = vllm_package(tmp_path, "return None")
    (folder / "vllm/entrypoints/cli/serve.py").write_text(SERVE.replace('"--config"', '"--other"'))
    assert "unrecognized arguments: --config" in asked(folder)["refused_options"]


def test_flags_are_read_without_an_import(tmp_path: Path) -> None:
    flags = 'raise SystemExit("imported")\nparallel.add_argument("--nnodes", "-n")\nif "--not a flag": pass\n'
    folder = vllm_package(tmp_path, "return None", flags)
    argv = [sys.executable, str(REPORT_SOURCE), "50", "/nonexistent"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, env={"PYTHONPATH": str(folder)})
    said = json.loads(done.stdout)
    assert {"--nnodes", "--headless", "--config", "--model"} <= set(said["serve_flags"])
    assert "--not a flag" not in said["serve_flags"]
    assert said["refused_options"] is None


def test_only_the_deep_report_is_given_the_options() -> None:
    probe = image_probe(inventory(), cluster_facts(), "gpu1")
    assert probe.options is None
    deep = image_probe(inventory(), cluster_facts(), "gpu2", ask_registry=True)
    assert deep.config["command"][2:] == ["--deep", "--options=/etc/clusterctl/asked.yaml"]
    assert deep.options is not None
    assert "tensor-parallel-size: 2" in deep.options
    assert deep.without_gpus.options == deep.options


def test_a_node_that_was_not_read_leaves_the_rest_of_the_report() -> None:
    """Which options vLLM would get is not known then; `check --deep` asks for the rest all the same."""
    one_lost = cluster_facts(unreachable={"gpu1": "`sh` did not end within 20 s"})
    deep = image_probe(inventory(), one_lost, "gpu2", ask_registry=True)
    assert deep.options is None
    assert deep.config["command"][2:] == ["--deep"]


def test_flags_of_the_image_are_judged_beside_a_node_that_was_not_read() -> None:
    """What is wrong elsewhere is still named, and nothing is made up about the flags that it would need."""
    report = replace(GOOD, serve_flags=frozenset({"--config"}))
    one_lost = cluster_facts(unreachable={"gpu2": "`sh` did not end within 20 s"})
    decided = inventory({"serve": {"executor": "ray"}})
    found = check(decided, replace(one_lost, deep=DeepFacts(images={"gpu1": report}, gpus_wanted=2)))
    assert ("node-unreachable", ("gpu2",)) in [(finding.code, finding.nodes) for finding in found]
    assert "mode-refused" not in [finding.code for finding in found]


# What vLLM is asked about: which file of the model's says the architecture.

ADAPT = """
class Made:
    def __init__(self, said): self.architectures = said
def adapt_config_dict(config_dict, defaults):
    return Made([config_dict["dim"], defaults.get("model_type", "nothing beside")])
"""
REGISTRY = """
class Known:
    def __init__(self, stages): self.stages = stages
    def load_model_cls(self): return self.stages
class ModelRegistry:
    models = {"InStages": Known(True), "InOne": Known(False), "Qwen3ForCausalLM": Known(True)}
    @classmethod
    def get_supported_archs(cls): return cls.models.keys()
"""
MAPPING = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = {'qwen3': 'Qwen3ForCausalLM', 'other': 'OtherForCausalLM'}\n"
SURFACE = {
    "vllm/__init__.py": "",
    "vllm/transformers_utils/__init__.py": "",
    "vllm/transformers_utils/configs/__init__.py": "",
    "vllm/transformers_utils/configs/mistral.py": ADAPT,
    "vllm/model_executor/__init__.py": "",
    "vllm/model_executor/models/__init__.py": REGISTRY,
    "vllm/model_executor/models/interfaces.py": "supports_pp = bool\n",
    "transformers/__init__.py": "",
    "transformers/models/__init__.py": "",
    "transformers/models/auto/__init__.py": "",
    "transformers/models/auto/modeling_auto.py": MAPPING,
}
HF = {"config.json": {"architectures": ["InStages"], "model_type": "qwen3"}, "model.safetensors": None}
MISTRAL = {"params.json": {"dim": "InOne"}, "consolidated.safetensors": None}
GGUF = {"tiny-Q4_K_M.gguf": None}


def written(folder: Path, files: dict[str, Any]) -> Path:
    for name, said in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(said if isinstance(said, str) else json.dumps(said), encoding="utf-8")
    return folder


def supported(tmp_path: Path, files: dict[str, Any], *options: str, path: str = "") -> dict[str, Any]:
    """What the report says of a model with these files; the lab's tests ask a real vLLM."""
    surface, model = written(tmp_path / "site", SURFACE), written(tmp_path / "model", files)
    base = written(tmp_path / "base", {"config.json": HF["config.json"]})
    asked_for = [option.replace("BASE", str(base)) for option in options]
    argv = [sys.executable, str(REPORT_SOURCE), "50", str(model / path), "--deep", *asked_for]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, check=True, env={"PYTHONPATH": str(surface)}
    )
    return dict(json.loads(done.stdout)["model_support"])


@pytest.mark.parametrize(
    ("files", "options", "architectures"),
    [
        (HF, [], ["InStages"]),
        (MISTRAL, [], ["InOne", "nothing beside"]),
        ({"params.json": {"dim": "InOne"}}, [], ["InOne", "nothing beside"]),
        ({**HF, "params.json": {"dim": "InOne"}}, [], ["InStages"]),
        ({**HF, **MISTRAL}, [], ["InOne", "qwen3"]),
        ({**HF, **MISTRAL}, ["--config-format=hf"], ["InStages"]),
        ({**HF, "params.json": {"dim": "InOne"}}, ["--config-format=mistral"], ["InOne", "qwen3"]),
        (MISTRAL, ["--hf-config-path=BASE"], ["InStages"]),
        ({**HF, **GGUF}, [], ["InStages"]),
    ],
)
def test_the_architecture_is_that_of_the_file_that_vllm_reads(
    tmp_path: Path, files: dict[str, Any], options: list[str], architectures: list[str]
) -> None:
    said = supported(tmp_path, files, *options)
    assert said == {"architectures": architectures, "supported": True, "pipeline_parallel": "InStages" in architectures}


@pytest.mark.parametrize(
    ("files", "options", "path"),
    [
        ({**GGUF, "config.json": {"model_type": "qwen3", "architectures": ["Foo"]}}, [], "tiny-Q4_K_M.gguf"),
        ({**GGUF, "config.json": {"model_type": "qwen3", "architectures": ["Foo"]}}, [], ""),
        (GGUF, ["--tokenizer=BASE"], "tiny-Q4_K_M.gguf"),
        (GGUF, ["--tokenizer=/nowhere", "--hf-config-path=BASE"], "tiny-Q4_K_M.gguf"),
        ({**GGUF, "config.json": {"model_type": "other"}}, ["--hf-config-path=BASE"], "tiny-Q4_K_M.gguf"),
    ],
)
def test_of_gguf_the_model_type_decides_not_what_config_json_calls_the_class(
    tmp_path: Path, files: dict[str, Any], options: list[str], path: str
) -> None:
    said = supported(tmp_path, files, *options, path=path)
    assert said == {"architectures": ["Qwen3ForCausalLM"], "supported": True, "pipeline_parallel": True}


@pytest.mark.parametrize(
    ("files", "options", "words", "without"),
    [
        (GGUF, [], "tiny-Q4_K_M.gguf/../config.json", True),
        (GGUF, ["--hf-config-path=/nowhere"], "/nowhere/config.json", True),
        ({**GGUF, "config.json": {"model_type": "clip"}}, [], "no text model of type clip", False),
        (HF, ["--config-format=own"], "config-format own is a plugin's", False),
        (HF, ["--config-format=mistral"], "params.json", False),
    ],
)
def test_what_cannot_be_asked_says_why(
    tmp_path: Path, files: dict[str, Any], options: list[str], words: str, without: bool
) -> None:
    said = supported(tmp_path, files, *options, path="tiny-Q4_K_M.gguf" if files is GGUF else "")
    assert words.replace("tiny-Q4_K_M.gguf/..", str(tmp_path / "model")) in said["error"]
    assert said.get("no_configuration", False) == without


def test_options_that_say_where_the_configuration_is_are_passed_on() -> None:
    options = {"config-format": "mistral", "hf-config-path": "/models/base", "tokenizer": "/models/base", "seed": 1}
    asked_deep = inventory({"serve": {"options": options}})
    command = image_probe(asked_deep, cluster_facts(), "gpu1", ask_registry=True).config["command"]
    assert command[4:] == ["--config-format=mistral", "--hf-config-path=/models/base", "--tokenizer=/models/base"]
    assert image_probe(asked_deep, cluster_facts(), "gpu1").config["command"][2:] == []
