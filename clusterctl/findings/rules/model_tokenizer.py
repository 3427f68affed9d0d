"""A tokenizer beside the weights, unless another one, or none, is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.model_formats import asked, config_of, is_gguf
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.model import files_by_node, has_tokenizer
from clusterctl.inventory.model import Inventory

MISSING = Code(
    name="model-tokenizer-missing",
    severity=ERROR,
    title="No tokenizer",
    runbook="model.md",
    seen="{path} has no tokenizer (none of tokenizer.json, tokenizer.model, tekken.json, vocab.json with merges.txt)",
    why="the server turns text into tokens with it and does not start without one",
    fix="copy it from a node that has it, or from the model's source: rsync -a GOOD_NODE:{path}/ {path}/",
    note="Not checked with `tokenizer` or `skip-tokenizer-init` in `serve.options`. A GGUF file: `gguf-tokenizer`.",
)


@rule(Section.MODEL, MISSING)
def model_tokenizer(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A tokenizer beside the weights, unless another one, or none, is asked for."""
    options = inventory.serve.options
    if options.get("skip-tokenizer-init") or options.get("tokenizer"):
        return
    said = asked(options)
    without = [
        name
        for name, files in files_by_node(facts).items()
        if not is_gguf(files) and isinstance(config_of(files, said), Mapping) and not has_tokenizer(files)
    ]
    if without:
        yield MISSING.found(*without, path=inventory.model.path)
