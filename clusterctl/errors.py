"""Errors that reach a user, and the exit codes they end with.

Every error says what happened, where, and what to do next. The CLI prints it without a traceback;
docs/reference/exit-codes.md is tested against `ExitCode`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command. They are part of the command-line contract: scripts branch on them."""

    OK = 0
    """The command did what was asked (`status`: healthy and as declared; `plan`: computed)."""
    FAILED = 1
    """The work itself failed; stderr says on which node, in which phase, what was seen and what to do."""
    USAGE = 2
    """A wrong command line or inventory, found before any node was contacted."""
    CHANGES = 2
    """`plan --detailed-exitcode` only, as in terraform: there is something to do."""
    DEGRADED = 3
    """`status` only: something is running, but it is not healthy or differs from the inventory."""
    DOWN = 4
    """`status` only: every node was reached, and nothing of this cluster is running."""
    UNKNOWN = 5
    """`status` only: a node could not be reached, so the state of the whole cluster is unknown."""
    LOCKED = 6
    """Another run of clusterctl holds the cluster's lock; nothing was changed."""
    INTERRUPTED = 130
    """Ctrl-C or SIGTERM."""


class ClusterctlError(Exception):
    """A failure with its place and its fix. `exit_code` is what the process ends with."""

    exit_code: ExitCode = ExitCode.FAILED
    node: str | None = None
    """The one node that it is about."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def full_message(self) -> str:
        """The message with the node that it is about, where it has one and its first line does not name it."""
        first_line = self.message.partition("\n")[0]
        named = self.node is None or re.search(rf"(?<![\w-]){re.escape(self.node)}(?![\w-])", first_line)
        return self.message if named else f"{self.node}: {self.message}"


class UsageError(ClusterctlError):
    """A wrong command line, environment or file, found before any node was contacted."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Problem:
    """One thing wrong in an inventory: `file:line path: message (hint)`."""

    file: str
    line: int
    path: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        path = f" {self.path}:" if self.path else ""
        return f"{self.file}:{self.line}:{path} {self.message}{hint}"


class InventoryError(UsageError):
    """Everything that is wrong with an inventory, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True)
class NodeFailure:
    """What went wrong on one node, in which phase, and what to do about it."""

    node: str
    what: str
    hint: str | None = None


class NodesError(ClusterctlError):
    """A stage failed on one or more nodes; it was finished on all of them before this was raised."""

    def __init__(self, stage: str, failures: Sequence[NodeFailure]) -> None:
        self.stage = stage
        self.failures = tuple(failures)
        count = len({failure.node for failure in self.failures})
        lines = [f"{stage} failed on {count} node{'s' if count > 1 else ''}:"]
        for failure in self.failures:
            lines.append(f"  {failure.node}: {failure.what}")
            if failure.hint:
                lines.append(f"    fix: {failure.hint}")
        super().__init__("\n".join(lines))
