"""The rehearsal lab: N machine-like nodes on this machine. One function per command, each of them the whole story.

Every step looks at what is there and makes what is missing, so each function can be run again after it was cut off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Literal

from clusterctl.errors import ClusterctlError, NodeFailure, NodesError, UsageError
from clusterctl.lab import cgroups, disk, files, gpus, network, packages, power, readiness
from clusterctl.lab.commands import Say, run
from clusterctl.lab.image import build, cache, podman
from clusterctl.lab.image import own as own_images
from clusterctl.lab.image.cache import Image
from clusterctl.lab.image.own import OwnImage
from clusterctl.lab.network import Cable
from clusterctl.lab.state import HostGpu, LabNode, LabPaths, LabSpec, exclusive, known_labs, state_root, write_whole

PARALLEL = 16
"""Nodes that are booted at the same time: process start-up is what takes time, more threads only wait."""


@dataclass(frozen=True)
class LabOptions:
    """What is asked of a lab. None is the default for a new lab, and `as it is` for one that exists."""

    nodes: int | None = None
    """Number of nodes (2)."""
    gpus: int | None = None
    """Accelerator slots to declare on each node (1)."""
    directory: Path | None = None
    """Where the operator's files go (.lab/NAME)."""
    ssh_only: bool | None = None
    """Only sshd: no engine, no image, no model (no)."""
    subnet: IPv4Network | None = None
    """The nodes' private network (a free one)."""
    gpus_of_host: bool | None = None
    """Nodes that share out this machine's GPUs (no): with an image and a model of the user's."""
    own_image: str | None = None
    """That image: a reference in this machine's engine, a file of `docker save`, or a root file system."""
    model: Path | None = None
    """That model's directory."""
    engine: str | None = None
    """The nodes' container engine (docker), or podman."""


AS_IT_IS = LabOptions()


@dataclass(frozen=True)
class NodeStatus:
    """What one node looks like from this machine."""

    name: str
    address: IPv4Address
    power: Literal["on", "off"]
    pid: int | None
    """The node's first process, as this machine sees it."""
    network: Cable
    ssh: bool
    """Whether sshd answers over the network."""
    engine: bool | None
    """Whether the container engine answers inside the node; None where the lab has none (--ssh-only)."""


@dataclass(frozen=True)
class Lab:
    """A lab that was made, and how to get at it from this machine."""

    spec: LabSpec
    paths: LabPaths

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.spec.name

    @property
    def inventory(self) -> Path:
        """The inventory file that `up` wrote."""
        return self.spec.directory / files.INVENTORY

    def node(self, name: str) -> LabNode:
        """A node by name."""
        for node in self.spec.members:
            if node.name == name:
                return node
        raise UsageError(f"lab {self.name} has no node {name!r}", hint=f"it has node1 … node{self.spec.nodes}")

    def address(self, node: str) -> IPv4Address:
        """A node's address in the lab's network."""
        return self.node(node).address

    def disk(self, node: str) -> Path:
        """A node's disk, seen from this machine: `lab.disk("node2") / "models/tiny"` is its copy of the model."""
        return self.paths.disk(self.node(node).name)

    def enter(self, node: str) -> list[str]:
        """argv prefix that runs a command inside a node that has power, without SSH and whatever its network does:
        `subprocess.run([*lab.enter("node1"), "docker", "ps"])`. The command dies with the node.
        """
        process = power.running(self.paths).get(self.node(node).name)
        if process is None or process.init is None:
            raise ClusterctlError(
                f"{node} has no power", hint=f"run: clusterctl lab power-on --name {self.name} {node}"
            )
        return ["nsenter", f"--target={process.init}", "--mount", "--uts", "--ipc", "--net", "--pid", "--"]

    def exec(self, node: str, argv: Sequence[str], *, timeout_s: float = 60, stdin: str = "") -> str:
        """Run a command inside a node and return its stdout; anything but exit code 0 raises CommandError."""
        return run(
            [*self.enter(node), *argv], timeout_s=timeout_s, stdin=stdin, env={**power.ENVIRONMENT, "HOME": "/root"}
        )


def up(name: str, options: LabOptions = AS_IT_IS, *, say: Say, root: Path | None = None) -> Lab:
    """Make the lab, or repair it: nodes without power are booted, what is missing is made."""
    packages.require_root()
    paths = LabPaths(root or state_root(), name)
    existing = paths.read_spec()
    of_host = existing.gpus_of_host if existing else bool(options.gpus_of_host)
    packages.check(engine=not (existing.ssh_only if existing else options.ssh_only), image=not of_host)
    with _locked(paths):
        spec = _describe(paths, options)
        machine = gpus.discover() if spec.gpus_of_host else None
        image = _image_for(paths, spec, say)
        files.ensure_key(paths)
        started = time.monotonic()
        system = podman.ensure(paths.root, image, say) if image and spec.engine == "podman" else None
        _each(spec.members, "making disks", lambda node: disk.ensure(paths, spec, node, image, system))
        files.write(paths, spec, say)
        if machine is not None:
            _each(spec.members, "giving GPUs", lambda node: gpus.install(paths, spec, node, machine))
        say(f"{spec.nodes} disks ready ({time.monotonic() - started:.1f} s)")
        network.ensure_switch(paths, spec)
        started = time.monotonic()
        processes = power.running(paths)
        _each(spec.members, "booting", lambda node: _boot(paths, spec, node, processes.get(node.name)))
        say(f"{spec.nodes} nodes up ({time.monotonic() - started:.1f} s)")
        return Lab(spec, paths)


def open_lab(name: str, *, root: Path | None = None) -> Lab:
    """A lab that exists. Changes nothing."""
    packages.require_root()
    paths = LabPaths(root or state_root(), name)
    spec = paths.read_spec()
    if spec is None:
        others = ", ".join(known_labs(paths.root)) or "none"
        raise UsageError(f"no lab called {name!r} (labs here: {others})", hint=f"run: clusterctl lab up --name {name}")
    return Lab(spec, paths)


def status(lab: Lab) -> tuple[NodeStatus, ...]:
    """What every node looks like, in order. Changes nothing."""
    processes, cables = power.running(lab.paths), network.cables(lab.paths, lab.spec)

    def look(node: LabNode) -> NodeStatus:
        process = processes.get(node.name)
        engine = (
            None if lab.spec.ssh_only else process is not None and readiness.engine_problem(lab.spec, process) is None
        )
        return NodeStatus(
            name=node.name,
            address=node.address,
            power="on" if process else "off",
            pid=process.init if process else None,
            network="partitioned" if _is_partitioned(lab.paths, node) else cables[node.name],
            ssh=process is not None and readiness.ssh_problem(node) is None,
            engine=engine,
        )

    with ThreadPoolExecutor(PARALLEL) as pool:
        return tuple(pool.map(look, lab.spec.members))


def power_off(lab: Lab, node: str) -> None:
    """A power cut: everything in the node ends at once, and its network with it. Its disk stays."""
    with _locked(lab.paths):
        _cut(lab.paths, lab.node(node))


def power_on(lab: Lab, node: str) -> None:
    """Boot the same node again: the same disk, host key and address. Nothing happens to a node that has power."""
    with _locked(lab.paths):
        _require_disk(lab, node)
        network.ensure_switch(lab.paths, lab.spec)
        _boot(lab.paths, lab.spec, lab.node(node), power.running(lab.paths).get(node))


def partition(lab: Lab, node: str) -> None:
    """Pull the node's network cable. It stays pulled through power cuts."""
    with _locked(lab.paths):
        _require_disk(lab, node)
        _partition_mark(lab.paths, lab.node(node)).touch()
        if network.cables(lab.paths, lab.spec)[node] != "absent":
            network.set_cable(lab.paths, lab.node(node), connected=False)


def heal(lab: Lab, node: str) -> None:
    """Plug the node's network cable in again."""
    with _locked(lab.paths):
        _require_disk(lab, node)
        _partition_mark(lab.paths, lab.node(node)).unlink(missing_ok=True)
        if network.cables(lab.paths, lab.spec)[node] != "absent":
            network.set_cable(lab.paths, lab.node(node), connected=True)


def down(name: str, *, say: Say, root: Path | None = None) -> bool:
    """Remove the lab, whole or half, and prove that it is gone. False when there was nothing of it."""
    packages.require_root()
    paths = LabPaths(root or state_root(), name)
    if not remains(paths):
        return False
    with _locked(paths):
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(power.cut, power.running(paths).values()))
        network.remove_everything(paths)
        cgroups.remove(paths.cgroup)
        cgroups.remove_if_empty(str(Path(paths.cgroup).parent))
        _unmount(paths)
        try:
            if spec := paths.read_spec():
                files.remove(paths, spec.directory, say)
        except ClusterctlError as error:
            say(f"{error.message}: where its inventory, key and known_hosts are is not known, they stay")
        disk.remove_tree(paths.home)
    for directory in (paths.root / "labs", paths.root / "locks"):
        with suppress(OSError):
            directory.rmdir()
    if left := remains(paths):
        raise ClusterctlError(f"lab {name} is not gone: {', '.join(left)}", hint="run the same command again")
    return True


def remains(paths: LabPaths) -> tuple[str, ...]:
    """Everything of the lab that is on this machine, found by looking, not by what its description says."""
    found = [f"process {process.parent} ({node})" for node, process in power.running(paths).items()]
    found += [f"network {name}" for name in network.leftovers(paths)]
    found += [f"control group {path}" for path in cgroups.existing(paths.cgroup)]
    found += [f"mount {path}" for path in _mounts(paths)]
    return (*found, *([str(paths.home)] if paths.home.exists() else []))


def _describe(paths: LabPaths, options: LabOptions) -> LabSpec:
    """What the lab is: as it was made, or (the first time) as it is asked for, written down before anything else."""
    existing = paths.read_spec()
    if existing is not None:
        _refuse_changes(existing, options)
        return existing
    _refuse_mixtures(options)
    directory = (options.directory or Path(".lab") / paths.name).absolute()
    files.refuse_foreign(directory)
    nodes = 2 if options.nodes is None else options.nodes
    shared, own = _of_host(paths, options, nodes)
    # One at a time for all labs of this machine: two that start together must not take the same network.
    with exclusive(paths.root / "locks" / ".subnet", "the choice of a network"):
        spec = LabSpec(
            name=paths.name,
            nodes=nodes,
            gpus=len(shared) // nodes if shared else 1 if options.gpus is None else options.gpus,
            ssh_only=bool(options.ssh_only),
            subnet=_choose_subnet(paths, options.subnet, nodes),
            directory=directory,
            image=cache.reference() if own is None else own.reference,
            gpus_of_host=own is not None,
            host_gpus=shared,
            own_image=options.own_image,
            image_key=None if own is None else own.key,
            model=options.model and options.model.absolute(),
            engine=options.engine or "docker",
        )
        write_whole(paths.spec, spec.to_json())
    return spec


def _refuse_mixtures(options: LabOptions) -> None:
    """What excludes each other; an image and a model of the user's are for nodes with GPUs, which need both."""
    given = {"--image": options.own_image, "--model": options.model}
    if options.engine == "podman" and (options.ssh_only or options.gpus_of_host):
        raise UsageError(
            "--engine podman goes with neither --ssh-only (no engine) nor --gpus-of-host (Docker's CDI)",
            hint="leave one of them out",
        )
    if options.gpus_of_host and options.ssh_only:
        raise UsageError("--gpus-of-host and --ssh-only exclude each other", hint="leave one of them out")
    if not options.gpus_of_host and any(given.values()):
        raise UsageError(
            f"{' and '.join(name for name, value in given.items() if value)} is for nodes with GPUs of this machine",
            hint="add --gpus-of-host, or leave it out: the lab makes its own image and model",
        )
    missing = [name for name, value in given.items() if not value]
    if options.gpus_of_host and missing:
        raise UsageError(
            f"--gpus-of-host needs {' and '.join(missing)}: the lab's own image is vLLM's CPU build, its model is tiny",
            hint="clusterctl lab up --gpus-of-host --image vllm/vllm-openai:latest --model /models/NAME",
        )
    if options.model is not None and not (options.model / "config.json").is_file():
        raise UsageError(f"{options.model} is no model: it has no config.json", hint="give --model its directory")


def _of_host(paths: LabPaths, options: LabOptions, nodes: int) -> tuple[tuple[HostGpu, ...], OwnImage | None]:
    """GPUs of this machine for a new lab, and the image that was asked for."""
    if not options.gpus_of_host or options.own_image is None:
        return (), None
    machine = gpus.discover()
    gpus.check_engine()
    return gpus.share_out(machine, paths.root, nodes, options.gpus), own_images.find(options.own_image)


def _refuse_changes(existing: LabSpec, options: LabOptions) -> None:
    """A lab stays as it was made: what is asked for must be left out, or be the same."""
    paths = {"directory": options.directory, "model": options.model}
    asked = {**vars(options), **{key: path and path.absolute() for key, path in paths.items()}}
    different = [
        f"{key.replace('_', '-')} is {getattr(existing, key)}, not {value}"
        for key, value in asked.items()
        if value is not None and getattr(existing, key) != value
    ]
    if different:
        raise UsageError(
            f"lab {existing.name} exists with other options: {'; '.join(different)}",
            hint=f"run: clusterctl lab down --name {existing.name}, or choose another --name",
        )


def _image_for(paths: LabPaths, spec: LabSpec, say: Say) -> Image | None:
    """The image for the disks that have to be made; None when there is none to make, or no engine to hold it."""
    if spec.ssh_only or all(disk.exists(paths, node) for node in spec.members):
        return None
    if spec.own_image is not None and spec.image_key is not None:
        return own_images.cached(paths.root, spec.image_key, spec.image) or _own_image(paths, spec, say)
    if spec.image != cache.reference():
        raise ClusterctlError(
            f"lab {spec.name} was made with image {spec.image}; this version of clusterctl makes {cache.reference()}",
            hint=f"run: clusterctl lab down --name {spec.name}, then `lab up` again",
        )
    return build.ensure(paths.root, say)


def _own_image(paths: LabPaths, spec: LabSpec, say: Say) -> Image:
    found = own_images.find(str(spec.own_image))
    if found.key != spec.image_key:
        raise ClusterctlError(
            f"{spec.own_image} is not any more what lab {spec.name} was made with",
            hint=f"run: clusterctl lab down --name {spec.name}, then `lab up` again",
        )
    return own_images.ensure(paths.root, found, say)


def _choose_subnet(paths: LabPaths, asked: IPv4Network | None, nodes: int) -> IPv4Network:
    used = list(network.used_networks())
    for other in known_labs(paths.root):
        # A lab that is switched off has no interface to show for its network.
        with suppress(ClusterctlError):
            if spec := LabPaths(paths.root, other).read_spec():
                used.append(spec.subnet)
    if asked is None:
        return network.free_subnet(used)
    network.check_subnet(asked, nodes, used)
    return asked


def _boot(paths: LabPaths, spec: LabSpec, node: LabNode, process: power.Running | None) -> None:
    """Give the node a network and power, whatever of it is missing, and wait until it answers."""
    partitioned = _is_partitioned(paths, node)
    if process and not partitioned and readiness.problem(spec, node, process) is None:
        return
    network.ensure_node(paths, spec, node, init=process.init if process else None, partitioned=partitioned)
    if process is None:
        cgroup = f"{paths.cgroup}/{node.name}"
        cgroups.remove(cgroup)
        process = power.start(paths, node, cgroup="" if spec.ssh_only else cgroup)
    readiness.wait(paths, spec, node, process, reachable=not partitioned)


def _cut(paths: LabPaths, node: LabNode) -> None:
    process = power.running(paths).get(node.name)
    if process:
        power.cut(process)
    # Without its namespace nothing answers for the node any more, not even the kernel with a connection reset.
    network.remove_node(paths, node)
    cgroups.remove(f"{paths.cgroup}/{node.name}")


def _require_disk(lab: Lab, node: str) -> None:
    """Refuse a node that an `up` which was cut off has not made yet."""
    if not disk.exists(lab.paths, lab.node(node)):
        raise ClusterctlError(f"{node} has no disk yet", hint=f"run: clusterctl lab up --name {lab.name}")


def _partition_mark(paths: LabPaths, node: LabNode) -> Path:
    return paths.node(node.name) / "partitioned"


def _is_partitioned(paths: LabPaths, node: LabNode) -> bool:
    return _partition_mark(paths, node).exists()


def _mounts(paths: LabPaths) -> list[Path]:
    """Mounts of this machine below the lab's directory. There are none unless something went wrong by hand."""
    mounted = (Path(line.split(" ")[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [path for path in mounted if path.is_relative_to(paths.home)]


def _unmount(paths: LabPaths) -> None:
    for path in reversed(_mounts(paths)):
        run(["umount", "-l", str(path)])


def _locked(paths: LabPaths) -> AbstractContextManager[None]:
    return exclusive(paths.root / "locks" / paths.name, f"lab {paths.name}")


def _each(nodes: Sequence[LabNode], stage: str, work: Callable[[LabNode], None]) -> None:
    """Do the work for all nodes at once; report every node that failed, in order."""

    def attempt(node: LabNode) -> NodeFailure | None:
        try:
            work(node)
        except ClusterctlError as error:
            return NodeFailure(node.name, error.message, error.hint)
        except OSError as error:  # a full disk, say
            return NodeFailure(node.name, str(error))
        return None

    with ThreadPoolExecutor(PARALLEL) as pool:
        failures = [failure for failure in pool.map(attempt, nodes) if failure]
    if failures:
        raise NodesError(stage, failures)
