"""The evidence of a cluster, from all nodes at once, in one file: what anyone needs who was not there.

Each piece is asked for by itself, with its own deadline; one that fails is recorded with its reason and holds up no
other. Reads only: nothing is written or started on a node, and only the bundle on this machine. Nothing leaves a node's
text for the bundle without passing through the Redactor, which knows the cluster's secrets from memory alone.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
import tarfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from clusterctl import __version__, kernel_log
from clusterctl.diagnosis import Cause, Certainty, ContainerEvidence, Evidence, NodeEvidence, diagnose, situation
from clusterctl.errors import ClusterctlError
from clusterctl.facts.gather import gather
from clusterctl.facts.model import ClusterFacts
from clusterctl.findings.finding import Finding
from clusterctl.findings.rules import check
from clusterctl.hosts.engine import LogChunk
from clusterctl.hosts.host import TURN_S, Host, Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.planning import paths
from clusterctl.planning.container import LABEL_ROLE
from clusterctl.planning.deployment import resolve
from clusterctl.planning.plan import make_plan
from clusterctl.planning.probe import ROLE_PROBE
from clusterctl.redact import Redactor, secret_values
from clusterctl.ui.progress import SILENT, Progress

MIB = 1024 * 1024
SESSIONS = 4
"""Pieces asked of one node at once. sshd carries ten sessions on a connection (MaxSessions), and the engine's calls
are sessions too."""
ALIVE_S = 5.0
"""A node whose shell does not run `true` in so many seconds is asked for nothing else."""
LOG_LINES = 100_000
"""Last lines of a container's log that are asked for: 20 MB at the 200 bytes that a line of vLLM has."""
DIAGNOSED_BYTES = 4 * MIB
"""How much of a log's end is looked at for causes."""
STAMP_BYTES = 31
"""Length of the time and the blank before every frame (RFC 3339 with nine decimals; Docker 20.10 to 29)."""
RAY_LOGS = "/tmp/ray/session_latest/logs"  # noqa: S108 (Ray's own place, in the container)
RAY_TOLD = (".err", "raylet.out", "gcs_server.out")
"""Ray's files in which causes are looked for: what its processes say when they die."""

SECRET_FILES = (paths.RAY_TOKEN_PATH, paths.API_KEY_PATH)
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


@dataclass(frozen=True)
class Limits:
    """How much, and how long (seconds)."""

    log_bytes: int = 20 * MIB
    """Of each stream of each container's log, from its end."""
    ray_bytes: int = 30 * MIB
    """Of Ray's session logs on a node, all files together."""
    ray_file_bytes: int = 4 * MIB
    """Of each of Ray's files, from its end."""
    item_s: float = 15.0
    """For one piece from one node."""
    total_s: float = 120.0
    """For everything."""


THOROUGH = Limits()
AFTER_FAILURE = Limits(log_bytes=5 * MIB, ray_bytes=8 * MIB, ray_file_bytes=MIB, item_s=10.0, total_s=30.0)
"""Somebody waits for the message of a failed start, and what it started waits to be removed."""


@dataclass(frozen=True)
class Missed:
    """A piece that is not in the bundle, and why. `node` is empty for what is not a node's."""

    node: str
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node + ': ' if self.node else ''}{self.what}: {self.reason}"


@dataclass(frozen=True)
class Bundle:
    """What was collected, without secrets."""

    cluster: str
    path: Path | None
    """The file; None when none was asked for."""
    situation: str
    causes: tuple[Cause, ...]
    unreachable: Mapping[str, str]
    """Node → why it was not reached."""
    complete: bool
    """Whether every node could be read and said which containers it has."""
    unexplained: bool
    """Whether there are containers that neither serve nor are in their first start, and no cause was found."""
    missed: tuple[Missed, ...]
    seconds: float

    @property
    def fine(self) -> bool:
        """Whether nothing wrong was found, and every node answered."""
        return (
            self.complete and not self.unexplained and all(cause.certainty is Certainty.PAST for cause in self.causes)
        )

    def to_json(self) -> dict[str, Any]:
        """The result for machines."""
        return {
            **{key: value for key, value in vars(self).items() if key not in ("causes", "missed")},
            "path": str(self.path) if self.path else None,
            "causes": [cause.to_json() for cause in self.causes],
            "missed": [asdict(missed) for missed in self.missed],
        }


@dataclass
class _Store:
    """The pieces so far, compressed; several threads put into it, and none once it is closed."""

    redactor: Redactor
    items: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Path in the bundle → compressed content, size."""
    cut: dict[str, str] = field(default_factory=dict)
    """Path → what was left out of it."""
    missed: list[Missed] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: bool = False

    def put(self, path: str, data: bytes | str, cut: str | None = None) -> str:
        """Keep a piece without its secrets; returns it as text."""
        raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        return self.keep(path, self.redactor.data(raw), cut)

    def put_json(self, path: str, value: Any) -> str:
        """Keep a tree of JSON values without its secrets."""
        return self.keep(path, self.redactor.json(value).encode("utf-8", "surrogateescape"))

    def keep(self, path: str, clean: bytes, cut: str | None = None) -> str:
        """Keep a piece that has no secrets any more."""
        with self.lock:
            if not self.closed:
                self.items[self.redactor.text(path)] = (zlib.compress(clean, 1), len(clean))
                if cut:
                    self.cut[path] = cut
        return clean.decode(errors="replace")

    def miss(self, node: str, what: str, reason: str) -> None:
        with self.lock:
            if not self.closed:
                self.missed.append(Missed(node, what, self.redactor.text(reason)))

    def close(self) -> None:
        with self.lock:
            self.closed = True


@dataclass
class _Node:
    """What is known of one node while it is asked."""

    host: Host
    answers: bool = False
    """Whether its SSH still answers: the connection may be older than the fault."""
    inspected: tuple[dict[str, Any], ...] | None = None
    secrets: list[str] = field(default_factory=list)
    sealed: set[str] = field(default_factory=set)
    """Containers whose secrets could not be read: what they wrote cannot be cleared of them."""
    logs: dict[str, str] = field(default_factory=dict)
    states: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    kernel: str = ""
    ray: dict[str, str] = field(default_factory=dict)


def collect(
    hosts: Hosts,
    *,
    facts: ClusterFacts | None,
    error: str | None,
    folder: Path,
    progress: Progress = SILENT,
    output: Path | None = None,
    write: bool = True,
    inventory_file: Path | None = None,
    limits: Limits = THOROUGH,
) -> Bundle:
    """Ask every node that was reached for everything, and put it into one file that only its owner may read.

    `facts`: what is known already; None: the nodes are read again. `error`: what a command failed with. The file is
    `output`, or one named after the cluster and the time in `folder`; `write=False`: none. Raises ClusterctlError when
    the file cannot be written (before any node is asked, where that can be known); nothing of it stays then.
    """
    began = time.monotonic()
    now = datetime.now(UTC)
    name = f"clusterctl-{hosts.inventory.cluster}-{now:%Y%m%dT%H%M%SZ}"
    target = (output or folder / f"{name}.tar.gz") if write else None
    file = _created(target) if target else None
    try:
        with_facts, evidence, store = _collected(
            hosts, facts, error, progress, limits=limits, deadline=began + limits.total_s
        )
        causes = tuple(_clean(cause, store.redactor) for cause in diagnose(evidence))
        unreachable = {n: store.redactor.text(reason) for n, (reason, _) in evidence.unreachable.items()}
        _of_the_cluster(store, hosts.inventory, with_facts, evidence, inventory_file)
        store.close()
        bundle = Bundle(
            hosts.inventory.cluster,
            target,
            situation(evidence),
            causes,
            unreachable,
            with_facts is not None and not unreachable and None not in [n.containers for n in evidence.nodes.values()],
            evidence.containers and not (evidence.serving or evidence.starting or causes),
            tuple(store.missed),
            round(time.monotonic() - began, 2),
        )
        if file is not None and target is not None:
            _write(file, target, name, store, bundle=bundle, collected_at=now)
    except BaseException:
        if file is not None and target is not None:
            file.close()
            _part_of(target).unlink(missing_ok=True)
        raise
    return bundle


def collect_after_failure(hosts: Hosts, error: ClusterctlError | str, facts: ClusterFacts | None) -> str:
    """The same for a command that failed, before it cleans up: a sentence that says where the bundle is, or why there
    is none. Raises nothing, and takes 30 s at most, also when a node hangs."""
    said = error.message if isinstance(error, ClusterctlError) else error
    try:
        bundle = collect(hosts, facts=facts, error=said, folder=Path.cwd(), limits=AFTER_FAILURE)
    except ClusterctlError as problem:
        return f"no evidence could be kept: {problem.message}"
    except Exception as problem:  # noqa: BLE001 (the failure itself is to be told, whatever happens to its evidence)
        return f"no evidence could be kept: {type(problem).__name__}: {problem}"
    lost = f" (without {', '.join(bundle.unreachable)}: not reached)" if bundle.unreachable else ""
    return f"evidence from the nodes, with ranked causes: {bundle.path}{lost}"


def _part_of(path: Path) -> Path:
    """Where the file is until it is whole: a run that was killed leaves none that looks like evidence."""
    return path.with_name(f"{path.name}.part")


def _created(path: Path) -> io.BufferedWriter:
    """The file to be, readable by its owner only."""
    part = _part_of(path)
    try:
        file = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError as error:
        hint = "another --output; or remove it, if the run that wrote it is gone"
        raise ClusterctlError(f"{part} exists", hint=hint) from error
    except OSError as error:
        raise ClusterctlError(
            f"cannot write {path}: {error.strerror}",
            hint="run it in a directory that you may write to, or --output FILE",
        ) from error
    # Now that no other run writes this one: whole already?
    if path.exists():
        file.close()
        part.unlink()
        raise ClusterctlError(f"{path} exists", hint="another --output; nothing is overwritten")
    return file


def _clean(cause: Cause, redactor: Redactor) -> Cause:
    return Cause(
        **{
            **vars(cause),
            "seen": tuple(redactor.text(line) for line in cause.seen),
            "meaning": redactor.text(cause.meaning),
            "fix": redactor.text(cause.fix),
        }
    )


# Collecting: first what must be known before anything may be kept (containers, secrets), then everything else.


def _collected(
    hosts: Hosts, facts: ClusterFacts | None, error: str | None, progress: Progress, *, limits: Limits, deadline: float
) -> tuple[ClusterFacts | None, Evidence, _Store]:
    nodes = {name: _Node(host) for name, host in hosts.connected.items()}
    unreachable = {name: (e.message, e.hint) for name, e in hosts.unreachable.items()}
    pool = ThreadPoolExecutor(max_workers=len(nodes) + 1, thread_name_prefix="evidence")
    store = _Store(Redactor(()))
    try:
        progress.phase("looking at what runs")
        reading = pool.submit(gather, hosts) if facts is None else None
        opened = {name: pool.submit(_look, node, hosts.inventory.cluster) for name, node in nodes.items()}
        _wait(opened.values(), min(deadline, time.monotonic() + limits.item_s))
        secrets = [*_own_secrets(hosts.inventory), *(s for node in nodes.values() for s in list(node.secrets))]
        store = _Store(Redactor(secrets))
        asked = {}
        for name, future in opened.items():
            problem = _problem(future, limits.item_s)
            if not nodes[name].answers:
                unreachable[name] = (problem or "its SSH does not answer any more", None)
                continue
            if problem:
                store.miss(name, "containers", problem)
            asked[name] = [*_node_jobs(nodes[name], hosts.inventory, store, limits)]
        progress.phase("collecting from every node")
        _run(asked, store, limits, deadline)
        if reading is not None:
            _wait([reading], deadline)
            problem = _problem(reading, limits.total_s)
            facts = None if problem else reading.result()
            if problem:
                store.miss("", "facts", problem)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    findings: tuple[Finding, ...] = ()
    if facts is not None:
        unreachable |= {n: (lost.reason, lost.fix) for n, lost in facts.unreachable.items() if n not in unreachable}
        try:
            findings = check(hosts.inventory, facts)
        except Exception as broken:  # noqa: BLE001 (a rule that breaks on odd facts must not cost the evidence)
            store.miss("", "findings", f"{type(broken).__name__}: {broken}")
    evidence = Evidence(
        head=hosts.inventory.head_name,
        nodes={name: _node_evidence(node) for name, node in nodes.items() if name not in unreachable},
        unreachable=unreachable,
        findings=findings,
        error=error,
    )
    return facts, evidence, store


def _wait(futures: Iterable[Future[Any]], deadline: float) -> None:
    """Until all are done or the deadline (monotonic seconds), in short turns so that Ctrl-C is heard between them."""
    left = set(futures)
    while left and (remaining := deadline - time.monotonic()) > 0:
        left = wait(left, timeout=min(TURN_S, remaining)).not_done


def _problem(future: Future[Any], waited_s: float) -> str | None:
    """Why a piece is not there, if it is not."""
    if not future.done():
        future.cancel()
        return f"no answer within {waited_s:g} s"
    if future.cancelled():
        return "there was no time left for it"
    error = future.exception()
    if error is None:
        return None
    return error.message if isinstance(error, ClusterctlError) else f"{type(error).__name__}: {error}"


def _own_secrets(inventory: Inventory) -> Iterator[str]:
    """Secrets that this machine knows: values in the inventory, and what its secrets' files hold."""
    said = inventory.model_dump(mode="json")
    # Names that say «key» of what is none: ssh.key and nodes[].key are paths, serve.api_key is how it is made.
    said["nodes"] = [{name: value for name, value in node.items() if name != "key"} for node in said["nodes"]]
    said["serve"].pop("api_key")
    yield from secret_values({key: value for key, value in said.items() if key != "ssh"})
    for section in said.values():
        for key, value in section.items() if isinstance(section, Mapping) else ():
            if isinstance(value, str) and key.endswith(("token_file", "api_key_file")):
                try:
                    yield from Path(value).read_text(encoding="utf-8").split()
                except (OSError, ValueError):
                    continue  # the containers hold the same


def _look(node: _Node, cluster: str) -> None:
    """The node's containers, and the secrets that their texts must be cleared of."""
    node.host.ssh.run(["true"], timeout_s=ALIVE_S, read_only=True)
    node.answers = True
    containers = tuple(
        container for container in node.host.engine.containers(cluster) if _label(container, LABEL_ROLE) != ROLE_PROBE
    )
    for container in containers:
        node.secrets += secret_values(container)
        try:
            for path in SECRET_FILES:
                content = node.host.engine.read_file(container["Id"], path)
                node.secrets += (content or b"").decode(errors="replace").split()
        except ClusterctlError:
            node.sealed.add(container["Id"])
    node.inspected = containers


def _label(inspected: Mapping[str, Any], name: str) -> str:
    return str((inspected["Config"].get("Labels") or {}).get(name, ""))


Job = tuple[str, Callable[[], None]]
"""What it is, and the work; the work puts its pieces into the store, or raises."""


def _run(asked: Mapping[str, Sequence[Job]], store: _Store, limits: Limits, deadline: float) -> None:
    """All nodes' jobs, a few of each node at once; what is not done at the deadline is recorded as missing."""
    pools = {name: ThreadPoolExecutor(SESSIONS, thread_name_prefix=f"evidence-{name}") for name in asked}
    try:
        futures = [(n, what, pools[n].submit(work)) for n, jobs in asked.items() for what, work in jobs]
        _wait([future for _, _, future in futures], deadline)
        for name, what, future in futures:
            if problem := _problem(future, limits.total_s):
                store.miss(name, what, problem)
    finally:
        for pool in pools.values():
            # Not waited for: a hung node must not hold up the others' evidence.
            pool.shutdown(wait=False, cancel_futures=True)


def _node_jobs(node: _Node, inventory: Inventory, store: _Store, limits: Limits) -> Iterator[Job]:
    """Everything that one node is asked for, the most telling first."""
    host, place = node.host, f"nodes/{node.host.name}"
    for inspected in node.inspected or ():
        inside = f"{place}/containers/{str(inspected['Name']).strip('/')}"
        if inspected["Id"] in node.sealed:
            yield f"{inside}: log and files", _withheld
        else:
            yield f"{inside}: log", _job(_log, node, inspected["Id"], inside, store, limits)
            yield f"{inside}: files", _job(_files, node, inspected["Id"], inside, store)
        yield f"{inside}: inspect", _job(store.put_json, f"{inside}/inspect.json", inspected)
    yield "dmesg", _job(_kernel, node, store, limits, sudo=inventory.container.sudo)
    for file, argv in COMMANDS.items():
        yield " ".join(argv), _job(_command, host, argv, f"{place}/{file}", store, limits)
    if node.inspected is not None:
        yield "docker info", _job(_engine, host.engine.info, f"{place}/engine-info.json", store)
        yield "docker version", _job(_engine, host.engine.version, f"{place}/engine-version.json", store)
    for inspected in node.inspected or ():
        if inspected["Id"] not in node.sealed:
            inside = f"{place}/containers/{str(inspected['Name']).strip('/')}"
            yield f"{inside}: Ray's logs", _job(_ray, node, inspected["Id"], inside, store, limits)


def _job(work: Callable[..., object], *args: object, **named: object) -> Callable[[], None]:
    return lambda: (work(*args, **named), None)[1]


def _withheld() -> None:
    raise ClusterctlError("withheld: the container's secrets could not be read, so they could not be taken out of it")


def _command(host: Host, argv: Sequence[str], path: str, store: _Store, limits: Limits) -> str:
    done = host.ssh.run([*_WITH_PATH, *argv], timeout_s=limits.item_s, read_only=True)
    if done.exit_code == 127:
        raise ClusterctlError(f"the node has no `{argv[0]}`")
    if done.exit_code and not done.stdout:
        raise ClusterctlError(f"exit code {done.exit_code}: {done.stderr.decode(errors='replace').strip()}")
    code = f"\n[exit code {done.exit_code}] ".encode() if done.exit_code else b""
    return store.put(path, done.stdout + code + done.stderr)


def _kernel(node: _Node, store: _Store, limits: Limits, *, sudo: bool) -> None:
    script = _SUDO_KERNEL if sudo else _KERNEL
    node.kernel = _command(node.host, ["sh", "-c", script], f"nodes/{node.host.name}/dmesg.txt", store, limits)
    if not any(t is not None for t, _ in kernel_log.timed(node.kernel)):
        raise ClusterctlError("the kernel's log is empty or may not be read by this login (kernel.dmesg_restrict)")


def _engine(ask: Callable[[], dict[str, Any]], path: str, store: _Store) -> None:
    store.put_json(path, ask())


def _log(node: _Node, container: str, inside: str, store: _Store, limits: Limits) -> None:
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


class Tail:
    """The end of a stream, cut between lines: a secret must not be cut in two."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self.dropped = 0
        self.lines = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self._chunks.append(data)
        self._size += len(data)
        self.lines += data.count(b"\n")
        while self._size > self._limit and len(self._chunks) > 1:
            gone = len(self._chunks.popleft())
            self._size -= gone
            self.dropped += gone

    @property
    def cut(self) -> str | None:
        """What was left out, if anything was."""
        size = f"{self._limit / MIB:g} MiB" if self._limit >= MIB else f"{self._limit} bytes"
        return f"only the last {size}" if self.dropped or self._size > self._limit else None

    def content(self) -> bytes:
        """The end, from the beginning of a line; nothing of a line that is longer than all of it."""
        data = b"".join(self._chunks)
        if self.dropped or len(data) > self._limit:
            data = data[-self._limit :].partition(b"\n")[2]
        return data


def whole_lines(chunks: Iterable[LogChunk]) -> Iterator[LogChunk]:
    """Frames that each begin with a time, as the text that was written: the time stands before whole lines only.

    The engine splits lines at 16 KiB and puts the time before each part, also in the middle of a secret.
    """
    middle = {"stdout": False, "stderr": False}
    for chunk in chunks:
        data = chunk.data[STAMP_BYTES:] if middle[chunk.stream] else chunk.data
        middle[chunk.stream] = not chunk.data.endswith(b"\n")
        yield LogChunk(chunk.stream, data)


def _files(node: _Node, container: str, inside: str, store: _Store) -> None:
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


def _ray(node: _Node, container: str, inside: str, store: _Store, limits: Limits) -> None:
    """Ray's session logs, each from its end, as one stream: nothing is run in the container."""
    chunks = node.host.engine.archive(container, RAY_LOGS)
    if chunks is None:
        return  # Ray never started there
    deadline = time.monotonic() + limits.item_s
    size = read = 0
    try:
        with tarfile.open(fileobj=_Stream(chunks), mode="r|") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                left = min(limits.ray_file_bytes, limits.ray_bytes - size)
                read += member.size
                if left <= 0 or read > 8 * limits.ray_bytes or time.monotonic() > deadline:
                    raise ClusterctlError(f"cut at {member.name}: only the first {size / MIB:.1f} MiB of Ray's logs")
                tail = Tail(left)
                file = tar.extractfile(member)
                while file is not None and (part := file.read(64 * 1024)):
                    tail.add(part)
                data = tail.content()
                size += len(data)
                name = member.name.partition("/")[2] or member.name
                text = store.put(f"{inside}/ray/{name}", data, tail.cut)
                if name.endswith(RAY_TOLD):
                    node.ray[f"ray/{name}"] = text[-DIAGNOSED_BYTES // 8 :]
    except tarfile.TarError as error:
        raise ClusterctlError(f"the stream of Ray's logs broke: {error}") from error


class _Stream(io.RawIOBase):
    """A file of chunks, for tarfile."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest += chunk
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _node_evidence(node: _Node) -> NodeEvidence:
    if node.inspected is None:
        containers = None
    else:
        containers = tuple(_container_evidence(node, inspected) for inspected in node.inspected)
    clock = node.kernel.partition("\n")[0].split()
    now = float(clock[2]) if len(clock) == 3 and clock[0] == "clock" and clock[2].isdigit() else None
    return NodeEvidence(containers, node.kernel, dict(node.ray), now)


def _container_evidence(node: _Node, inspected: Mapping[str, Any]) -> ContainerEvidence:
    state = inspected["State"]
    return ContainerEvidence(
        name=str(inspected["Name"]).lstrip("/"),
        role=_label(inspected, LABEL_ROLE),
        status=str(state["Status"]),
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        restarts=int(inspected.get("RestartCount") or 0),
        started_t=_unix(str(state.get("StartedAt") or "")),
        state=node.states.get(inspected["Id"], {}),
        log=node.logs.get(inspected["Id"], ""),
    )


def _unix(text: str) -> float | None:
    """Unix time of what the engine writes; None for its «never» (year 1)."""
    try:
        t = datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return t if t > 0 else None


# Writing


def _of_the_cluster(
    store: _Store,
    inventory: Inventory,
    facts: ClusterFacts | None,
    evidence: Evidence,
    inventory_file: Path | None,
) -> None:
    """What is not one node's: inventory, facts, findings, plan, the error."""
    store.put("inventory-as-read.yaml", yaml.safe_dump(inventory.model_dump(mode="json"), sort_keys=False))
    if inventory_file is not None:
        try:
            store.put("inventory.yaml", inventory_file.read_bytes())
        except OSError as error:
            store.miss("", "inventory.yaml", str(error.strerror))
    if facts is not None:
        store.put_json("facts.json", asdict(facts))
        lines = [line for finding in evidence.findings for line in finding.lines()]
        store.put("findings.txt", "\n".join(lines or ["no finding"]) + "\n")
        store.put_json("findings.json", [finding.to_json() for finding in evidence.findings])
        _plan(store, inventory, facts)
    if evidence.error:
        store.put("error.txt", evidence.error + "\n")


def _plan(store: _Store, inventory: Inventory, facts: ClusterFacts) -> None:
    """What `up` would do now, where that can be said."""
    if facts.unreachable:
        store.miss("", "plan", "there is none while a node cannot be read")
        return
    try:
        plan = make_plan(resolve(inventory, facts), facts)
        store.put("plan.txt", "\n".join(plan.lines()) + "\n")
        store.put_json("plan.json", plan.to_json())
    except ClusterctlError as error:
        store.miss("", "plan", error.message)
    except Exception as error:  # noqa: BLE001 (odd facts of a broken cluster must not cost the rest)
        store.miss("", "plan", f"it cannot be made: {type(error).__name__}: {error}")


def _write(
    file: io.BufferedWriter, target: Path, name: str, store: _Store, *, bundle: Bundle, collected_at: datetime
) -> None:
    manifest = {
        "clusterctl": __version__,
        "command": shlex.join(sys.argv),
        "collected_at": collected_at.isoformat(timespec="seconds"),
        **bundle.to_json(),
        "path": target.name,
        "files": {path: {"bytes": size, "cut": store.cut.get(path)} for path, (_, size) in sorted(store.items.items())},
    }
    readme = store.redactor.text(readme_text(bundle, store.items, store.cut, collected_at, shlex.join(sys.argv)))
    try:
        with file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as tar:
            stamp = int(collected_at.timestamp())
            _add(tar, f"{name}/README.txt", readme.encode("utf-8", "surrogateescape"), stamp)
            _add(tar, f"{name}/manifest.json", store.redactor.json(manifest).encode("utf-8", "surrogateescape"), stamp)
            for path, (content, _) in sorted(store.items.items()):
                _add(tar, f"{name}/{path}", zlib.decompress(content), stamp)
        _part_of(target).rename(target)
    except OSError as error:
        raise ClusterctlError(f"cannot write {target}: {error.strerror}", hint="is the disk full?") from error


def _add(tar: tarfile.TarFile, path: str, data: bytes, stamp: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode, entry.mtime = len(data), 0o600, stamp
    tar.addfile(entry, io.BytesIO(data))


def readme_text(
    bundle: Bundle,
    items: Mapping[str, tuple[bytes, int]],
    cut: Mapping[str, str],
    collected_at: datetime,
    command: str,
) -> str:
    """What stands at the top of the bundle."""
    sizes = {
        path: f"{size} bytes" + (f", {cut[path]}" if path in cut else "") for path, (_, size) in sorted(items.items())
    }
    lines = [
        f"Evidence of the cluster {bundle.cluster}, {collected_at:%Y-%m-%d %H:%M:%S} UTC",
        f"clusterctl {__version__}: {command}",
        "Secrets were replaced by ***.",
        "",
        *summary(bundle),
        "",
        "What is in it",
        *(f"  {path} ({said})" for path, said in sizes.items()),
    ]
    return "\n".join(lines) + "\n"


def summary(bundle: Bundle) -> Iterator[str]:
    """The result for a person: what there is, ranked causes, what could not be got."""
    yield bundle.situation
    for name, reason in bundle.unreachable.items():
        yield f"not reached: {name}: {reason}"
    yield ""
    if bundle.causes:
        yield "Causes, the best first"
    elif bundle.unexplained:
        yield "No cause was found. `clusterctl status` says what it does now, `clusterctl logs` what it said."
    else:
        yield "Nothing wrong was found."
    for number, cause in enumerate(bundle.causes, start=1):
        first, *rest = cause.lines()
        yield f"{number}. {first}"
        yield from (f" {line}" for line in rest)
    if bundle.missed:
        yield ""
        yield "Not got"
        yield from (f"  {missed}" for missed in bundle.missed)
