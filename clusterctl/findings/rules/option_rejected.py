"""vLLM's own checks accept what the server would be started with (only with `check --deep`)."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.image import reports
from clusterctl.inventory.model import Inventory

REJECTED = Code(
    name="option-rejected",
    severity=ERROR,
    title="vLLM refuses the options",
    runbook="modes.md",
    seen="vLLM {version} refuses what it would be started with: {words}",
    why="the server would end with the same words, after every node has started",
    fix=lambda engine: (
        "correct serve (its sizes or its options) as the message says; what this vLLM accepts: "
        f"{engine.start} with --entrypoint vllm, serve --help=all"
    ),
    note="Only with `check --deep`. All options are asked about together, also those of the executor and the sizes.",
)


@rule(Section.IMAGE_REPORT, REJECTED)
def option_rejected(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """vLLM's own checks accept what the server would be started with."""
    for name, _, report in reports(facts):
        if report.refused_options is not None:
            words = " ".join(report.refused_options.split())
            engine = facts.nodes[name].commands
            yield REJECTED.found(name, engine=engine, version=report.vllm, words=words[:SHOWN_CHARACTERS])


SHOWN_CHARACTERS = 600
"""Of vLLM's words; pydantic repeats the whole configuration after them."""
