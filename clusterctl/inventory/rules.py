"""Rules across fields, as pure functions of the raw data.

They read the data before and apart from its validation, so that one mistake does not hide another: a value of the
wrong type counts as absent here, and validation reports it.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)

from clusterctl.findings.codes import CODES, NEVER_WAIVED
from clusterctl.inventory.issue import Issue, KeyPath, listed, nearest, path_text, quoted
from clusterctl.inventory.layout import resolve_layout, uneven_stages
from clusterctl.inventory.model import DERIVED_ENV, OPTION_PATTERN, OWNED_OPTIONS, RayPorts, Serve
from clusterctl.inventory.raw import address, dig, entries, items, network, size, text, whole

NON_PUBLIC = tuple(
    IPv4Network(cidr)
    for cidr in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",  # shared address space: never routed on the Internet, although is_private is False
        "169.254.0.0/16",  # link-local: two machines joined by a cable
        "198.18.0.0/15",
        "192.0.2.0/24",
        "198.51.100.0/24",
        "203.0.113.0/24",
    )
)
"""A list instead of `is_private`, which looks at the first and last address only in some Python versions: 0.0.0.0/0
would be private."""
UNUSABLE = tuple(IPv4Network(cidr) for cidr in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4"))
"""Networks in which no node can have an address: this host, loopback, multicast, reserved."""

RESERVED_IN_CONTAINER = ("/etc/clusterctl", "/opt/clusterctl")
SMALLEST_WORKER_PORT = 1024
"""Ray refuses worker ports below it."""

SECRET_NAME = re.compile(r"(^|_)(TOKEN|SECRET|API_KEY|ACCESS_KEY|PRIVATE_KEY|SECRET_KEY)$|PASSWORD$|PASSWD$", re.I)

INSTEAD_OF_OPTION: Mapping[str, str] = {
    "model": "use model.path",
    "served-model-name": "use model.name",
    "host": "use serve.host",
    "port": "use serve.port",
    "tensor-parallel-size": "use serve.tensor_parallel",
    "pipeline-parallel-size": "use serve.pipeline_parallel",
    "distributed-executor-backend": "leave it out: the nodes are joined by Ray",
    "config": "write its content under serve.options",
    "api-key": "leave it out: as an option the key would show in `ps`",
    "nnodes": "leave it out: it follows from nodes",
    "node-rank": "leave it out: it follows from nodes",
    "master-addr": "leave it out: it follows from head",
    "master-port": "leave it out: the nodes are joined by Ray",
    "headless": "leave it out: it follows from head",
    "shutdown-timeout": "use timeouts.drain_s",
}
SHORT_OPTIONS: Mapping[str, str] = {"tp": "tensor-parallel-size", "pp": "pipeline-parallel-size"}

Rule = Callable[[object], Iterator[Issue]]


def broken_rules(data: object) -> list[Issue]:
    """Every broken rule."""
    return [issue for rule in RULES for issue in rule(data)]


def declared_network(data: object) -> IPv4Network | None:
    """The nodes' network, if it is one."""
    given = text(dig(data, "network", "cidr"))
    found = network(given)
    return found if isinstance(found, IPv4Network) and "/" in (given or "") else None


# The file and its nodes.


def version(data: object) -> Iterator[Issue]:
    """Here, because true and 1.0 equal 1 for pydantic."""
    given = dig(data, "version")
    if given is not None and (whole(given) is None or given != 1):
        yield Issue(("version",), "this clusterctl reads version 1 of the format", "write version: 1")


def node_names(data: object) -> Iterator[Issue]:
    """Names are how nodes are told apart, in every message and in `--node`."""
    return repeated(data, "name", lambda node: text(dig(node, "name")))


def node_hosts(data: object) -> Iterator[Issue]:
    """Two nodes behind one SSH address are one machine, unless port or jump host tell them apart (the lab)."""

    def door(node: object) -> object:
        host = text(dig(node, "host"))
        if host is None:
            return None
        return host.lower(), *(dig(node, name) or dig(data, "ssh", name) for name in ("port", "jump"))

    return repeated(data, "host", door)


def node_addresses(data: object) -> Iterator[Issue]:
    """One address twice is the classic «Every node should have a unique IP address» (F1)."""
    return repeated(data, "address", lambda node: address(dig(node, "address")))


def repeated(data: object, field: str, identity: Callable[[object], object]) -> Iterator[Issue]:
    """Nodes that have the same `identity` as one before them."""
    first: dict[object, int] = {}
    for index, node in enumerate(items(dig(data, "nodes"))):
        value = hashable(identity(node))
        if value is None:
            continue
        if value in first:
            message = f"{quoted(str(dig(node, field)))} is already the {field} of nodes[{first[value]}]"
            yield Issue(("nodes", index, field), message, "every node needs its own")
        first.setdefault(value, index)


def hashable(value: object) -> object:
    """The value as a dictionary's key, whatever was written in the file."""
    return value if value is None or isinstance(value, str | IPv4Address | IPv6Address) else repr(value)


def head(data: object) -> Iterator[Issue]:
    """`head` must name a node."""
    given = text(dig(data, "head"))
    names = [name for node in items(dig(data, "nodes")) if (name := text(dig(node, "name")))]
    if given is None or not names or given in names:
        return
    near = nearest(given, names)
    few = f"nodes: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
    yield Issue(("head",), f"no node has the name {quoted(given)}", f"did you mean {near}?" if near else few)


# Addresses.


def cidr(data: object) -> Iterator[Issue]:
    """The network itself: usable, private, and large enough."""
    place = ("network", "cidr")
    given = text(dig(data, *place))
    found = network(given)
    if given is None or found is None:
        return
    if isinstance(found, IPv6Network):
        yield Issue(place, f"{quoted(given)} is an IPv6 network; IPv4 only for now")
        return
    nodes = len(items(dig(data, "nodes")))
    hosts = found.num_addresses - (2 if found.prefixlen < 31 else 0)  # /31 is a link between two, without broadcast
    if "/" not in given:
        yield Issue(place, f"{quoted(given)} has no prefix length", f"write the size too, such as {given}/24")
    elif str(ip_address(given.split("/")[0])) != str(found.network_address):
        yield Issue(place, f"{quoted(given)} has host bits set", f"did you mean {found}?")
    elif hosts < nodes:
        message = f"{quoted(given)} has room for {hosts}, and there are {nodes} nodes"
        yield Issue(place, message, "give a shorter prefix")
    if any(found.overlaps(unusable) for unusable in UNUSABLE):
        yield Issue(place, f"{quoted(given)} has addresses that no node can have", "give the nodes' private network")
    elif dig(data, "network", "allow_public") is not True and not is_private(found):
        hint = "traffic on it is unencrypted and can be abused to run code (F66); network.allow_public accepts it"
        yield Issue(place, f"{quoted(given)} has public addresses", hint)


def is_private(found: IPv4Network) -> bool:
    """Whether no address of the network is routed on the Internet."""
    return any(found.subnet_of(private) for private in NON_PUBLIC)


def address_in_network(data: object) -> Iterator[Issue]:
    """A node's address must be a usable one of the declared network."""
    inside = declared_network(data)
    for index, node in enumerate(items(dig(data, "nodes"))):
        found = address(dig(node, "address"))
        place = ("nodes", index, "address")
        if isinstance(found, IPv6Address):
            yield Issue(place, f'"{found}" is an IPv6 address; IPv4 only for now')
        elif found is not None and inside is not None:
            yield from misplaced(found, inside, place)


def misplaced(found: IPv4Address, inside: IPv4Network, place: KeyPath) -> Iterator[Issue]:
    """What keeps the address from being a node's in the network."""
    if found not in inside:
        yield Issue(place, f'"{found}" is outside network.cidr {inside}', "give the node's address in that network")
    elif inside.prefixlen < 31 and found == inside.network_address:
        yield Issue(place, f'"{found}" is the network address of {inside}, not a node\'s')
    elif inside.prefixlen < 31 and found == inside.broadcast_address:
        yield Issue(place, f'"{found}" is the broadcast address of {inside}, not a node\'s')


def serve_host(data: object) -> Iterator[Issue]:
    """Any IPv4 address may be given."""
    found = address(dig(data, "serve", "host"))
    if isinstance(found, IPv6Address):
        yield Issue(("serve", "host"), f'"{found}" is an IPv6 address; IPv4 only for now')


# Ports.


@dataclass(frozen=True)
class Listener:
    """Ports that something on a node listens on, and whether the file says so."""

    path: KeyPath
    first: int
    last: int
    given: bool

    @property
    def ports(self) -> str:
        """As messages show them."""
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


def ports(data: object) -> Iterator[Issue]:
    """On the head everything listens, so no two may share a port (F43, F57)."""
    taken: dict[Listener, list[str]] = {}
    for one, other in itertools.combinations(listeners(data), 2):
        if one.last < other.first or other.last < one.first:
            continue
        at, against = (other, one) if other.given else (one, other)
        by_default = "" if against.given else " by default"
        taken.setdefault(at, []).append(f"{path_text(against.path)} has {against.ports}{by_default}")
    for at, others in taken.items():
        yield Issue(at.path, f"{at.ports} is taken: {listed(others, 'and')}", "give each its own ports")


def listeners(data: object) -> Iterator[Listener]:
    """Everything that listens, with defaults filled in. What is not a port is left out."""
    for name in RayPorts.model_fields:
        if name != "workers":
            yield from single_port(data, ("ray", "ports", name), getattr(RayPorts(), name))
    workers = worker_range(data)
    if workers is not None and workers.first <= workers.last:
        yield workers
    yield from single_port(data, ("serve", "port"), Serve().port)


def single_port(data: object, place: KeyPath, default: int) -> Iterator[Listener]:
    """One port, from the file or by default."""
    given = place[-1] in entries(dig(data, *place[:-1]))
    port = whole(dig(data, *place)) if given else default
    if port is not None:
        yield Listener(place, port, port, given)


def worker_range(data: object) -> Listener | None:
    """The workers' ports; None when the file does not give them rightly."""
    place = ("ray", "ports", "workers")
    if "workers" not in entries(dig(data, "ray", "ports")):
        return Listener(place, RayPorts().workers.first, RayPorts().workers.last, given=False)
    first, last = whole(dig(data, *place, "first")), whole(dig(data, *place, "last"))
    return None if first is None or last is None else Listener(place, first, last, given=True)


def worker_ports(data: object) -> Iterator[Issue]:
    """The range must be one, and hold a process for each accelerator and the server."""
    workers = worker_range(data)
    if workers is None:
        return
    needed = (accelerators_needed(data) or 1) + 1
    size = workers.last - workers.first + 1
    if size <= 0:
        yield Issue(workers.path, f"first {workers.first} is above last {workers.last}", "exchange them")
    elif workers.first < SMALLEST_WORKER_PORT:
        yield Issue(workers.path, f"begins at {workers.first}, and Ray refuses ports below {SMALLEST_WORKER_PORT}")
    elif size < needed:
        message = f"has {size} ports, and a node needs at least {needed}: one for each accelerator and the server"
        yield Issue(workers.path, message, "give some hundreds: Ray also keeps an idle worker for each CPU core")


# Environment.


def environments(data: object) -> Iterator[tuple[KeyPath, str]]:
    """Every variable that the file sets."""
    places: list[KeyPath] = [("container", "env")]
    places += [("nodes", index, "env") for index in range(len(items(dig(data, "nodes"))))]
    for place in places:
        for name in entries(dig(data, *place)):
            yield (*place, name), name


def derived_env(data: object) -> Iterator[Issue]:
    """Values that differ from node to node are clusterctl's."""
    for place, name in environments(data):
        if name.upper() in DERIVED_ENV:
            yield Issue(place, "clusterctl derives this variable on every node itself", "leave it out")


def secret_env(data: object) -> Iterator[Issue]:
    """Secrets do not belong in a container's environment, nor in an inventory that is in version control."""
    for place, name in environments(data):
        if name.upper() not in DERIVED_ENV and SECRET_NAME.search(name):
            hint = "leave it out (a model at model.path needs no token), or mount a 0600 file with container.volumes"
            yield Issue(place, "this looks like a secret, and `docker inspect` shows environment to everyone", hint)


# Container.


def shared_memory(data: object) -> Iterator[Issue]:
    """`shm_bytes` is of a private IPC namespace."""
    given = "shm_bytes" in entries(dig(data, "container"))
    if given and dig(data, "container", "ipc") == "host":
        message = "has no effect: with ipc host the container uses the node's own /dev/shm"
        yield Issue(("container", "shm_bytes"), message, "leave it out, or set container.ipc: private")


def ulimits(data: object) -> Iterator[Issue]:
    """A soft limit above the hard one is refused by the kernel."""
    for name, limit in entries(dig(data, "container", "ulimits")).items():
        soft, hard = whole(dig(limit, "soft")), whole(dig(limit, "hard"))
        if soft is None or hard is None or hard == -1 or -1 < soft <= hard:
            continue
        yield Issue(("container", "ulimits", name), f"soft {soft} is above hard {hard}", "lower soft or raise hard")


def volumes(data: object) -> Iterator[Issue]:
    """Mounts must not hide each other, the model, or what clusterctl puts into the container."""
    model = text(dig(data, "model", "path"))
    first: dict[str, int] = {}
    for index, volume in enumerate(items(dig(data, "container", "volumes"))):
        target = mount_target(volume)
        if target is None:
            continue
        place = ("container", "volumes", index)
        reserved = [kept for kept in RESERVED_IN_CONTAINER if covers(target, kept) or covers(kept, target)]
        if target in first:
            message = f"{quoted(target)} is already the target of container.volumes[{first[target]}]"
            yield Issue(place, message, "mount each at its own path")
        elif reserved:
            message = f"{quoted(target)} would collide with {reserved[0]}, which clusterctl uses itself"
            yield Issue(place, message, "mount it elsewhere")
        elif model and covers(target, posixpath.normpath(model)):
            message = f"{quoted(target)} would cover model.path {quoted(model)}, which is mounted by itself"
            yield Issue(place, message, "leave it out, or mount it elsewhere")
        first.setdefault(target, index)


def mount_target(volume: object) -> str | None:
    """The path in the container of /on/node:/in/container[:ro]."""
    parts = volume.split(":") if isinstance(volume, str) else []
    if len(parts) not in (2, 3) or not parts[1].startswith("/"):
        return None
    return posixpath.normpath("/" + parts[1].lstrip("/"))


def covers(above: str, path: str) -> bool:
    """Whether a mount at `above` hides `path`."""
    return path == above or path.startswith(above.rstrip("/") + "/")


def model_path(data: object) -> Iterator[Issue]:
    """The model's directory is mounted at its own path, so it must be a plain one, and not the root."""
    given = text(dig(data, "model", "path"))
    if given is None or not given.startswith("/"):
        return
    plain = posixpath.normpath("/" + given.lstrip("/"))
    if plain == "/":
        yield Issue(("model", "path"), "the root directory cannot be the model", "give the model's own directory")
    elif given.rstrip("/") != plain:
        yield Issue(("model", "path"), f"{quoted(given)} is not a plain path", f"write {plain}")
    elif any(covers(kept, plain) or covers(plain, kept) for kept in RESERVED_IN_CONTAINER):
        yield Issue(("model", "path"), f"{quoted(given)} would collide with what clusterctl keeps in the container")


# Accelerators and server.


def accelerators(data: object) -> Iterator[Issue]:
    """A CPU has no accelerators to count."""
    section = entries(dig(data, "accelerator"))
    if section.get("kind") == "cpu" and section.get("per_node", "auto") == "auto":
        message = "kind cpu has no accelerators to count"
        yield Issue(("accelerator", "per_node"), message, "give the number of slots, such as per_node: 1")


def layout(data: object) -> Iterator[Issue]:
    """Tensor × pipeline parallel must fit the nodes, as far as the file tells."""
    nodes = len(items(dig(data, "nodes")))
    tensor, pipeline = size(data, "serve", "tensor_parallel"), size(data, "serve", "pipeline_parallel")
    per_node = size(data, "accelerator", "per_node")
    if nodes == 0 or tensor is None or pipeline is None or per_node is None:
        return
    too_wide = isinstance(tensor, int) and isinstance(per_node, int) and tensor > per_node
    place = ("serve", "tensor_parallel" if too_wide or pipeline == "auto" else "pipeline_parallel")
    try:
        if per_node != "auto":
            resolve_layout(nodes, per_node, tensor, pipeline)
        elif pipeline != "auto" and (uneven := uneven_stages(nodes, pipeline)):
            yield Issue(place, uneven)
    except ValueError as error:
        yield Issue(place, str(error))


def accelerators_needed(data: object) -> int | None:
    """Accelerators of one node, when the file tells."""
    per_node = size(data, "accelerator", "per_node")
    return None if per_node == "auto" else per_node


def option_names(data: object) -> Iterator[Issue]:
    """Options are written as in `vllm serve --help`, without dashes in front, and must not contradict other fields."""
    for name, value in entries(dig(data, "serve", "options")).items():
        place = ("serve", "options", name)
        spelled = re.sub(r"[_\s]+", "-", name.strip().lstrip("-").lower())
        meant = SHORT_OPTIONS.get(spelled, spelled)
        if meant in OWNED_OPTIONS:
            yield Issue(place, "clusterctl sets this option itself", INSTEAD_OF_OPTION[meant])
        elif meant == "disable-log-stats" and value is not False:
            # With it vLLM 0.32 has no vllm: metrics, by which agent.py sees progress behind a canary that waits.
            message = "without vLLM's metrics a server that is busy cannot be told from one that hangs"
            yield Issue(place, message, "leave it out")
        elif not re.fullmatch(OPTION_PATTERN, name):
            usable = re.fullmatch(OPTION_PATTERN, spelled)
            message = "options are written in lower case, with dashes between words and none in front"
            yield Issue(place, message, f"write {spelled}" if usable else None)
        elif value is None:
            yield Issue(place, "has no value", "write true for an option that takes none")


def api_key(data: object) -> Iterator[Issue]:
    """A key from a file, and none at all, contradict each other."""
    if dig(data, "serve", "api_key") == "off" and dig(data, "serve", "api_key_file") is not None:
        message = "has no effect: serve.api_key is off"
        yield Issue(("serve", "api_key_file"), message, "leave it out, or leave serve.api_key out")


TLS_FILES = ("ssl-certfile", "ssl-keyfile", "ssl-ca-certs")
"""Options of `vllm serve` (0.32) whose values are paths that the server opens, in the container."""


def tls(data: object) -> Iterator[Issue]:
    """https needs a certificate and its key, both where the server can read them; clients show none."""
    options = entries(dig(data, "serve", "options"))
    mounts = [target for volume in items(dig(data, "container", "volumes")) if (target := mount_target(volume))]
    mounts += [path for path in (text(dig(data, "model", "path")),) if path]
    for name in TLS_FILES:
        place = ("serve", "options", name)
        if name not in options:
            continue
        path = text(options[name])
        if path is None or not path.startswith("/") or posixpath.normpath(path) != path:
            yield Issue(place, "must be a plain absolute path in the container", "such as /etc/tls/api.pem")
        elif not any(covers(mount, path) for mount in mounts):
            message = f"{quoted(path)} is below no mount of the container, so the server would not find it"
            folder = posixpath.dirname(path)
            yield Issue(place, message, f"mount it: container.volumes: [{folder}:{folder}:ro]")
    for given, other in (("ssl-certfile", "ssl-keyfile"), ("ssl-keyfile", "ssl-certfile")):
        if given in options and other not in options:
            yield Issue(("serve", "options", given), f"needs {other} beside it", "vLLM takes both or neither")
    if options.get("ssl-cert-reqs", 0) != 0:
        message = "asks clients for certificates, and clusterctl's own completions have none to show"
        yield Issue(("serve", "options", "ssl-cert-reqs"), message, "ask for them in a reverse proxy before the API")


# Waivers.


def waivers(data: object) -> Iterator[Issue]:
    """A misspelt code would waive nothing, and nobody would notice before the day it is needed."""
    first: dict[str, int] = {}
    for index, value in enumerate(items(dig(data, "waive"))):
        code = text(value)
        if code is None:
            continue
        place = ("waive", index)
        if code in first:
            yield Issue(place, f"{quoted(code)} is already waive[{first[code]}]", "leave one of them out")
        elif code in NEVER_WAIVED:
            yield Issue(place, f"{quoted(code)} cannot be waived", "nothing can be started without what it misses")
        elif code not in CODES:
            near = nearest(code, CODES - NEVER_WAIVED)
            hint = f"did you mean {near}?" if near else "the codes are in docs/reference/findings.md"
            yield Issue(place, f"no finding has the code {quoted(code)}", hint)
        first.setdefault(code, index)


RULES: tuple[Rule, ...] = (
    version,
    node_names,
    node_hosts,
    node_addresses,
    head,
    cidr,
    address_in_network,
    serve_host,
    ports,
    worker_ports,
    derived_env,
    secret_env,
    shared_memory,
    ulimits,
    volumes,
    model_path,
    accelerators,
    layout,
    option_names,
    api_key,
    tls,
    waivers,
)
