"""An API that strangers reach: what answers them without the key, or everything when there is none."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.exposure import public_addresses
from clusterctl.inventory.model import Inventory

WITH_KEY = Code(
    name="api-public",
    severity=WARNING,
    title="The API is open to the Internet",
    runbook="security.md",
    seen="serve.host: {host} opens the API on {addresses}; anyone without a key can read /metrics and try keys",
    why="only the key stands between strangers and the model; without ssl-certfile it crosses the network in the clear",
    fix="set serve.host: private and put a reverse proxy before it, or limit who reaches the port: clusterctl firewall "
    "--clients CIDR",
)
WITHOUT_KEY = WITH_KEY.variant(
    seen="serve.host: {host} opens the API on {addresses}; there is no API key",
    why="everybody can use the model",
)


@rule(Section.EXPOSURE, WITH_KEY, WITHOUT_KEY)
def api_public(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The API listens on an address that is routed on the Internet."""
    node = facts.nodes.get(inventory.head_name)
    listens = inventory.serve.host
    if node is None or listens == "private":
        return
    open_at = [item for item in public_addresses(node) if listens in ("any", item.address)]
    if open_at:
        code = WITHOUT_KEY if inventory.serve.api_key == "off" else WITH_KEY
        shown = ", ".join(str(item.address) for item in open_at)
        yield code.found(inventory.head_name, host=listens, addresses=shown)
