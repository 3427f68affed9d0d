"""The image. Pure; one small function a rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.findings.finding import Finding, Severity
from clusterctl.findings.rules.common import minority, unknown
from clusterctl.inventory.model import Inventory


def image(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The image absent on a node, or another one behind the same name (F19)."""
    reference = inventory.container.image
    by_content: dict[tuple[str, ...], list[str]] = defaultdict(list)
    ids: dict[str, str] = {}
    for name, node in facts.nodes.items():
        if node.image is None:
            yield Finding(
                "image-absent",
                Severity.ERROR,
                (name,),
                f"no image {reference} on the node",
                "the container is started from it, and up pulls nothing by itself",
                f"on the node: docker pull {reference}",
            )
        elif isinstance(node.image, Unknown):
            if not isinstance(node.engine, Unknown | None):
                yield unknown("image-unknown", name, node.image)
        else:
            # Two builds of one Dockerfile have different IDs and equal layers (lab-facts): layers decide.
            by_content[node.image.layers or (node.image.id,)].append(name)
            ids[name] = node.image.id
    if len(by_content) > 1:
        odd = minority(by_content)
        seen = "; ".join(f"{', '.join(names)}: {ids[names[0]][:19]}" for names in by_content.values())
        yield Finding(
            "image-differs",
            Severity.ERROR,
            odd,
            f"{reference} is not the same image everywhere ({seen})",
            "different Ray, Python or vLLM versions on the nodes of one gang fail late and obscurely (F19, F41)",
            f"bring the same image to every node (docker pull {reference}, best by digest), or copy it: "
            f"docker save {reference} | ssh NODE docker load",
        )
