"""Podman, which speaks Docker's API: the Docker door, with what Podman does differently (seen with 5.4.2)."""

from __future__ import annotations

from clusterctl.hosts.engine.commands import PODMAN, EngineCommands
from clusterctl.hosts.engine.docker import DockerEngine


class PodmanEngine(DockerEngine):
    """One node's Podman, through the socket of its API: root's, or (of a login that is not root's, without sudo) the
    login's own. Methods raise EngineError, or ConnectionLostError when SSH breaks."""

    commands: EngineCommands = PODMAN
