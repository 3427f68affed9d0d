"""The formats that serve.options name are there, and only one of them is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.model_formats import CONSOLIDATED, HF_CONFIG, HF_INDEX, MISTRAL_CONFIG, load_format, matching
from clusterctl.facts.model_formats import asked as asked_formats
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.model import files_by_node, listed
from clusterctl.inventory.model import Inventory

NEEDED: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("config-format", "mistral"): (MISTRAL_CONFIG,),
    ("config-format", "hf"): (HF_CONFIG,),
    ("load-format", "mistral"): (CONSOLIDATED,),
    ("load-format", "safetensors"): ("*.safetensors",),
    ("load-format", "pt"): ("*.pt",),
    ("load-format", "npcache"): ("*.bin",),
    ("tokenizer-mode", "mistral"): ("tekken.json", "tokenizer.model*", "tokenizer.mm.model*"),
}
"""Option and its value → files of which there must be one (vLLM 0.32)."""

ABSENT = Code(
    name="model-format-absent",
    severity=ERROR,
    title="The format is not there",
    runbook="model.md",
    seen="serve.options.{option}: {value} needs {files}, which {path} has not",
    why="vLLM does not look for another format where one is asked for: it ends with `Cannot find any model weights`, "
    "or a configuration or tokenizer that it does not find",
    fix="remove serve.options.{option}: without it vLLM takes what is there; or copy the files from the model's source",
    note="Options are `config-format`, `load-format` and `tokenizer-mode`.",
)
TWICE = Code(
    name="model-weights-twice",
    severity=ERROR,
    title="Weights in two formats",
    runbook="model.md",
    seen="{path} holds the weights twice ({files}), and serve.options.load-format: {value} loads both",
    why="without model.safetensors.index.json nothing says which files are the model: loading ends in a KeyError",
    fix="remove serve.options.load-format (vLLM then takes consolidated*.safetensors alone), or copy the index too",
)


@rule(Section.MODEL, ABSENT, TWICE)
def model_formats(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The formats that serve.options name are there, and only one of them is loaded."""
    path, options = inventory.model.path, inventory.serve.options
    models = files_by_node(facts)
    for (option, value), files in NEEDED.items():
        without = [name for name, model in models.items() if _lacks(options, option, value, model)]
        if without:
            yield ABSENT.found(*without, path=path, option=option, value=value, files=" or ".join(files))
    twice = {name: rows for name, model in models.items() if (rows := _twice(options, model))}
    if twice:
        some = listed(next(iter(twice.values())))
        yield TWICE.found(*twice, path=path, files=some, value=options.get("load-format"))


def _lacks(options: Mapping[str, Any], option: str, value: str, files: ModelFiles) -> bool:
    if options.get(option) != value or files.single is not None:
        return False
    if option == "tokenizer-mode" and (options.get("tokenizer") or options.get("skip-tokenizer-init")):
        return False
    names = {*files.sizes, *files.dangling}
    return not any(matching(names, pattern) for pattern in NEEDED[option, value])


def _twice(options: Mapping[str, Any], files: ModelFiles) -> list[str]:
    """The files, where an explicit format loads both kinds; `auto` never does."""
    if load_format(files, asked_formats(options)) not in ("hf", "safetensors", "fastsafetensors", "instanttensor"):
        return []
    if "load-format" not in options or options["load-format"] == "auto" or HF_INDEX in files.sizes:
        return []
    own = matching(files.sizes, CONSOLIDATED)
    others = [name for name in files.shards if name not in own]
    return [*own, *others] if own and others else []
