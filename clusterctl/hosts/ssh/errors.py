"""What can go wrong with a node's connection: each kind is a type."""

from __future__ import annotations

from clusterctl.errors import ClusterctlError


class HostError(ClusterctlError):
    """A node could not be reached, or a remote operation on it failed. Names the node."""

    def __init__(self, node: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.node = node


class ConnectError(HostError):
    """The SSH connection could not be opened."""


class HostKeyError(ConnectError):
    """The node's host key is unknown or is not the pinned one."""


class CommandTimeoutError(HostError):
    """A remote command did not end before its deadline."""


class ConnectionLostError(HostError):
    """The SSH connection broke while it was in use."""
