"""vLLM knows the model, and can split it into pipeline stages where it has to (only with `check --deep`)."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.address import accelerators_per_node
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.image_report import ModelSupport, NoConfiguration
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.image import reports
from clusterctl.inventory.layout import layout_of
from clusterctl.inventory.model import Inventory

ONLY_DEEP = "Only with `check --deep`."

NOT_KNOWN = Code(
    name="model-support-unknown",
    severity=WARNING,
    title="vLLM could not be asked about the model",
    runbook="image-report.md",
    seen="vLLM's ModelRegistry could not be asked: {error}",
    why="whether this vLLM can serve the model is not known",
    fix=lambda engine: f"run it by hand: {engine.start} with --entrypoint python3, from vllm import ModelRegistry",
    note=ONLY_DEEP,
)
NO_CONFIGURATION = NOT_KNOWN.variant(
    seen="vLLM could not be asked about the model: {error}",
    why="vLLM takes the model's type from it, and whether it can serve the model is not known",
    fix="mount the base model's small files, container.volumes: [/models/BASE:/models/BASE:ro], and set "
    "serve.options.hf-config-path: /models/BASE",
)
NO_CONFIGURATION_THERE = NO_CONFIGURATION.variant(
    fix="{option} in serve.options must name a directory in the container with the base model's config.json: mount it "
    "with container.volumes, as /models/BASE:/models/BASE:ro",
)
NOT_IN_REGISTRY = Code(
    name="model-not-in-registry",
    severity=WARNING,
    title="vLLM does not know the model",
    runbook="image-report.md",
    seen="the model's configuration names {architecture}, which vLLM in {image} does not know",
    why="it would run through transformers, which is slower, or not at all",
    fix="use an image with a newer vLLM, or correct the model's configuration (config.json or params.json)",
    note=ONLY_DEEP,
)
NO_STAGES = Code(
    name="pipeline-unsupported",
    severity=ERROR,
    title="The model cannot be split into stages",
    runbook="image-report.md",
    seen="vLLM cannot split {architecture} into pipeline stages, and the layout has {stages}",
    why='"Pipeline parallelism is not supported for this model"',
    fix="one node with serve.pipeline_parallel: 1, or another model",
    note=ONLY_DEEP,
)


@rule(Section.IMAGE_REPORT, NOT_KNOWN, NOT_IN_REGISTRY, NO_STAGES)
def model_support(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """vLLM knows the model, and can split it into pipeline stages where the layout has several."""
    for name, _, report in reports(facts):
        support = report.model_support
        if isinstance(support, NoConfiguration):
            named = next((key for key in ("hf-config-path", "tokenizer") if inventory.serve.options.get(key)), None)
            if named is None:
                yield NO_CONFIGURATION.found(name, error=support.reason)
            else:
                yield NO_CONFIGURATION_THERE.found(name, error=support.reason, option=named)
        elif isinstance(support, Unknown):
            yield NOT_KNOWN.found(name, engine=facts.nodes[name].commands, error=support.reason)
        elif isinstance(support, ModelSupport):
            architecture = ", ".join(support.architectures) or "no architecture"
            stages = _stages(inventory, facts)
            if not support.supported:
                yield NOT_IN_REGISTRY.found(name, architecture=architecture, image=inventory.container.image)
            elif not support.pipeline_parallel and stages > 1:
                yield NO_STAGES.found(name, architecture=architecture, stages=stages)


def _stages(inventory: Inventory, facts: ClusterFacts) -> int:
    try:
        layout = layout_of(inventory, accelerators_per_node(inventory, facts))
    except ValueError:
        return 1  # a finding of its own
    return layout.pipeline_parallel
