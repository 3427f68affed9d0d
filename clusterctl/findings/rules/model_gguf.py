"""What vLLM needs with a GGUF file: the file itself as the path, a tokenizer, and its plugin in the image."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.model_formats import asked, backbone, is_gguf, wanted
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.image import numbers, reports
from clusterctl.findings.topics.model import files_by_node, listed
from clusterctl.inventory.model import Inventory

PLUGIN = "vllm-gguf-plugin"
SINCE = (0, 24)
"""The first vLLM without GGUF of its own (vllm#39612)."""

PATH = Code(
    name="gguf-path",
    severity=ERROR,
    title="model.path is not the GGUF file",
    runbook="model.md",
    seen="{path} is a directory with GGUF files ({files})",
    why="vLLM takes the file itself as the model; in a directory it looks for config.json",
    fix="set model.path: {path}/{file}",
    note="The file is the model's, not that of a vision part (mmproj-…gguf). Parts (…-00001-of-00003.gguf) are merged "
    "first.",
)
PARTS = PATH.variant(
    seen="the model is in {parts} parts ({files}), and the container sees one file",
    why="vLLM loads all parts, and finds only the one that is mounted",
    fix="merge them: llama-gguf-split --merge {file} MODEL.gguf, and set model.path to that file; or mount the other "
    "parts with container.volumes",
)
TOKENIZER = Code(
    name="gguf-tokenizer",
    severity=WARNING,
    title="A GGUF file without a tokenizer beside it",
    runbook="model.md",
    seen="{path} is a GGUF file, and serve.options.tokenizer is not set",
    why="vLLM then makes a tokenizer of what the file holds, which its documentation calls slow and unstable",
    fix="mount the base model's small files, container.volumes: [/models/BASE:/models/BASE:ro], and set "
    "serve.options.tokenizer: /models/BASE; hf-config-path: /models/BASE, where vLLM cannot make a configuration of "
    "the file either",
)
NO_PLUGIN = Code(
    name="gguf-plugin",
    severity=ERROR,
    title="The image's vLLM reads no GGUF",
    runbook="model.md",
    seen="vLLM {version} in the image has no GGUF of its own, and {plugin} is not in the image",
    why="since 0.24 GGUF is a plugin: without it the file is taken for a directory or a repository's name",
    fix="use an image with it (in a Dockerfile: RUN pip install {plugin}), or the same model as safetensors",
    note="Only with `check --deep`.",
)


@rule(Section.MODEL, PATH, PARTS, TOKENIZER, NO_PLUGIN)
def model_gguf(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The path is the file, a tokenizer is named, and the image's vLLM reads GGUF."""
    path, options = inventory.model.path, inventory.serve.options
    models = {name: files for name, files in files_by_node(facts).items() if is_gguf(files) and backbone(files)}
    if not models:
        return
    first = next(iter(models.values()))
    names = backbone(first)
    parts = sorted(wanted(first, asked(options)))
    if first.single is None and len(parts) == 1:
        yield PATH.found(*models, path=path, files=listed(_ggufs(first)), file=names[0])
    elif len(parts) > 1 and not _mounted(inventory, first, parts):
        place = path if first.single is not None else f"{path}/{names[0]}"
        yield PARTS.found(*models, parts=len(parts), files=listed(parts), file=place)
    if not (options.get("tokenizer") or options.get("skip-tokenizer-init")):
        yield TOKENIZER.found(*models, path=path)
    for name, _, report in reports(facts):
        known = {re.sub(r"[-_.]+", "-", each).lower() for each in report.distributions}
        if name in models and numbers(report.vllm) >= SINCE and PLUGIN not in known:
            yield NO_PLUGIN.found(name, version=report.vllm, plugin=PLUGIN)


def _ggufs(files: ModelFiles) -> list[str]:
    return sorted(name for name in files.sizes if name.endswith(".gguf"))


def _mounted(inventory: Inventory, files: ModelFiles, parts: list[str]) -> bool:
    """Whether the container sees every part, each mounted by itself."""
    if files.single is None:
        return False
    place = inventory.model.path.rpartition("/")[0]
    targets = {volume.split(":")[1] for volume in inventory.container.volumes if ":" in volume}
    return all(part == files.single or f"{place}/{part}" in targets for part in parts)
