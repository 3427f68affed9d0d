"""What a container engine is to everybody else: what can be asked of it, and values, whatever engine it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from clusterctl.hosts.engine.commands import EngineCommands
from clusterctl.hosts.ssh.errors import HostError
from clusterctl.hosts.ssh.streams import Piece, WindowSize


class EngineError(HostError):
    """The engine did not answer, or refused. `status` is the API's HTTP status where there was one."""

    def __init__(self, node: str, message: str, *, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(node, message, hint=hint)
        self.status = status


@dataclass(frozen=True)
class Container:
    """A container as the engine describes it."""

    id: str
    name: str
    labels: Mapping[str, str]
    status: str
    """created, running, paused, restarting, removing, exited or dead."""
    running: bool
    """Whether it has processes: also while it is paused, and while it is `restarting`."""
    restarting: bool
    """Whether it has ended and the engine is about to start it again."""
    exit_code: int
    oom_killed: bool
    error: str
    """The engine's own reason for not starting it; empty when there is none."""
    created_at: str
    """When it was made, by the engine's clock (RFC 3339); empty when the engine does not say."""
    started_at: str
    """When it was last started (RFC 3339); of one that never was, the year 1."""
    started_t: float | None
    """The same as Unix time in seconds; None of one that never was started."""
    restart_policy: str
    """`no`, `always` …"""
    restart_count: int
    """How often the engine has started it again by that policy, since it last was started by hand."""
    raw: Mapping[str, Any] = field(repr=False)
    """The engine's own description, to be kept as evidence: nobody outside the engine's door reads its keys."""


@dataclass(frozen=True)
class Image:
    """An image on a node: its ID, and its layers from the lowest up."""

    id: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class LocalImage:
    """An image on a node by one of its names."""

    name: str
    """Repository and tag."""
    image: Image
    created_at: str
    """When it was made (RFC 3339); empty when the engine does not say."""
    described: str = field(repr=False)
    """Its entry point, command, environment and labels, as one text to search in."""


@dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself."""

    version: str
    cgroup_driver: str
    """systemd or cgroupfs."""
    runtimes: tuple[str, ...]
    """Their names, sorted."""
    data_root: str
    """Where it keeps images and containers."""
    time: str
    """Its clock when it was asked (RFC 3339)."""
    confines: tuple[str, ...]
    """What it confines containers with: seccomp, apparmor, selinux …"""
    cdi_directories: tuple[str, ...]
    """Where it looks for CDI specifications; none where that is off, or not known to it."""
    cdi_devices: tuple[str, ...]
    """Devices that it found there, as `nvidia.com/gpu=0`, where it says so."""
    raw: Mapping[str, Any] = field(repr=False)
    """Its own words, to be kept as evidence."""
    kind: Literal["docker", "podman"] = "docker"
    """Which engine it is."""
    rootless: bool = False
    """Whether it is a user's own, without root."""


@dataclass(frozen=True)
class EngineVersion:
    """Which API an engine speaks."""

    api: str
    raw: Mapping[str, Any] = field(repr=False)
    """Its own words, its components' versions among them, to be kept as evidence."""


@dataclass(frozen=True)
class FileInContainer:
    """A file to place in a container before it starts: absolute path, content, permission bits."""

    path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class LogChunk:
    """One frame of a container's log. A frame may hold part of a line (the engine splits at 16 KiB)."""

    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True)
class Output:
    """Everything that a container wrote."""

    stdout: bytes
    stderr: bytes


class ContainerCommand(Protocol):
    """A command that runs in a container. Its methods raise EngineError, or ConnectionLostError when SSH breaks.

    Input and output may be used from two threads; nobody else may read.
    """

    def send(self, data: bytes) -> None:
        """To its stdin; waits while the command does not read."""

    def end_input(self) -> None:
        """Close its stdin."""

    def resize(self, size: WindowSize) -> None:
        """Tell it the new size of its terminal; harmless when it does not run (yet)."""

    def pieces(self, deadline: float | None = None) -> Iterator[Piece]:
        """Its output as it comes, to its end. Raises CommandTimeoutError at the deadline (time.monotonic())."""

    def exit_code(self) -> int:
        """What it ended with, once its output has ended."""

    def close(self) -> None:
        """Give its streams up; the command itself may go on."""


@dataclass(frozen=True)
class Volume:
    """A named volume."""

    name: str
    directory: str
    """Where it lies on the node, or in the engine's own namespace."""
    labels: Mapping[str, str]


class Volumes(Protocol):
    """The engine's named volumes. Methods raise EngineError, or ConnectionLostError when SSH breaks."""

    def find(self, name: str) -> Volume | None:
        """The volume, or None when there is none."""

    def make(self, name: str, labels: Mapping[str, str]) -> Volume:
        """The volume, made with these labels unless there is one of this name, whose labels stay."""

    def remove(self, name: str) -> None:
        """Remove it with all that is in it; harmless when it is gone. `status` 409: a container has it."""


class Engine(Protocol):
    """One node's container engine. Methods raise EngineError, or ConnectionLostError when SSH breaks."""

    @property
    def commands(self) -> EngineCommands:
        """Its own words, for hints."""

    @property
    def volumes(self) -> Volumes:
        """Its named volumes."""

    def close(self) -> None:
        """Close what is open to it."""

    def info(self) -> EngineInfo:
        """What it says of itself."""

    def version(self) -> EngineVersion:
        """Which API it speaks."""

    def image(self, reference: str) -> Image | None:
        """An image by name or ID, or None when it is absent."""

    def local_images(self) -> tuple[LocalImage, ...]:
        """Every image that has a name, once for each of its names."""

    def containers(self, cluster: str | None) -> tuple[Container, ...]:
        """Every container, running or not, that carries this cluster's label; None: any cluster's."""

    def container(self, name_or_id: str) -> Container | None:
        """A container, running or not, or None when there is none."""

    def started_at(self, container: str) -> float:
        """When the container was last started: Unix time in seconds on the node's own clock; 0 when it is gone."""

    def create(self, name: str, config: Mapping[str, Any], host_config: Mapping[str, Any]) -> str:
        """Create a container, not started, from what it runs and its flags. Returns its ID."""

    def put_files(self, container: str, files: Sequence[FileInContainer]) -> None:
        """Place files in a container that need not run. Missing directories are made (0755, root)."""

    def read_file(self, container: str, path: str) -> bytes | None:
        """Content of a file in a container, running or not, links followed; None when it or the container is absent."""

    def archive(self, container: str, path: str) -> Iterator[bytes] | None:
        """A file or directory in a container, running or not, as the chunks of a tar stream; None when it is absent.

        Reading it may be given up at any time.
        """

    def start(self, container: str) -> None:
        """Start a created or stopped container."""

    def run_once(
        self,
        name: str,
        config: Mapping[str, Any],
        host_config: Mapping[str, Any],
        files: Sequence[FileInContainer],
        *,
        deadline_s: float,
    ) -> Output:
        """Run a container to its end and return what it wrote; whatever happens, nothing of it stays.

        Raises EngineError, without `status` when the deadline (seconds) passes.
        """

    def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        stdin: bool,
        size: WindowSize | None = None,
    ) -> ContainerCommand:
        """Start a command in a running container, with a terminal when a size is given.

        Raises EngineError, with `status` 409 when the container does not run and 404 when there is none.
        """

    def signal(self, container: str, name: str) -> None:
        """Send a signal (SIGUSR1 …) to the container's first process; harmless when it is not running."""

    def set_restart_policy(self, container: str, name: str) -> None:
        """Change what the engine does when the container ends: `no`, `always` … (no restart happens now)."""

    def stop(self, container: str, *, timeout_s: float) -> None:
        """SIGTERM, then SIGKILL after `timeout_s`. Returns when it has stopped; harmless when it is not running."""

    def pids(self, container: str) -> tuple[int, ...]:
        """Process ids, as the node sees them, of a running container; empty when it has stopped meanwhile."""

    def remove(self, container: str, *, force: bool = True) -> None:
        """Remove a container and its anonymous volumes; harmless when it is gone, and without `force` when it runs."""

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
        """The container's log as frames, each with the stream it was written to; ends when the container stops.

        `tail` limits to the last lines, `since` is Unix time in seconds; with `silence_s` following ends when nothing
        comes for so long. With `timestamps` EVERY frame begins with its time and a blank, also one that goes on in the
        middle of a line.
        """
