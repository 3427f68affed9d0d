"""The GPUs of this machine, for labs whose nodes share them out: which there are, what of the driver must be carried
into a node, and which node gets which."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clusterctl.errors import ClusterctlError
from clusterctl.inventory.layout import count
from clusterctl.lab import gpu_cdi
from clusterctl.lab.commands import CommandError, run
from clusterctl.lab.packages import SYSTEM_PATH
from clusterctl.lab.state import BINDS, GPU_DEVICES, Bind, HostGpu, LabNode, LabPaths, LabSpec, known_labs, write_whole

OLDEST_ENGINE = 25
"""Docker's first version that gives devices by CDI: the only way that needs nothing of the machine's own engine."""
DRIVER_PATH = f"{SYSTEM_PATH}:/usr/local/nvidia/bin"
"""Where nvidia-smi is looked for."""
LIBRARIES = (
    *("usr/local/nvidia/lib64", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib"),
    "usr/local/nvidia/lib",
)
"""Where the driver's libcuda.so.1 is looked for."""
SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
"""Devices of the driver that are no GPU: every process that computes opens them."""
_DRIVER_PART = re.compile(r"nvidia|/libcuda|/libnv", re.IGNORECASE)
_QUERY = ("--query-gpu=index,uuid,name,pci.bus_id", "--format=csv,noheader")


@dataclass(frozen=True)
class Machine:
    """What this machine has."""

    gpus: tuple[HostGpu, ...]
    shared: tuple[str, ...]
    """Those of SHARED that are there."""
    libraries: Path
    """The directory with libcuda.so.1."""
    smi: Path
    """nvidia-smi."""
    mounts: tuple[Path, ...]
    """Parts of the driver that are mounts of their own below /usr: a node's /usr has none of what is mounted there."""

    @property
    def driver_directory(self) -> Path | None:
        """The mounted directory that holds the libraries, where they are in one."""
        return next((path for path in self.mounts if path.is_dir() and self.libraries.is_relative_to(path)), None)


def discover(root: Path = Path("/"), path: str = DRIVER_PATH) -> Machine:
    """Look. Raises ClusterctlError, which says what was looked for, where something is missing."""
    smi = shutil.which("nvidia-smi", path=path)
    libraries = next((root / each for each in LIBRARIES if (root / each / "libcuda.so.1").exists()), None)
    if smi is None or libraries is None:
        missing = f"nvidia-smi in {path}" if smi is None else f"libcuda.so.1 in /{', /'.join(LIBRARIES)}"
        raise ClusterctlError(
            f"this machine has no NVIDIA GPUs to share out: there is no {missing}",
            hint="install the NVIDIA driver, or leave --gpus-of-host out: nodes then have slots of vLLM's CPU build",
        )
    gpus = tuple(_gpus(root, smi))
    shared = tuple(name for name in SHARED if (root / "dev" / name).exists())
    if "nvidiactl" not in shared or "nvidia-uvm" not in shared:
        raise ClusterctlError(
            "the driver's devices /dev/nvidiactl and /dev/nvidia-uvm are not there", hint="run: nvidia-modprobe -u -c=0"
        )
    return Machine(gpus, shared, libraries, Path(smi), tuple(_mounts(root)))


def _gpus(root: Path, smi: str) -> Iterator[HostGpu]:
    """By index, as nvidia-smi lists them, each with its device."""
    try:
        output = run([smi, *_QUERY], timeout_s=60)
        rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines() if line.strip()]
        listed = [(int(index), uuid, name, bus) for index, uuid, name, bus in rows]
    except (CommandError, ValueError) as error:
        raise ClusterctlError(
            f"this machine's GPUs cannot be listed: {error}", hint="nvidia-smi must work on this machine first"
        ) from error
    # In a container that was given some of a machine's GPUs, GPU 0 may be /dev/nvidia3.
    found = sorted(int(path.name[6:]) for path in (root / "dev").glob("nvidia*") if path.name[6:].isdigit())
    in_order = dict(zip((index for index, *_ in listed), found, strict=False)) if len(found) == len(listed) else {}
    for index, uuid, name, bus in listed:
        minor = _minor(root, bus)
        minor = in_order.get(index, index) if minor is None else minor
        if not (root / "dev" / f"nvidia{minor}").exists():
            raise ClusterctlError(
                f"GPU {index} ({uuid}) has no device: /dev/nvidia{minor} does not exist",
                hint="run: nvidia-smi, which makes it, or ask whoever made this container",
            )
        yield HostGpu(index, minor, uuid, name)


def _minor(root: Path, bus: str) -> int | None:
    """The number in /dev/nvidiaN, by the driver; None where it does not say (nvidia-smi writes a longer domain)."""
    information = root / "proc/driver/nvidia/gpus" / bus.lower().removeprefix("0000") / "information"
    with suppress(OSError):
        match = re.search(r"^Device Minor:\s*(\d{1,4})$", information.read_text(errors="replace"), re.MULTILINE)
        return int(match[1]) if match else None
    return None


def _mounts(root: Path) -> Iterator[Path]:
    """Parts of the driver below /usr that are mounts of their own."""
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        escaped = line.split(" ")[4]
        target = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), escaped)
        if target.startswith(("/usr/", "/lib/", "/lib64/", "/bin/", "/sbin/")) and _DRIVER_PART.search(target):
            yield root / target[1:]


def check_engine() -> None:
    """Refuse an engine that knows no CDI."""
    said = run(["dockerd", "--version"], env={"PATH": SYSTEM_PATH})
    match = re.search(r"version v?(\d{1,4})\.", said)
    if match is None or int(match[1]) < OLDEST_ENGINE:
        raise ClusterctlError(
            f"--gpus-of-host needs Docker {OLDEST_ENGINE} or newer, which gives GPUs by CDI; this machine has: "
            f"{said.strip()}",
            hint="install Docker Engine from docker.com, or Debian 13's",
        )


def share_out(machine: Machine, root: Path, nodes: int, per_node: int | None) -> tuple[HostGpu, ...]:
    """GPUs for a new lab, those of its first node first: of those that no other lab of this machine has. Without
    `per_node` as many for each node as there are."""
    taken = {gpu.uuid: lab for lab in known_labs(root) for gpu in _given(root, lab)}
    free = [gpu for gpu in machine.gpus if gpu.uuid not in taken]
    wanted = nodes * (max(1, len(free) // nodes) if per_node is None else per_node)
    if wanted > len(free):
        others = ", ".join(dict.fromkeys(taken.values()))
        raise ClusterctlError(
            f"{count(nodes, 'node')} with {count(wanted // nodes, 'GPU')} each: {wanted} of this machine's "
            f"{count(len(machine.gpus), 'GPU')}"
            + (f", of which {len(taken)} belong to other labs ({others})" if taken else ""),
            hint="ask for fewer with --nodes and --gpus" + (", or remove a lab: clusterctl lab down" if taken else ""),
        )
    return tuple(free[:wanted])


def _given(root: Path, lab: str) -> tuple[HostGpu, ...]:
    with suppress(ClusterctlError):
        spec = LabPaths(root, lab).read_spec()
        return spec.host_gpus if spec else ()
    return ()


def install(paths: LabPaths, spec: LabSpec, node: LabNode, machine: Machine) -> None:
    """Give a node that has a disk its GPUs: what its first process puts into its /dev and mounts, and what its engine
    reads. Written at every `up`: a driver may have been upgraded since."""
    own = spec.gpus_of(node)
    lost = [gpu.uuid for gpu in own if gpu not in machine.gpus]
    if lost:
        raise ClusterctlError(
            f"{node.name} was given GPUs that this machine does not have any more, or in another place: "
            f"{', '.join(lost)}",
            hint=f"run: clusterctl lab down --name {spec.name}, then `lab up` again",
        )
    home, disk = paths.node(node.name), paths.disk(node.name)
    devices = (*machine.shared, *(f"nvidia{gpu.minor}" for gpu in own))
    write_whole(home / GPU_DEVICES, "".join(f"{name}\n" for name in devices))
    binds = [*(Bind(path, path, read_only=False) for path in machine.mounts), *_model_bind(spec, node, paths)]
    write_whole(home / BINDS, "".join(bind.line() for bind in binds))
    specification = gpu_cdi.specification(own, devices, _edits(machine), generated())
    write_whole(disk / "etc/cdi/nvidia.json", json.dumps(specification, indent=1) + "\n")
    write_whole(disk / "etc/docker/daemon.json", json.dumps({"features": {"cdi": True}}) + "\n")
    sshd = disk / "etc/ssh/sshd_config"
    if str(machine.smi.parent) not in SYSTEM_PATH.split(":"):
        # A login finds nvidia-smi where this machine has it. Of several lines the first one counts.
        path = f"SetEnv PATH={machine.smi.parent}:{SYSTEM_PATH}"
        kept = [line for line in sshd.read_text().splitlines() if not line.startswith("SetEnv PATH=")]
        write_whole(sshd, "\n".join([path, *kept]) + "\n")


def _model_bind(spec: LabSpec, node: LabNode, paths: LabPaths) -> list[Bind]:
    """The model, where it could not be put on the node's disk by hard links."""
    if spec.model is None or spec.model_path is None:
        return []
    here = paths.disk(node.name) / str(spec.model_path)[1:]
    return [] if any(here.iterdir()) else [Bind(spec.model, spec.model_path, read_only=True)]


def generated() -> object:
    """What `nvidia-ctk cdi generate` says of this machine; None where it is not installed, or fails."""
    ctk = shutil.which("nvidia-ctk", path=SYSTEM_PATH)
    if ctk is None:
        return None
    try:
        values: object = json.loads(run([ctk, "cdi", "generate", "--format=json"], timeout_s=60))
    except (CommandError, ValueError):
        return None  # written by hand then, which needs only the driver
    return values


def _edits(machine: Machine) -> gpu_cdi.Edits:
    """What every container with a GPU needs of the driver, written by hand."""
    directory = machine.driver_directory
    if directory is not None:
        return gpu_cdi.Edits(((directory, directory),), machine.libraries)
    version = (machine.libraries / "libcuda.so.1").resolve().name.removeprefix("libcuda.so.")
    mounts: Sequence[tuple[Path, Path]] = [
        (path.resolve(), gpu_cdi.IN_CONTAINER / path.name)
        for path in sorted(machine.libraries.iterdir())
        if _DRIVER_PART.search(f"/{path.name}") and path.resolve().name.endswith(f".so.{version}")
    ]
    return gpu_cdi.Edits((*mounts, (machine.smi.resolve(), Path("/usr/bin/nvidia-smi"))), gpu_cdi.IN_CONTAINER)
