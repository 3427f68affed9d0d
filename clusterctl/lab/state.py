"""What a lab is (`LabSpec`) and where it lies on disk. The state directory is written first and removed last, so that
`lab up` and `lab down` can go on from wherever an earlier run was cut off.

    <root>/labs/NAME/lab.json           what was asked for
    <root>/labs/NAME/files/             the operator's files (key, known_hosts, inventory), as they were written
    <root>/labs/NAME/nodes/NODE/root/   the node's disk: its root file system, plain files
    <root>/images/HASH/                 the image cache, shared by all labs
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from clusterctl.errors import ClusterctlError

ROOT_VARIABLE = "CLUSTERCTL_LAB_ROOT"
DEFAULT_ROOT = Path("/var/lib/clusterctl-lab")
MAX_NODES = 200
GPU_DEVICES = "gpu-devices"
"""File in a node's directory: names below /dev of the GPUs that it has. With it the node has a /dev of its own."""
SYSTEM = "system"
"""Directory in a node's directory: a root file system whose programs the node runs, instead of this machine's."""
BINDS = "binds"
"""File in a node's directory: what its first process mounts beside the usual."""
LOCK_WAIT_S = 900.0
"""Longer than any command holds the lock of a lab; an image build has a lock of its own."""


def state_root() -> Path:
    """Directory that holds all labs and images of this machine."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).absolute()


@dataclass(frozen=True)
class LabNode:
    """One node of a lab: its name, its place in the order, its address."""

    name: str
    index: int
    address: IPv4Address


@dataclass(frozen=True)
class HostGpu:
    """A GPU of this machine that a node was given."""

    index: int
    """As nvidia-smi counts."""
    minor: int
    """The number in /dev/nvidiaN."""
    uuid: str
    name: str


@dataclass(frozen=True)
class Bind:
    """A file or directory of this machine that a node's first process mounts."""

    source: Path
    target: Path
    read_only: bool

    def line(self) -> str:
        """As node-init.sh reads it."""
        return f"{self.source}\t{self.target}\t{'ro' if self.read_only else 'rw'}\n"


@dataclass(frozen=True)
class LabSpec:
    """What was asked for when the lab was made. Stays as it is until `lab down`."""

    name: str
    nodes: int
    gpus: int
    ssh_only: bool
    subnet: IPv4Network
    directory: Path
    image: str
    gpus_of_host: bool = False
    """Whether the nodes have GPUs of this machine."""
    host_gpus: tuple[HostGpu, ...] = ()
    """These, those of the first node first."""
    own_image: str | None = None
    """What was asked for instead of the lab's own image."""
    image_key: str | None = None
    """Under which it lies in the cache."""
    model: Path | None = None
    """The model's directory on this machine, instead of the lab's own models."""
    engine: str = "docker"
    """The nodes' container engine: docker or podman."""

    def gpus_of(self, node: LabNode) -> tuple[HostGpu, ...]:
        """A node's GPUs of this machine."""
        return self.host_gpus[(node.index - 1) * self.gpus : node.index * self.gpus]

    @property
    def model_path(self) -> Path | None:
        """Where the model that was asked for lies on the nodes."""
        return self.model and Path("/models", self.model.name)

    @property
    def members(self) -> tuple[LabNode, ...]:
        """The nodes, in order. Node i has the i-th address of the subnet; the last one is the host's."""
        return tuple(LabNode(f"node{i}", i, self.subnet[i]) for i in range(1, self.nodes + 1))

    @property
    def host_address(self) -> IPv4Address:
        """Address of this machine in the lab's network."""
        return self.subnet[-2]

    def to_json(self) -> str:
        """The spec as JSON text."""
        values = {**asdict(self), "subnet": str(self.subnet), "directory": str(self.directory), "format": 1}
        values["model"] = self.model and str(self.model)
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> LabSpec:
        """Read what `to_json` wrote. Raises ValueError when it is something else."""
        values = json.loads(text)
        try:
            if values.pop("format") != 1:
                raise ValueError("another version of the lab's state format")
            subnet, directory = IPv4Network(values.pop("subnet")), Path(values.pop("directory"))
            gpus = tuple(HostGpu(**gpu) for gpu in values.pop("host_gpus", ()))
            model = values.pop("model", None)
            model = None if model is None else Path(model)
            return cls(subnet=subnet, directory=directory, host_gpus=gpus, model=model, **values)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a lab description: {error}") from error


@dataclass(frozen=True)
class LabPaths:
    """Where one lab lies, and the names it goes by outside its directory."""

    root: Path
    name: str

    @property
    def home(self) -> Path:
        """The lab's state directory."""
        return self.root / "labs" / self.name

    @property
    def spec(self) -> Path:
        """The file with what was asked for."""
        return self.home / "lab.json"

    @property
    def files(self) -> Path:
        """Copies of the files that were written for the operator."""
        return self.home / "files"

    @property
    def nodes(self) -> Path:
        """The directory of all nodes."""
        return self.home / "nodes"

    def node(self, node: str) -> Path:
        """One node's directory."""
        return self.nodes / node

    def disk(self, node: str) -> Path:
        """One node's disk: the root file system as the node sees it, apart from /usr."""
        return self.node(node) / "root"

    @property
    def tag(self) -> str:
        """Six characters that tell labs of the same name under different state roots apart."""
        return hashlib.sha256(f"{self.root}\0{self.name}".encode()).hexdigest()[:6]

    @property
    def namespace_prefix(self) -> str:
        """What the names of all of the lab's network namespaces begin with."""
        return f"clusterctl-{self.name}-{self.tag}-"

    @property
    def cgroup(self) -> str:
        """The cgroup below which all containers of the lab run."""
        return f"/clusterctl-lab/{self.name}-{self.tag}"

    def read_spec(self) -> LabSpec | None:
        """What was asked for; None when there is no such lab."""
        try:
            return LabSpec.from_json(self.spec.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ClusterctlError(
                f"{self.spec} cannot be read: {error}", hint=f"run: clusterctl lab down --name {self.name}"
            ) from error


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Write a file so that it is never seen half written, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_of(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)


def part_of(path: Path) -> Path:
    """The name that a file has while it is written."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def exclusive(path: Path, what: str, *, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold a lock that ends with the process. The file goes away with it, so that nothing is left behind."""
    deadline = time.monotonic() + wait_s
    descriptor = _lock(path)
    while descriptor is None:
        if time.monotonic() > deadline:
            raise ClusterctlError(f"another command is still working on {what} after {wait_s:g} s ({path} is locked)")
        time.sleep(0.1)
        descriptor = _lock(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path) -> int | None:
    """Lock the file that has this name now; None when someone else has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None  # whoever had it last has just removed the directory, too
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def known_labs(root: Path) -> tuple[str, ...]:
    """Names of the labs that have state on this machine, whole or not."""
    try:
        return tuple(sorted(path.name for path in (root / "labs").iterdir() if path.is_dir()))
    except FileNotFoundError:
        return ()
