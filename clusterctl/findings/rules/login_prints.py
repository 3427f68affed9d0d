"""The login prints nothing of its own before a command's output."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

PRINTS = Code(
    name="login-prints",
    severity=WARNING,
    title="The login prints text before commands",
    runbook="ssh.md",
    seen="before the output of every command, the login prints {printed}",
    why="clusterctl skips it, but scp, rsync and other tools that use the same login take it for the command's output",
    fix="on the node: in ~/.bashrc (or ~/.ssh/rc, /etc/ssh/sshrc) print only in an interactive shell: "
    "[[ $- == *i* ]] || return",
)


@rule(Section.MACHINE, PRINTS)
def login_prints(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The login prints nothing of its own before a command's output."""
    for name, node in facts.nodes.items():
        if node.login_prints:
            yield PRINTS.found(name, printed=node.login_prints)
