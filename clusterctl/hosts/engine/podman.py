"""Podman, which speaks Docker's API: the Docker door, with what Podman does differently (seen with 5.4.2).

What is the same is not written here. `OLDEST` is the first version whose API can change a restart policy
(containers/podman#22322): without that, a cluster that has served would not heal.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import floor
from typing import Any

from clusterctl.hosts.engine.commands import PODMAN, EngineCommands
from clusterctl.hosts.engine.docker import DockerEngine
from clusterctl.hosts.engine.engine import Container, EngineError, EngineInfo, LogChunk
from clusterctl.hosts.engine.exec import DockerCommand
from clusterctl.hosts.ssh.streams import WindowSize

CDI_DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
"""Where Podman looks for CDI specifications, which its API does not say."""

NO_LIMIT = -1

NOT_POSSIBLE = 500
"""Podman's status for what a container's state does not allow, where Docker says 409."""

_IN_GROUP = r"""for group in /proc/[0-9]*/cgroup; do
    grep -qs "libpod-$1" "$group" && pid=${group#/proc/} && printf '%s\n' "${pid%/cgroup}"
done
exit 0"""
"""Processes of a container by their control group: it carries the ID with every runtime and both cgroup versions, and
anybody may read it. conmon's is called libpod-conmon-ID."""


class PodmanEngine(DockerEngine):
    """One node's Podman, through the socket of its API: root's, or (of a login that is not root's, without sudo) the
    login's own. Methods raise EngineError, or ConnectionLostError when SSH breaks."""

    commands: EngineCommands = PODMAN

    def info(self) -> EngineInfo:
        """`podman info`, as Docker's API has it."""
        found = super().info()
        return replace(found, cdi_directories=found.cdi_directories or CDI_DIRECTORIES)

    def container(self, name_or_id: str) -> Container | None:
        """`podman inspect`, or None when there is no such container."""
        found = super().container(name_or_id)
        # It keeps the last refusal also of a container that runs.
        return replace(found, error="") if found is not None and found.running else found

    def create(self, name: str, config: Mapping[str, Any], host_config: Mapping[str, Any]) -> str:
        """Create a container, not started, without Podman's own limit of 2048 threads: Ray has more on one node."""
        return super().create(name, config, {"pids_limit": NO_LIMIT, **host_config})

    def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        stdin: bool,
        size: WindowSize | None = None,
    ) -> DockerCommand:
        """Start a command in a running container, with a terminal when a size is given.

        Raises EngineError, with `status` 409 when the container does not run and 404 when there is none.
        """
        try:
            return super().exec(container, argv, environment=environment, stdin=stdin, size=size)
        except EngineError as error:
            if error.status == NOT_POSSIBLE and not self._runs(container):
                raise EngineError(self.node, error.message, status=409) from error
            raise

    def pids(self, container: str) -> tuple[int, ...]:
        """Process ids, as the node sees them, of a running container: its `top` numbers them as the container does."""
        found = self.container(container)
        if found is None or not found.running or re.fullmatch(r"[0-9a-f]{64}", found.id) is None:
            return ()
        done = self._ssh.run(["sh", "-c", _IN_GROUP, "sh", found.id], timeout_s=self.timeout_s, read_only=True)
        return tuple(int(line) for line in done.stdout.split() if line.isdigit())

    def logs(
        self,
        container: str,
        *,
        follow: bool,
        tail: int | None = None,
        since: float = 0,
        silence_s: float | None = None,
        timestamps: bool = False,
    ) -> Iterator[LogChunk]:
        """The container's log as frames. Its lines carry whole seconds, so `since` is the beginning of one."""
        return super().logs(
            container,
            follow=follow,
            tail=tail,
            since=floor(since),
            silence_s=silence_s,
            timestamps=timestamps,
        )

    def remove(self, container: str, *, force: bool = True) -> None:
        """Remove a container and its anonymous volumes; harmless when it is gone, and without `force` when it runs."""
        if force:
            # By itself it would first ask the container to end, and wait for as long as its own stop time-out says.
            with contextlib.suppress(EngineError), self._errors(f"kill container {container[:12]}"):
                self._api.kill(container)
        try:
            super().remove(container, force=force)
        except EngineError as error:
            if force or error.status != NOT_POSSIBLE or not self._runs(container):
                raise

    def _runs(self, container: str) -> bool:
        found = self.container(container)
        return found is not None and found.running
