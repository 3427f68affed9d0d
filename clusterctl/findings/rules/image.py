"""The image: on every node, and the same everywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.nodes import UNREAD_FIX, UNREAD_WHY, commands_of, minority
from clusterctl.inventory.model import Inventory

ABSENT = Code(
    name="image-absent",
    severity=ERROR,
    title="The image is missing",
    runbook="image.md",
    seen="no image {image} on the node",
    why="the container is started from it, and up pulls nothing by itself",
    fix=lambda engine: f"on the node: {engine.pull('{image}')}",
    waivable=False,
)
DIFFERS = Code(
    name="image-differs",
    severity=ERROR,
    title="The image differs",
    runbook="image.md",
    seen="{image} is not the same image everywhere ({ids})",
    why="different Ray, Python or vLLM versions on the nodes of one gang fail late and obscurely",
    fix=lambda engine: (
        f"bring the same image to every node ({engine.pull('{image}')}, best by digest), or copy it: "
        f"{engine.copy('{image}', 'NODE')}"
    ),
    note="Layers are compared, not IDs: two builds of one Dockerfile have different IDs and may have equal layers.",
)
UNKNOWN = Code(
    name="image-unknown",
    severity=ERROR,
    title="The image cannot be read",
    runbook="image.md",
    seen="{reason}",
    why=UNREAD_WHY,
    fix=UNREAD_FIX,
    note="The reason is what the engine answered when it was asked for the image.",
    waivable=False,
)


@rule(Section.ENGINE, ABSENT, DIFFERS, UNKNOWN)
def image(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The image is missing on a node, or another one has the same name there."""
    reference = inventory.container.image
    by_content: dict[tuple[str, ...], list[str]] = defaultdict(list)
    ids: dict[str, str] = {}
    for name, node in facts.nodes.items():
        if node.image is None:
            yield ABSENT.found(name, engine=node.commands, image=reference)
        elif isinstance(node.image, Unknown):
            if not isinstance(node.engine, Unknown | None):
                yield UNKNOWN.found(name, reason=node.image.reason)
        else:
            # Two builds of one Dockerfile have different IDs and equal layers (lab-facts): layers decide.
            by_content[node.image.layers or (node.image.id,)].append(name)
            ids[name] = node.image.id
    if len(by_content) > 1:
        shown = "; ".join(f"{', '.join(names)}: {ids[names[0]][:19]}" for names in by_content.values())
        yield DIFFERS.found(*minority(by_content), engine=commands_of(facts), image=reference, ids=shown)
