"""What the engine and the server's configuration show is no longer a secret."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.nodes import commands_of
from clusterctl.inventory.model import Inventory
from clusterctl.secrets.names import looks_secret

SECRET = Code(
    name="secret-in-inventory",
    severity=WARNING,
    title="A secret in the inventory",
    runbook="security.md",
    seen="by its name this holds a secret: {fields}",
    why=lambda engine: (
        f"whoever may use the container engine can read it ({engine.inspect}, files in the container), "
        "and whoever reads the inventory"
    ),
    fix="leave it out, or put it into a 0600 file and mount that with container.volumes; waive "
    "secret-in-inventory when it is no secret",
    note="A field is shown as `container.env.NAME` or `serve.options.NAME`. Names like `HF_TOKEN` in an "
    "environment are refused outright; this is for all others.",
)


@rule(Section.EXPOSURE, SECRET)
def secret_in_inventory(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Fields whose name says that they hold a secret."""
    asked: list[tuple[str, Iterable[str]]] = [
        ("container.env", inventory.container.env),
        ("serve.options", inventory.serve.options),
        *((f"nodes[{index}].env", node.env) for index, node in enumerate(inventory.nodes)),
    ]
    if found := [f"{place}.{name}" for place, names in asked for name in names if looks_secret(name)]:
        yield SECRET.found(engine=commands_of(facts), fields=", ".join(found))
