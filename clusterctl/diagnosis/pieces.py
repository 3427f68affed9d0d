"""What is collected of each node: logs, files, commands, the kernel's messages, Ray's logs."""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from clusterctl.agent import paths
from clusterctl.agent.labels import LABEL_ROLE
from clusterctl.diagnosis.bundle import MIB, Store
from clusterctl.diagnosis.evidence import ContainerEvidence, NodeEvidence
from clusterctl.diagnosis.node import Job, Limits, NodeCollection
from clusterctl.diagnosis.processes import processes_of
from clusterctl.diagnosis.streams import ChunkStream, Tail, whole_lines
from clusterctl.errors import ClusterctlError
from clusterctl.hosts.engine.engine import Container, EngineInfo, EngineVersion
from clusterctl.hosts.host import Host
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import SECRET_PATHS
from clusterctl.signatures import kernel as kernel_log

LOG_LINES = 100_000
"""Last lines of a container's log that are asked for: 20 MB at the 200 bytes that a line of vLLM has."""


DIAGNOSED_BYTES = 4 * MIB
"""How much of a log's end is looked at for causes."""


RAY_LOGS = "/tmp/ray/session_latest/logs"  # noqa: S108 (Ray's own place, in the container)


RAY_ERRORS = (".err", "raylet.out", "gcs_server.out")
"""Ray's files in which causes are looked for: what its processes log when they die."""


SECRET_FILES = (*SECRET_PATHS, paths.API_KEY_PATH)
"""Read to know what to take out; never a part of the bundle."""


FILES = (
    paths.AGENT_CONFIG_PATH,
    f"{paths.CONFIG_DIR}/settings.json",
    f"{paths.CONFIG_DIR}/server.json",
    paths.SERVER_CONFIG_PATH,
    paths.SPEC_PATH,
    paths.STATE_PATH,
)


_KERNEL = 'read up rest </proc/uptime && echo "clock $up $(date +%s)" && dmesg'


_SUDO_KERNEL = _KERNEL + " 2>/dev/null || sudo -n dmesg"


COMMANDS: Mapping[str, Sequence[str]] = {
    "nvidia-smi.txt": ("nvidia-smi", "-q"),
    "ip-addr.txt": ("ip", "addr"),
    "ip-route.txt": ("ip", "route"),
    "ports.txt": ("ss", "-ltnp"),
    "uptime.txt": ("uptime",),
    "df.txt": ("df", "-h"),
    "free.txt": ("free",),
}
"""File → what is run on the node for it. Nothing that shows other processes' command lines."""


_WITH_PATH = ("sh", "-c", 'PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin exec "$@"', "sh")
"""A login that is no shell's has no sbin in its PATH, where ip, ss and dmesg are on some systems."""


def node_jobs(node: NodeCollection, inventory: Inventory, store: Store, limits: Limits) -> Iterator[Job]:
    """Everything that one node is asked for, the most useful first."""
    host, place = node.host, f"nodes/{node.host.name}"
    for container in node.containers or ():
        inside = f"{place}/containers/{container.name}"
        if container.id in node.sealed:
            yield f"{inside}: log and files", _withheld
        else:
            yield f"{inside}: log", _job(_log, node, container.id, inside, store, limits)
            yield f"{inside}: files", _job(_files, node, container.id, inside, store)
            if container.running:
                yield (
                    f"{inside}: what its processes do",
                    _job(processes_of, node, container.id, inside, store, limits, sudo=inventory.container.sudo),
                )
        yield f"{inside}: inspect", _job(store.put_json, f"{inside}/inspect.json", container.raw)
    yield "dmesg", _job(_kernel, node, store, limits, sudo=inventory.container.sudo)
    for file, argv in COMMANDS.items():
        yield " ".join(argv), _job(_command, host, argv, f"{place}/{file}", store, limits)
    if node.containers is not None:
        says = host.engine.commands
        yield says.info, _job(_engine, host.engine.info, f"{place}/engine-info.json", store)
        yield says.version, _job(_engine, host.engine.version, f"{place}/engine-version.json", store)
    for container in node.containers or ():
        if container.id not in node.sealed:
            inside = f"{place}/containers/{container.name}"
            yield f"{inside}: Ray's logs", _job(_ray, node, container.id, inside, store, limits)


def _job(work: Callable[..., object], *args: object, **named: object) -> Callable[[], None]:
    return lambda: (work(*args, **named), None)[1]


def _withheld() -> None:
    raise ClusterctlError("withheld: the container's secrets could not be read, so they could not be removed from it")


def _command(host: Host, argv: Sequence[str], path: str, store: Store, limits: Limits) -> str:
    done = host.connection.run([*_WITH_PATH, *argv], timeout_s=limits.item_s, read_only=True)
    if done.exit_code == 127:
        raise ClusterctlError(f"the node has no `{argv[0]}`")
    if done.exit_code and not done.stdout:
        raise ClusterctlError(f"exit code {done.exit_code}: {done.stderr.decode(errors='replace').strip()}")
    code = f"\n[exit code {done.exit_code}] ".encode() if done.exit_code else b""
    return store.put(path, done.stdout + code + done.stderr)


def _kernel(node: NodeCollection, store: Store, limits: Limits, *, sudo: bool) -> None:
    script = _SUDO_KERNEL if sudo else _KERNEL
    node.kernel = _command(node.host, ["sh", "-c", script], f"nodes/{node.host.name}/dmesg.txt", store, limits)
    if not any(t is not None for t, _ in kernel_log.timed(node.kernel)):
        raise ClusterctlError("the kernel's log is empty, or this login may not read it (kernel.dmesg_restrict)")


def _engine(ask: Callable[[], EngineInfo | EngineVersion], path: str, store: Store) -> None:
    store.put_json(path, ask().raw)


def _log(node: NodeCollection, container: str, inside: str, store: Store, limits: Limits) -> None:
    chunks = node.host.engine.logs(container, follow=False, tail=LOG_LINES, timestamps=True)
    streams = {"stdout": Tail(limits.log_bytes), "stderr": Tail(limits.log_bytes)}
    for chunk in whole_lines(chunks):
        streams[chunk.stream].add(chunk.data)
    lines = sum(tail.lines for tail in streams.values())  # the engine counts both streams together
    for stream, tail in streams.items():
        cut = tail.cut or (f"only what is in the last {LOG_LINES} lines" if lines >= LOG_LINES else None)
        text = store.put(f"{inside}/{stream}.log", tail.content(), cut)
        if stream == "stdout":
            node.logs[container] = text[-DIAGNOSED_BYTES:]


def _files(node: NodeCollection, container: str, inside: str, store: Store) -> None:
    failed = []
    for path in FILES:
        try:
            content = node.host.engine.read_file(container, path)
        except ClusterctlError as error:
            failed.append(f"{path}: {error.message}")
            continue
        if content is None:
            continue  # a worker has no server's configuration
        value = _parsed(content) if path.endswith(".json") else None
        if value is None:
            store.put(f"{inside}{path}", content)
            continue
        state = _parsed(store.put_json(f"{inside}{path}", value))
        if path == paths.STATE_PATH and isinstance(state, dict):
            node.states[container] = state
    if failed:
        raise ClusterctlError("; ".join(failed))


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _ray(node: NodeCollection, container: str, inside: str, store: Store, limits: Limits) -> None:
    """Ray's session logs, each from its end, as one stream: nothing is run in the container."""
    chunks = node.host.engine.archive(container, RAY_LOGS)
    if chunks is None:
        return  # Ray never started there
    deadline = time.monotonic() + limits.item_s
    size = read = 0
    try:
        with tarfile.open(fileobj=ChunkStream(chunks), mode="r|") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                left = min(limits.ray_file_bytes, limits.ray_bytes - size)
                read += member.size
                if left <= 0 or read > 8 * limits.ray_bytes or time.monotonic() > deadline:
                    raise ClusterctlError(
                        f"cut off at {member.name}: only the first {size / MIB:.1f} MiB of Ray's logs"
                    )
                tail = Tail(left)
                file = tar.extractfile(member)
                while file is not None and (part := file.read(64 * 1024)):
                    tail.add(part)
                data = tail.content()
                size += len(data)
                name = member.name.partition("/")[2] or member.name
                text = store.put(f"{inside}/ray/{name}", data, tail.cut)
                if name.endswith(RAY_ERRORS):
                    node.ray[f"ray/{name}"] = text[-DIAGNOSED_BYTES // 8 :]
    except tarfile.TarError as error:
        raise ClusterctlError(f"the stream of Ray's logs broke: {error}") from error


def evidence_of(node: NodeCollection) -> NodeEvidence:
    """What was collected of a node, typed."""
    if node.containers is None:
        containers = None
    else:
        containers = tuple(_container_evidence(node, container) for container in node.containers)
    clock = node.kernel.partition("\n")[0].split()
    now = float(clock[2]) if len(clock) == 3 and clock[0] == "clock" and clock[2].isdigit() else None
    return NodeEvidence(containers, node.kernel, dict(node.ray), now, node.host.engine.commands)


def _container_evidence(node: NodeCollection, container: Container) -> ContainerEvidence:
    return ContainerEvidence(
        name=container.name,
        role=container.labels.get(LABEL_ROLE, ""),
        status=container.status,
        exit_code=container.exit_code,
        oom_killed=container.oom_killed,
        error=container.error,
        restarts=container.restart_count,
        started_t=container.started_t,
        state=node.states.get(container.id, {}),
        log=node.logs.get(container.id, ""),
        hang=node.hangs.get(container.id, {}),
    )
