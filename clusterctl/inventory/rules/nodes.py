"""Rules for the list of nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

from clusterctl.inventory.issue import Issue, KeyPath, nearest, quoted
from clusterctl.inventory.model import THIS_MACHINE, Ssh
from clusterctl.inventory.raw import address, dig, entries, items, text, whole

# The file and its nodes.


def version(data: object) -> Iterator[Issue]:
    """Here, because true and 1.0 equal 1 for pydantic."""
    given = dig(data, "version")
    if given is not None and (whole(given) is None or given != 1):
        yield Issue(("version",), "this clusterctl reads version 1 of the format", "write version: 1")


def node_names(data: object) -> Iterator[Issue]:
    """Names distinguish the nodes, in every message and in `--node`."""
    return repeated(data, "name", lambda node: text(dig(node, "name")))


def node_hosts(data: object) -> Iterator[Issue]:
    """Two nodes behind one SSH address are one machine, unless port or jump host differ (the lab)."""

    def door(node: object) -> object:
        host = text(dig(node, "host"))
        if host is None:
            return None
        return host.lower(), *(dig(node, name) or dig(data, "ssh", name) for name in ("port", "jump"))

    return repeated(data, "host", door)


def this_machine(data: object) -> Iterator[Issue]:
    """`localhost` is this machine without SSH, and there is one of it."""
    nodes = items(dig(data, "nodes"))
    for index, node in enumerate(nodes):
        if (text(dig(node, "host")) or "").lower() != THIS_MACHINE:
            continue
        if len(nodes) > 1:
            message = "is this machine itself, without SSH, and serves alone"
            yield Issue(("nodes", index, "host"), message, "give the name or address by which the other nodes know it")
            continue
        given: list[KeyPath] = [("nodes", index, name) for name in Ssh.model_fields if name in entries(node)]
        given += [("ssh",)] if "ssh" in entries(data) else []
        for place in given:
            yield Issue(place, "has no effect: localhost is reached without SSH", "remove it, or use 127.0.0.1 for SSH")


def node_addresses(data: object) -> Iterator[Issue]:
    """One address twice is the classic "Every node should have a unique IP address" (F1)."""
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
            yield Issue(("nodes", index, field), message, "every node needs a different one")
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
    yield Issue(("head",), f"no node is named {quoted(given)}", f"did you mean {near}?" if near else few)
